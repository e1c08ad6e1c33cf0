"""A part: one folder of checksummed arrays and a JSON file, complete or not there at all.

Every array is a zarr3 array of one chunk with a crc32c checksum, in a folder of its name;
`part.json` holds what is not an array, and the SHA-256 over all contents. A part is written
under a temporary name, each process its own, and renamed, so that a kill leaves nothing half done.
"""

import hashlib
import json
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore

from sims_jax.atomic import TEMPORARY_PREFIX, temporary_beside, write_json
from sims_jax.errors import InputError

META_FILE = "part.json"
# Zstandard's own default.
_ZSTD_LEVEL = 3


def write_part(folder: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a part to `folder` at once; where another process was faster, its part stays."""
    temporary = temporary_beside(folder)
    try:
        _write_files(temporary, arrays, meta)
        temporary.rename(folder)
    except (OSError, ValueError):
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            raise


def _write_files(folder: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    stores = {
        name: tensorstore.open(_array_spec(folder / name, array)) for name, array in arrays.items()
    }
    writes = [stores[name].result().write(array) for name, array in arrays.items()]
    for write in writes:
        write.result()
    digest = digest_contents(arrays, meta)
    described = {**meta, "arrays": sorted(arrays), "digest": digest}
    write_json(folder / META_FILE, dict(sorted(described.items())))


def read_part(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a part whole: its arrays, and its metadata with its digest.

    Raises:
      InputError: a file is missing or damaged; the message names it.
    """
    meta = read_meta(folder)
    digest, names = meta.pop("digest"), meta.pop("arrays")
    arrays = dict(zip(names, read_arrays([folder / name for name in names]), strict=True))
    if digest_contents(arrays, meta) != digest:
        raise _damaged(folder / META_FILE, "contents of another digest")
    return arrays, {**meta, "digest": digest}


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
    """A part's metadata with its `digest` and the names of its `arrays`, which are not read.

    Raises:
      InputError: the file is missing, or not that of a part.
    """
    meta = read_json(folder / META_FILE)
    if missing := {"digest", "arrays"} - meta.keys():
        raise _damaged(folder / META_FILE, f"no key {min(missing)!r}")
    return meta


def read_arrays(paths: Sequence[pathlib.Path], **expected: Any) -> list[np.ndarray]:
    """Reads arrays of parts, all at once, each verified by its own checksum alone.

    Args:
      paths: the arrays' folders.
      expected: `shape` and `dtype` that all must have, if they are known.

    Raises:
      InputError: a file is missing or damaged, or not as expected; the message names it.
    """
    opened = _results(paths, [tensorstore.open(_read_spec(path), **expected) for path in paths])
    return _results(paths, [array.read() for array in opened])


def digest_contents(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values; no timestamps, no compression."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def part_folder(parts: pathlib.Path, photo_id: str) -> pathlib.Path:
    """The folder of a photo's part; any id makes a valid name."""
    return parts / urllib.parse.quote(photo_id, safe=" ")


def list_parts(parts: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of all complete parts by photo id, sorted by it."""
    found = [path for path in parts.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)]
    return dict(sorted((urllib.parse.unquote(path.name), path) for path in found))


def sweep(folder: pathlib.Path) -> None:
    """Deletes what killed processes left half-written in a folder."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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


def _results(paths: Sequence[pathlib.Path], futures: list[Any]) -> list[Any]:
    """What tensorstore promised of each path; its errors become one line that names the file."""
    results = []
    for path, future in zip(paths, futures, strict=True):
        try:
            results.append(future.result())
        except (ValueError, OSError) as error:
            named = re.search(r'local file "([^"]+)"', str(error))
            file = pathlib.Path(named.group(1)) if named else path
            raise _damaged(file, _first_clause(error)) from error
    return results


def _first_clause(error: Exception) -> str:
    """What tensorstore says is wrong, without its paths and specification."""
    text = str(error).split("[tensorstore_spec")[0].splitlines()[0]
    return "damage (" + re.sub(r'(at )?local file "[^"]+"', "file", text).strip() + ")"
