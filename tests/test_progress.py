"""The ETA is that of what is left, whatever the first step took to compile."""

import pytest
import tqdm.std

from sims_jax.progress import PLAIN_EVERY_S, progress


@pytest.fixture
def run(monkeypatch, capsys):
    """The lines that are told of steps which take as many seconds."""
    now = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])

    def run(seconds, **options):
        with progress("toy", **options) as bar:
            for step_s in seconds:
                now[0] += step_s
                bar.update()
        return capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("done", [0, 6])
def test_the_first_step_is_said_at_once_and_not_counted(run, done):
    total = done + 5
    told = run([100.0] + [PLAIN_EVERY_S + 0.01] * 4, total=total, done=done)
    expected = ["01:40<?", "02:00<01:00", "02:20<00:40", "02:40<00:20", "03:00<00:00"]
    steps = enumerate(expected, done + 1)
    assert list(map(str.strip, told))[:5] == [f"toy: {n}/{total} [{times}]" for n, times in steps]


def test_a_single_step_and_quick_ones(run):
    assert run([100.0], total=1)[0].strip() == "toy: 1/1 [01:40<00:00]"
    assert run([0.1] * 5, total=5) == []
