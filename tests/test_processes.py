"""Jobs of two processes: they train as one does, wait, stop and end together."""

import functools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from conftest import write_config
from test_training import read_metrics
from toy import Toy, toy_config

from sims_jax.checkpoints import Checkpoints, digest_params, restore_finished
from sims_jax.commands import exit_with_one_line
from sims_jax.processes import join, peak_memory, wait_for_all
from sims_jax.training.loop import train
from sims_jax.training.run import Run, make_task
from sims_jax.training.settings import read_settings
from sims_jax.training.writers import MetricsWriter

ROOT = pathlib.Path(__file__).parents[1]
LOST_S = 10  # less, and JAX's heartbeats fail on a machine with much other work
PAUSE_S = 0.02  # of each example, so that a signal comes before the end
STEPS = 60
ATOL = 1e-5  # of parameters, whose sums over processes are rounded otherwise


def start(command, **environment):
    """A process with two devices."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags_without_devices(), "JAX_NUM_CPU_DEVICES": "2"}
        | {"PYTHONPATH": os.pathsep.join(["tests", *sys.path])} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def flags_without_devices() -> str:
    flags = os.environ["XLA_FLAGS"].split()
    return " ".join(flag for flag in flags if "host_platform_device_count" not in flag)


def start_toys(folder, what="train", **environment):
    """Two processes of this file."""
    port = free_port()
    return [start([__file__, what, port, index, folder], **environment) for index in range(2)]


def finish(process) -> tuple[int, list[str]]:
    """(status, lines of standard error without those of libraries)."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.splitlines()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_train_as_one(tiny_config, tmp_path):
    """The whole command, as SLURM starts it: the same parameters but for rounding, read by one."""
    workdir, config = tmp_path / "run", tiny_config.copy_and_resolve_references()
    config.stages = ("bank",)
    Run(config, workdir).run()
    config.stages = ("densifier",)
    path = write_config(config, tmp_path)
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    command = ["train.py", f"--config={path}", f"--workdir={workdir}",
               "--config.distributed=True"]  # fmt: skip
    port = str(free_port())
    running = [
        start(
            command,
            SLURM_PROCID=str(index),
            SLURM_LOCALID=str(index),
            JAX_COORDINATOR_PORT=port,
            **slurm,
        )
        for index in range(2)
    ]
    told = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert "4 devices, cpu (cpu), 2 in each of 2 processes: examples" in told[0][0]
    assert "densifier: done" in told[0][0] and "densifier: " not in told[1][0]

    run, settings = Run(config, workdir), read_settings(config)
    task = make_task("densifier", config, settings, run._store(), run._heldout(), None)
    (tmp_path / "one").mkdir()
    with MetricsWriter(tmp_path / "one") as writer:
        params = train(task, settings.train["densifier"], tmp_path / "one" / "densifier", writer,
                       config.seed, jax.devices()[:4])  # fmt: skip
    found = restore_finished(workdir / "densifier")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=ATOL), found, params)
    lines = [line for line in read_metrics(workdir) if line["stage"] == "densifier"]
    assert_same(lines, read_metrics(tmp_path / "one"))


def assert_same(lines, others) -> None:
    """Metrics of the same steps in the same order; sums over processes are rounded otherwise."""
    assert [(line["stage"], line["step"]) for line in lines] == [
        (line["stage"], line["step"]) for line in others
    ]
    for line, other in zip(lines, others, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Processes that wait for others in vain, all at the same time."""
    folder = tmp_path_factory.mktemp("waiting")
    alone = [start([__file__, "alone", free_port(), index, folder]) for index in range(2)]
    jobs = {"late": start_toys(folder, "late"), "alone": alone}
    yield jobs
    for process in (*jobs["late"], *jobs["alone"]):
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train_toy(tmp_path_factory.mktemp("whole"))


def train_toy(folder) -> tuple[str, list]:
    """On four devices, as two processes have them; what is left to do."""
    with MetricsWriter(folder) as writer:
        params = train(Toy(), toy_config(steps=STEPS), folder / "toy", writer, 0, jax.devices()[:4])
    return digest_params(params), read_metrics(folder)


def assert_goes_on(folder, uninterrupted) -> None:
    """In one process: to the same parameters, and every step is told of once."""
    digest, lines = train_toy(folder)
    assert digest == uninterrupted[0]
    assert_same(lines, uninterrupted[1])


def wait_for_checkpoint(folder, running) -> None:
    while not list((folder / "toy").glob("8")):
        assert all(process.poll() is None for process in running), list(map(finish, running))
        time.sleep(0.01)


def test_sigterm_of_one_stops_all_at_one_step(uninterrupted, tmp_path):
    running = start_toys(tmp_path)
    wait_for_checkpoint(tmp_path, running)
    running[1].send_signal(signal.SIGTERM)
    ended = [finish(process) for process in running]
    assert [status for status, _ in ended] == [143, 143], ended
    said = {lines[-1] for _, lines in ended}
    with Checkpoints(tmp_path / "toy") as checkpoints:
        step = checkpoints.latest_step
    assert 8 <= step < STEPS and len(said) == 1 and f"step {step} is saved" in said.pop()
    assert_goes_on(tmp_path, uninterrupted)


def test_a_killed_process_ends_the_job_which_goes_on_from_there(uninterrupted, tmp_path):
    """Process 0 of one job, process 1 of another, which waits for heartbeats meanwhile."""
    folders = [tmp_path / str(killed) for killed in range(2)]
    for folder in folders:
        folder.mkdir()
    jobs, began = [], []
    for killed, folder in enumerate(folders):
        # Killed, a process may leave half a program behind: not where others read.
        running = start_toys(folder, JAX_COMPILATION_CACHE_DIR=str(folder / "programs"))
        wait_for_checkpoint(folder, running)
        running[killed].kill()
        jobs.append(running)
        began.append(time.monotonic())
    for killed, running in enumerate(jobs):
        status, lines = finish(running[1 - killed])
        assert status not in (0, None) and time.monotonic() - began[killed] < 9 * LOST_S
        # Its heart is missed, and JAX names it, or a step misses it first, and that is said.
        named = any(line.strip() == "1" for line in lines)
        assert killed == 0 or named or "another process of the job is gone" in lines[-1], lines
        finish(running[killed])
        assert_goes_on(folders[killed], uninterrupted)


def test_who_is_missing_is_named(waiting):
    status, lines = finish(waiting["late"][0])
    assert status == 2
    assert lines[-1].startswith("error: process 0: the meeting: found that process 1 of 2 did not")


def test_a_process_alone_gives_up(waiting):
    for process in waiting["alone"]:
        status, lines = finish(process)
        assert status == 2 and "found fewer processes at localhost:" in lines[-1]


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (["--num_processes=2"], {}, "--num_processes: found without --config.distributed=True"),
        (["--config.distributed=True"], {}, "config.distributed: found no cluster that JAX knows"),
        (
            ["--config.distributed=True", "--coordinator=node1"],
            {},
            "--coordinator: found 'node1', expected HOST:PORT",
        ),
        (
            [
                "--config.distributed=True",
                "--coordinator=localhost:1",
                "--num_processes=2",
                "--process_id=2",
            ],
            {},
            "--coordinator, --num_processes, --process_id: process_id and num_processes must be",
        ),
        ([], {"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS: found 'cuda' without such a device"),
    ],
)
def test_what_is_not_there_is_one_line(flags, environment, message, tmp_path):
    command = ["train.py", "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}"]
    status, lines = finish(start([*command, *flags], **environment))
    assert status == 2 and len(lines) == 1 and lines[0].startswith(f"error: {message}"), lines
    assert not (tmp_path / "run" / "config.json").exists()


class SlowToy(Toy):
    def example(self, index, rng):
        time.sleep(PAUSE_S)
        return super().example(index, rng)


def be_one_of_two(what, port, index, folder) -> None:
    wait_s = 5.0 if what in ("late", "alone") else 120.0
    join(f"localhost:{port}", 2, int(index), wait_s=wait_s, lost_s=LOST_S)
    if what == "late":
        time.sleep(60 * int(index))
        wait_for_all("the meeting")
    with MetricsWriter(pathlib.Path(folder)) as writer:
        train(SlowToy(), toy_config(steps=STEPS), pathlib.Path(folder) / "toy", writer, 0)


if __name__ == "__main__":
    exit_with_one_line(lambda: be_one_of_two(*sys.argv[1:]))


def test_peak_memory_is_the_fullest_devices_or_the_processs():
    full, half = (
        types.SimpleNamespace(memory_stats=lambda n=n: {"peak_bytes_in_use": n}) for n in (8, 4)
    )
    assert peak_memory([half, full]) == 8
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc to compare with")
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 2**10
    assert peak_memory(jax.devices()) == pytest.approx(peak, rel=0.05)
