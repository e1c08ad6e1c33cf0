"""Checkpoints that are damaged, unfinished, or cannot be written: told of, and nothing lost."""

import logging
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import orbax.checkpoint as ocp
import pytest
from test_training import METRICS_FILE, read_metrics
from toy import Toy, toy_config

from sims_jax.checkpoints import (
    DONE_FILE,
    KEPT,
    Checkpoints,
    digest_params,
    find_damage,
    quiet_orbax,
    read_done,
    restore_finished,
)
from sims_jax.errors import InputError
from sims_jax.training.loop import train
from sims_jax.training.writers import MetricsWriter

SIZE = 40_000  # numbers of a network, so that its file is larger than FILE_LIMIT
FILE_LIMIT = 40_000  # bytes
STEPS = 12


def run(folder, steps=STEPS, **changes) -> str:
    """Trains in `folder`, from its latest checkpoint; the digest of the result."""
    with MetricsWriter(folder) as writer:
        config = toy_config(steps=steps, **changes)
        return digest_params(train(Toy(size=SIZE), config, folder / "toy", writer, 0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, digest) of a run of STEPS steps."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


@pytest.fixture
def begun(tmp_path):
    """The same run, stopped early: steps 4 and 8 are saved."""
    folder = tmp_path / "begun"
    folder.mkdir()
    run(folder, steps=8)
    return folder


def largest_file(checkpoint):
    files = (path for path in (checkpoint / "state").rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {"truncated": truncate, "deleted": os.remove, "flipped": flip}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_goes_on(damage, whole, begun, capsys):
    path = largest_file(begun / "toy" / "8")
    DAMAGES[damage](path)
    left = path.read_bytes() if path.exists() else None
    assert run(begun) == whole[1]
    told = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(told) == 1
    assert str(path) in told[0] and "step 8" in told[0] and "from step 4" in told[0]
    aside = begun / "toy" / "8.damaged" / path.relative_to(begun / "toy" / "8")
    assert left is None or aside.read_bytes() == left
    assert read_metrics(begun) == read_metrics(whole[0])
    assert find_damage(begun / "toy" / str(STEPS)) is None


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "error",
    [MemoryError("boo"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), ValueError("boo")],
)
def test_only_a_damaged_network_is_called_one(error, listed, begun, monkeypatch):
    """Without files.json, what reading it fails with is all that is known."""
    (begun / "toy" / DONE_FILE).write_text("{}")
    if not listed:
        (begun / "toy" / "8" / "files.json").unlink()

    def fail(_):
        raise error

    monkeypatch.setattr(Checkpoints, "restore_ema", fail)
    is_damage = not listed and isinstance(error, ValueError)
    expected = r"found a damaged checkpoint of step 8 \(boo\)" if is_damage else str(error)
    with pytest.raises(InputError if is_damage else type(error), match=expected):
        restore_finished(begun / "toy")


@pytest.mark.parametrize("text", ['{"sha', "[1]", ""])
def test_a_cut_off_done_file_is_told_of(text, begun):
    path = begun / "toy" / DONE_FILE
    path.write_text(text)
    told = rf"^{re.escape(str(path))}: found no JSON object \(.*\), expected .*; delete it and .*$"
    for read in (read_done, restore_finished):
        with pytest.raises(InputError, match=told):
            read(begun / "toy")


def test_what_was_set_aside_before_stays(whole, begun, capsys):
    before = begun / "toy" / "8.damaged"
    before.mkdir()
    truncate(largest_file(begun / "toy" / "8"))
    assert run(begun) == whole[1]
    assert "it is now 8.damaged-2, and" in capsys.readouterr().err
    assert (begun / "toy" / "8.damaged-2" / "state").exists() and not list(before.iterdir())


def test_one_of_an_older_version_is_told_of_and_taken(whole, begun, capsys):
    (begun / "toy" / "8" / "files.json").unlink()
    assert run(begun) == whole[1]
    told = capsys.readouterr().err
    assert "step 8 is of an older version, without files.json, and cannot be verified" in told
    assert "damaged" not in told


def test_every_byte_of_a_checkpoint_is_watched(begun):
    checkpoint = begun / "toy" / "8"
    files = [path for item in ("state", "ema") for path in (checkpoint / item).rglob("*")]
    for path in (path for path in [*files, checkpoint / "files.json"] if path.is_file()):
        before = path.read_bytes()
        for position in {0, len(before) // 3, len(before) - 2}:
            changed = bytearray(before)
            changed[position] ^= 1
            path.write_bytes(changed)
            assert str(path.parent) in find_damage(checkpoint)
        path.write_bytes(before)
        assert find_damage(checkpoint) is None


def test_without_a_whole_checkpoint_nothing_begins_anew(begun):
    for step in (4, 8):
        largest_file(begun / "toy" / str(step)).unlink()
    metrics = (begun / METRICS_FILE).read_text()
    with pytest.raises(InputError, match=r"step 8 is damaged \(.* is missing\), and none before"):
        run(begun)
    assert {path.name for path in (begun / "toy").iterdir()} == {"4", "8"}
    assert (begun / METRICS_FILE).read_text() == metrics


def test_unfinished_saves_are_passed_over(whole, begun):
    for planted in ("9", "12"):
        folder = begun / "toy" / f"{planted}.orbax-checkpoint-tmp"
        shutil.copytree(begun / "toy" / "4", folder)
    with Checkpoints(begun / "toy") as checkpoints:
        assert checkpoints.latest_step == 8
    assert run(begun) == whole[1]
    assert (begun / "toy" / "9.orbax-checkpoint-tmp" / "files.json").exists()


def test_the_newest_are_kept(whole):
    assert {path.name for path in (whole[0] / "toy").iterdir()} == {"8", "12"}
    assert KEPT == 2


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, 6), (60.0, None)])
def test_a_save_comes_after_so_many_minutes(minutes, saved, tmp_path):
    class Stopped(MetricsWriter):
        def write(self, stage, step, metrics):
            super().write(stage, step, metrics)
            if step == 7:
                raise KeyboardInterrupt

    with Stopped(tmp_path) as writer, pytest.raises(KeyboardInterrupt):
        config = toy_config(save_every=100, save_minutes=minutes)
        train(Toy(), config, tmp_path / "toy", writer, 0)
    with Checkpoints(tmp_path / "toy") as checkpoints:
        assert checkpoints.latest_step == saved


GO_ON = """
import pathlib, resource, sys
from test_checkpoints import run
from sims_jax.commands import exit_with_one_line
folder, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
exit_with_one_line(lambda: run(folder))
"""


def test_a_failed_save_is_one_line_and_the_one_before_stays(whole, begun):
    result = subprocess.run(
        [sys.executable, "-c", GO_ON, str(begun), str(FILE_LIMIT)],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
        | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # whose files the limit would be for, too
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in result.stderr.splitlines() if not line.startswith("toy: ")]
    assert result.returncode == 2 and len(errors) == 1, result.stderr
    assert re.search(r"error: .*/toy: a checkpoint could not be saved .*step 8 is whole", errors[0])
    assert find_damage(begun / "toy" / "8") is None
    assert run(begun) == whole[1]


def test_only_a_full_disk_is_told_of_as_one(tmp_path, monkeypatch):
    texts = {"boo": ValueError, "Failed to write: No space left on device [a='b']": InputError}
    for text, expected in texts.items():

        def fail(*_, text=text, **__):
            raise ValueError(text)

        with Checkpoints(tmp_path / "toy") as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "save", fail)
            with pytest.raises(expected, match=r"boo|on device.; none before it is known whole: "):
                checkpoints.save(1, {}, {})


def test_only_what_is_raised_as_well_is_kept_quiet(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    errors = [RuntimeError("Event loop is closed"), RuntimeError("another"), OSError("another")]
    logger = logging.getLogger("absl")
    theirs = logger.makeRecord("absl", logging.ERROR, ocp.__file__, 1, "theirs", (), None)
    with quiet_orbax():
        for error in errors:
            sys.unraisablehook(SimpleNamespace(exc_value=error))
        assert not logger.filter(theirs)
        assert logger.filter(logger.makeRecord("absl", logging.ERROR, __file__, 1, "", (), None))
    assert [unraisable.exc_value for unraisable in heard] == errors[1:]
    assert sys.unraisablehook == heard.append
    assert logger.filter(theirs)
