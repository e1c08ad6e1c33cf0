"""What is written whole or not at all: first under a temporary name beside it, then renamed.

So a kill leaves nothing half done, and of several processes each writes a file of its own.
"""

import json
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

TEMPORARY_PREFIX = ".tmp-"
_TOKEN_BYTES = 4  # of a temporary name, different in every process


def temporary_beside(path: pathlib.Path) -> pathlib.Path:
    """Where to write what will be renamed to `path`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(_TOKEN_BYTES)}")


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file, and the folder it lies in where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with temporary.open("w") as file:
            file.write(json.dumps(values, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
