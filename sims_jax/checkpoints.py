"""Saving and restoring training states: atomic, asynchronous, several devices to one and back.

A checkpoint has two items: `state`, everything training needs to go on, and `ema`, the averaged
parameters alone, which is all that inference reads. Orbax writes into a temporary folder and
renames it, so that an unfinished save is never taken for a checkpoint; `files.json` in it has the
digest of every file, so that a damaged one is not, either.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from sims_jax.errors import InputError
from sims_jax.processes import first_alone

KEPT = 2  # checkpoints
FILES_FILE = "files.json"  # of a checkpoint: the SHA-256 of each of its items' files
DONE_FILE = "done.json"  # of a finished stage: its seconds, scores, and its parameters' digest
ITEMS = ("state", "ema")
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # of a disk


class _ListedFolder(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint under way: the digests of its files are in it before it gets its name."""

    async def finalize(self) -> None:
        folder = pathlib.Path(self.get())
        files = sorted(p for item in ITEMS for p in (folder / item).rglob("*") if p.is_file())
        digests = {str(path.relative_to(folder)): _digest_file(path) for path in files}
        (folder / FILES_FILE).write_text(json.dumps(digests, indent=2) + "\n")
        await super().finalize()


class Checkpoints:
    """The checkpoints of one training stage, in `folder`. A context manager.

    The newest KEPT are kept; one goes only when a newer one is complete. Leaving the context waits
    for saves under way.

    Raises:
      FullDiskError: on saving, the next save or on leaving: the disk had no room for a save; those
        before it stay.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, create=True, temporary_path_class=_ListedFolder
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ITEMS}
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handlers
        )
        self._saves = False

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with self._failing_in_one_line() if self._saves else contextlib.nullcontext():
            self._manager.wait_until_finished()
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state, ema) -> None:
        """Starts saving; returns before it is on disk. A step already saved is left alone."""
        if step == self.latest_step:
            return
        state, ema = jax.tree.map(_of_all_processes, (state, ema))
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), ema=ocp.args.StandardSave(ema)
        )
        self._saves = True
        with self._failing_in_one_line():
            self._manager.save(step, args=items)

    def restore(self, like):
        """The newest state that is whole, with the structure, shapes and devices of `like`.

        Damaged ones are told of on stderr and set aside as `STEP.damaged`. One of an older
        version, which lists no files, is told of and taken as it is.

        Returns:
          `like` itself where nothing was ever saved.

        Raises:
          InputError: all checkpoints are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        step = first_alone(f"{self.folder}", lambda: self._choose_whole(steps))
        if step is None:
            return like
        self._manager.reload()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=items)["state"]

    def _choose_whole(self, steps: list[int]) -> int | None:
        """The first of `steps` that is whole; those before it are set aside."""
        damaged = {}
        for step in steps:
            damage = find_damage(self.folder / str(step))
            if damage is None:
                self._set_aside(damaged, step)
                if not _lists_files(self.folder / str(step)):
                    _tell(
                        f"{self.folder}: the checkpoint of step {step} is of an older version, "
                        f"without {FILES_FILE}, and cannot be verified; training goes on from it"
                    )
                return step
            damaged[step] = damage
        if damaged:
            step, damage = next(iter(damaged.items()))
            raise InputError(
                f"{self.folder}: the checkpoint of step {step} is damaged ({damage}), and none "
                "before it is whole; delete the folder to train from the first step"
            )
        return None

    def _set_aside(self, damaged: dict[int, str], whole: int) -> None:
        for step, damage in damaged.items():
            endings = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
            names = (self.folder / f"{step}.damaged{ending}" for ending in endings)
            aside = next(name for name in names if not name.exists())
            (self.folder / str(step)).rename(aside)
            _tell(
                f"{self.folder}: the checkpoint of step {step} is damaged ({damage}); it is now "
                f"{aside.name}, and training goes on from step {whole}"
            )

    def restore_ema(self):
        """The latest averaged parameters, on one device whatever they were saved on."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        if self.latest_step is None:
            raise InputError(
                f"{self.folder}: no complete checkpoint found, expected a trained network; "
                "run train.py with this workdir"
            )
        abstract = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
            dict(self._manager.item_metadata(self.latest_step)["ema"]),
        )
        items = ocp.args.Composite(ema=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self.latest_step, args=items)["ema"]

    @contextlib.contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        """Turns a full disk, which orbax tells of in time, into an error that says what is left."""
        try:
            yield
        except Exception as error:  # of any kind: tensorstore's are ValueErrors
            if not any(os.strerror(code) in str(error) for code in FULL):
                raise
            folders = {step: self.folder / str(step) for step in saved_steps(self.folder)}
            whole = [
                n for n, path in folders.items() if _lists_files(path) and not find_damage(path)
            ]
            left = (
                f"that of step {max(whole)} is whole" if whole else "none before it is known whole"
            )
            raise FullDiskError(
                f"{self.folder}: a checkpoint could not be saved ({_first_line(error)}); {left}: "
                "make room on the disk, and the same command goes on from there"
            ) from error


class FullDiskError(InputError):
    """A save failed for want of room."""


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Leaves a failed save to `Checkpoints`: what orbax logs of it besides is raised as well.

    Everything is then as before, except after FullDiskError: writes that were under way fail after
    it, and are told of until the process ends.
    """
    before = sys.unraisablehook

    def tell(unraisable) -> None:
        # Once a write has failed, the others find that the loop they report to has ended.
        if repr(unraisable.exc_value) != "RuntimeError('Event loop is closed')":
            before(unraisable)

    def is_for_others(record: logging.LogRecord) -> bool:
        return (
            record.levelno < logging.ERROR or "orbax" not in record.pathname + record.getMessage()
        )

    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, ("absl", "asyncio")):
            logger.addFilter(is_for_others)
            stack.callback(logger.removeFilter, is_for_others)
        sys.unraisablehook = tell
        stack.callback(setattr, sys, "unraisablehook", before)
        try:
            yield
        except FullDiskError:
            stack.pop_all()
            raise


def saved_steps(folder: pathlib.Path) -> list[int]:
    """Of the complete checkpoints in a stage's folder, damaged or not; none if it is not there."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _of_all_processes(array: jax.Array) -> jax.Array:
    """One array of all processes, where each has the same on devices of its own, as of `pmap`."""
    if jax.process_count() == 1 or not array.is_fully_addressable:
        return array
    return ocp.utils.fully_replicated_host_local_array_to_global_array(array)


def find_damage(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint's files, naming the first.

    None if nothing is, or if it is of an older version, whose files are not listed.
    """
    files = checkpoint / FILES_FILE
    if not _lists_files(checkpoint):
        return None
    try:
        digests = json.loads(files.read_text())
        for name, digest in digests.items():
            if _digest_file(checkpoint / name) != digest:
                return f"{checkpoint / name} has other bytes than were saved"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{files} or what it names cannot be read: {_first_line(error)}"
    return None


def _lists_files(checkpoint: pathlib.Path) -> bool:
    return (checkpoint / FILES_FILE).exists()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _digest_file(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    """What an error says, without the settings that tensorstore puts in brackets behind it."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    return re.sub(r" \[\w+='.*'\]", "", line)


def digest_params(params) -> str:
    """SHA-256 of parameters: names, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def restore_finished(folder: pathlib.Path):
    """The averaged parameters of a finished training stage, verified.

    Raises:
      InputError: the stage is not finished, or its checkpoint is damaged.
    """
    done = read_done(folder)
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest_step
        try:
            params = checkpoints.restore_ema()
        except (InputError, MemoryError, jax.errors.JaxRuntimeError):  # of memory, say
            raise
        except Exception as error:  # orbax raises a bare Exception for a lost chunk
            if _lists_files(folder / str(step)) and not find_damage(folder / str(step)):
                raise
            raise _damaged(folder, step, _first_line(error)) from error
    if digest_params(params) != done.get("sha256"):
        reason = f"its parameters have another digest than {folder / DONE_FILE} names"
        raise _damaged(folder, step, reason)
    return params


def read_done(folder: pathlib.Path) -> dict[str, Any]:
    """What the `done.json` of a finished training stage says.

    Raises:
      InputError: the stage is not finished, or the file is no JSON object.
    """
    path = folder / DONE_FILE
    try:
        done = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not found, expected a network trained to its end; run train.py again, with "
            "all stages"
        ) from error
    except ValueError as error:
        done = error  # told of below
    if not isinstance(done, dict):
        raise InputError(
            f"{path}: found no JSON object ({done}), expected what training wrote at its end; "
            "delete it and train again: that goes on from what is there"
        )
    return done


def _damaged(folder: pathlib.Path, step: int, reason: str) -> InputError:
    damage = find_damage(folder / str(step)) or reason
    return InputError(
        f"{folder}: found a damaged checkpoint of step {step} ({damage}), expected what was saved; "
        f"delete {folder / DONE_FILE} and train again: that goes on from the checkpoint before"
    )
