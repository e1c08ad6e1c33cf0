"""A part: one folder of checksummed arrays and a JSON file, complete or not there at all.

Every array is a zarr3 array of one chunk with a crc32c checksum, in a folder of its name;
`part.json` holds what is not an array, and the SHA-256 over all contents. A part is written
under a temporary name and renamed, so that a kill leaves nothing half done.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import tensorstore

from sims_jax.errors import InputError

META_FILE = "part.json"
TEMPORARY_PREFIX = ".tmp-"
# Zstandard's own default.
_ZSTD_LEVEL = 3


def write_part(folder: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a part to `folder` at once; `folder` must not exist."""
    temporary = folder.with_name(TEMPORARY_PREFIX + folder.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    stores = {
        name: tensorstore.open(_array_spec(temporary / name, array))
        for name, array in arrays.items()
    }
    writes = [stores[name].result().write(array) for name, array in arrays.items()]
    for write in writes:
        write.result()
    digest = digest_contents(arrays, meta)
    write_json(temporary / META_FILE, {**meta, "arrays": sorted(arrays), "digest": digest})
    temporary.rename(folder)


def read_part(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a part whole: its arrays, and its metadata with its digest.

    Raises:
      InputError: a file is missing or damaged; the message names it.
    """
    meta = read_json(folder / META_FILE)
    try:
        digest, names = meta.pop("digest"), meta.pop("arrays")
    except KeyError as error:
        raise _damaged(folder / META_FILE, f"no key {error}") from error
    futures = {name: tensorstore.open(_read_spec(folder / name)) for name in names}
    arrays = {name: _read_array(folder / name, future) for name, future in futures.items()}
    if digest_contents(arrays, meta) != digest:
        raise _damaged(folder / META_FILE, "contents of another digest")
    return arrays, {**meta, "digest": digest}


def digest_contents(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values; no timestamps, no compression."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Writes a JSON file that is there whole or as it was before."""
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      InputError: the file is missing, or no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise _damaged(path, "no such file") from error
    except ValueError as error:
        raise _damaged(path, f"no JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, "no JSON object")
    return value


def _damaged(path: pathlib.Path, found: str) -> InputError:
    return InputError(
        f"{path}: found {found}, expected a file as the bank was written; "
        "delete the bank's folder and build it again"
    )


def _array_spec(path: pathlib.Path, array: np.ndarray) -> dict[str, Any]:
    return {
        **_read_spec(path),
        "open": False,
        "create": True,
        "metadata": {
            "shape": array.shape,
            "data_type": array.dtype.name,
            "chunk_grid": {
                "name": "regular",
                # One chunk; a chunk has at least one element, an array may have none.
                "configuration": {"chunk_shape": [max(1, side) for side in array.shape]},
            },
            # "0.0" and not "c/0/0": folders are files too, and a bank may hold 10^5 photos.
            "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL}},
                {"name": "crc32c"},
            ],
        },
    }


def _read_spec(path: pathlib.Path) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.absolute())},
        "open": True,
        # A lost chunk is an error, never the fill value; so zeros must be written as well.
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }


def _read_array(path: pathlib.Path, future: Any) -> np.ndarray:
    try:
        return future.result().read().result()
    except (ValueError, OSError) as error:
        named = re.search(r'local file "([^"]+)"', str(error))
        file = pathlib.Path(named.group(1)) if named else path
        raise _damaged(file, _first_clause(error)) from error


def _first_clause(error: Exception) -> str:
    """What tensorstore says is wrong, without its paths and specification."""
    text = str(error).split("[tensorstore_spec")[0].splitlines()[0]
    return "damage (" + re.sub(r'(at )?local file "[^"]+"', "file", text).strip() + ")"
