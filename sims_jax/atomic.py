"""What is written whole or not at all: first under a temporary name beside it, then renamed.

So nothing is half done under its own name, and of several processes each writes a file of its own.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from sims_jax.errors import InputError

TEMPORARY_PREFIX = ".tmp-"
_TOKEN_BYTES = 4  # of a temporary name, different in every process


def temporary_beside(path: pathlib.Path) -> pathlib.Path:
    """Where to write what will be renamed to `path`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(_TOKEN_BYTES)}")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file to write that becomes `path` in the end, and is deleted after an exception.

    Raises:
      InputError: there is a folder of this name.
    """
    _refuse_folder(path)
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: pathlib.Path) -> None:
    """Tries whether a file can be written, before long work that ends with it; makes its folder.

    Raises:
      InputError: there is a folder of this name, or a file in place of its folder.
      OSError: the folder cannot be made, or written in.
    """
    _refuse_folder(path)
    for above in path.parents:
        if above.exists() and not above.is_dir():
            raise InputError(f"{path}: found {above}, which is no folder; change the path")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.touch()
    temporary.unlink()


def _refuse_folder(path: pathlib.Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: found a folder, expected a file to write; choose another name")


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process is in here for the same file, to read and replace it.

    What is locked is an empty hidden file beside it, which stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file, and the folder it lies in where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w") as file:
        file.write(json.dumps(values, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
