"""The processes of one job: how they find one another, agree, wait, and end together.

They are those of `jax.distributed`; all do the same work in the same order, each on its own devices
and its share of the examples, and what is written the first one writes. Without `join` there is one
process, and nothing here does anything.
"""

import contextlib
import itertools
import json
import os
import re
import resource
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import jax

# The store and the barriers of jax.distributed, as orbax reaches them. Nothing public stands for
# them: jax.experimental.multihost_utils waits on the devices, without end, and names nobody.
from jax._src import distributed

from sims_jax.errors import InputError
from sims_jax.words import counted

FARTHEST_AHEAD = 3  # steps: a process begins none before all have begun the one before the last
_SIGNS_OF_LOSS = ("closed by peer", "reset by peer")  # in what XLA says of a collective
LEAVE_S = 5.0  # that a process which fails waits for others to fail of the same
_numbers = itertools.count()  # the same ones in all processes
_wait_s = 3600.0  # where jax.distributed was begun without `join`


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    wait_s: float,
    lost_s: float,
) -> None:
    """Joins the other processes; to be called before anything else of JAX.

    Args:
      coordinator, count, index: HOST:PORT of process 0, how many there are, and which this is;
        None where JAX finds them itself: SLURM, Open MPI, GKE, Cloud TPU.
      wait_s: seconds after which a process that others wait for is missing.
      lost_s: seconds without a heartbeat after which a process is lost, and JAX ends the others.

    Raises:
      InputError: there is no cluster that JAX knows, or what is given cannot be.
    """
    global _wait_s
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator: found {coordinator!r}, expected HOST:PORT; add the port")
    _wait_s = wait_s
    # SIGTERM is ours: see sims_jax.training.termination.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the coordinator"
    late = threading.Timer(wait_s, _end_unjoined, [where, wait_s])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=int(wait_s + LEAVE_S),  # its end is a stack trace
            heartbeat_timeout_seconds=int(lost_s),
        )
    except ValueError as error:
        if not coordinator is count is index is None:
            raise InputError(
                f"--coordinator, --num_processes, --process_id: {_first_line(error)}, expected all "
                "three, HOST:PORT, N and a number from 0 to N - 1; correct them"
            ) from error
        raise InputError(
            f"config.distributed: found no cluster that JAX knows ({_first_line(error)}), expected "
            "SLURM, Open MPI, GKE or Cloud TPU; elsewhere give --coordinator=HOST:PORT "
            "--num_processes=N --process_id=I"
        ) from error
    finally:
        late.cancel()
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the first one says what all do


def _end_unjoined(where: str, wait_s: float) -> None:
    print(
        f"error: config.distributed: found fewer processes at {where} after {wait_s:.0f} s than "
        "expected; look at the others' output, for one may have failed or not been started",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def is_first() -> bool:
    """Whether this process writes and tells what all of them do."""
    return jax.process_index() == 0


def name() -> str:
    """ "process 3: ", empty where there is but one."""
    return f"process {jax.process_index()}: " if _client() is not None else ""


def describe_devices() -> str:
    """How many devices of which kind in how many processes, in words.

    Raises:
      InputError: the platform that JAX_PLATFORMS names is not there, or processes have different
        numbers of devices.
    """
    try:
        devices, local = jax.devices(), jax.local_device_count()
    except (RuntimeError, AssertionError) as error:  # the latter without the platform's plugin
        raise InputError(
            f"JAX_PLATFORMS: found {os.environ.get('JAX_PLATFORMS', '')!r} without such a device "
            f"({_first_line(error) or 'it is not installed'}), expected what this machine has; "
            "check the driver and the extra that was installed (cuda, tpu), or unset it"
        ) from error
    processes = jax.process_count()
    if local * processes != len(devices):
        raise InputError(
            f"process {jax.process_index()}: found {local} of {len(devices)} devices, expected the "
            f"same number in each of {processes} processes; check what each of them may see"
        )
    kind = f"{devices[0].platform} ({devices[0].device_kind})"
    each = f"{local} in each of {processes} processes" if processes > 1 else "in one process"
    return f"{counted(len(devices), 'device')}, {kind}, {each}"


def peak_memory(devices: Iterable[jax.Device]) -> int:
    """The most bytes that one of this process's devices has held since the process began.

    CPUs do not count theirs: there it is what the process has held, of all devices and of the host.
    """
    held = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    if None not in held:
        return max(held)
    unit = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def wait_for_all(what: str) -> None:
    """Returns when all processes are here.

    Raises:
      InputError: some have not come; they are named.
    """
    if jax.process_count() == 1:
        return
    try:
        _client().wait_at_barrier(f"{what} {next(_numbers)}", int(_wait_s * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise _missing(what, error) from error


def _missing(what: str, error: Exception) -> InputError:
    named = re.search(r"timed out task names:\s*((?:\d+\s+)+)", str(error))
    if named is None:
        return InputError(f"{what}: found that processes lost one another ({_first_line(error)}), "
                          "expected all to be there; the same command goes on")  # fmt: skip
    names = ", ".join(named[1].split())
    return InputError(
        f"{what}: found that process {names} of {jax.process_count()} did not come within "
        f"{_wait_s:.0f} s, expected all; look at its output: the same command goes on"
    )


def first_alone(what: str, do: Callable[[], Any]) -> Any:
    """What the first process's `do()` returns, as of JSON; the others wait for it.

    Raises:
      InputError: as of `do`, in all processes; or the first one is missing.
    """
    if jax.process_count() == 1:
        return do()
    wait_for_all(what)  # nobody still looks at what is about to change
    key = f"{what} {next(_numbers)}"
    if is_first():
        try:
            told = {"result": do()}
        except (InputError, OSError) as error:
            _client().key_value_set(key, json.dumps({"error": str(error)}))
            raise
        _client().key_value_set(key, json.dumps(told))
        return told["result"]
    try:
        told = json.loads(_client().blocking_key_value_get(key, int(_wait_s * 1000)))
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"{what}: found that process 0 was not done within {_wait_s:.0f} s, expected it to be; "
            "look at its output, or give it longer: --wait_s"
        ) from error
    if "error" in told:
        raise InputError(told["error"])
    return told["result"]


def first_before_others(what: str, do: Callable[[], Any]) -> Any:
    """`do()` of each process, when the first one's has prepared what is then only read.

    Raises:
      InputError: as of `do`, in all processes; or the first one is missing.
    """
    done: list[Any] = []
    first_alone(what, lambda: done.append(do()))
    return done[0] if is_first() else do()


class Agreement:
    """Lets all processes do in the same step what one of them wants to be done.

    One process agrees with itself at once; several up to FARTHEST_AHEAD steps later, for the others
    may be ahead. They go through the same steps, in which their devices wait for one another.
    """

    def __init__(self, what: str):
        self._what, self._number = f"{what} {next(_numbers)}", 0

    def reached(self, step: int, wanted: bool) -> bool:
        """Whether it is to be done in this step; to be asked in every one."""
        if jax.process_count() == 1:
            return wanted
        folder = f"{self._what}/{self._number}"
        agreed = _client().key_value_dir_get(folder)
        if wanted and not agreed:
            # Refused where another process was faster: there is one proposal.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                _client().key_value_set(f"{folder}/step", str(step + FARTHEST_AHEAD))
        if not agreed or step < int(agreed[0][1]):
            return False
        self._number += 1
        return True


def lost_others(error: Exception) -> str | None:
    """What to say of an error that is the end of another process of the job, else None."""
    if _client() is None or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
        return None
    return (
        f"another process of the job is gone ({_first_line(error)}); the same command goes on from "
        "the last checkpoint"
    )


def leave(status: int) -> None:
    """Ends a process that failed: with the others if they fail, too, and without them if not."""
    if _client() is not None:
        try:
            _client().wait_at_barrier("failed", int(LEAVE_S * 1000))
        except jax.errors.JaxRuntimeError:
            sys.stderr.flush()
            os._exit(status)  # without jax.distributed's own end, which waits for all
    sys.exit(status)


def _client() -> Any:
    return distributed.global_state.client


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
