"""Builds a memory bank on disk from a dataset: one self-contained part a photo.

The folder of a bank:

    bank.json            spec, source, licence; when complete also counts and digest
    parts/<photo id>/    photo uint8 [H,W,3], layout uint8 [H,W], component int16 [H,W],
                         coarse uint8 [H,W] (the dataset's, or simulated), instances uint16
                         and depth float32 (metres) where the dataset has them,
                         row_geometry int32 [n,7], row_appearance float32 [n,13]
    donors-<key>/        nearest rows, see `sims_jax.bank.donors`

Parts are renamed into place, so a build that was killed continues with what is complete.
Differs from SIMS (.mat files of crops): photos are stored once, segments are rows.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from sims_jax.bank.parts import META_FILE, TEMPORARY_PREFIX, read_json, write_json, write_part
from sims_jax.bank.segments import split_layout
from sims_jax.data.coarse import draw_coarse
from sims_jax.errors import InputError
from sims_jax.labels import VOID
from sims_jax.ops.resize import resize_labels
from sims_jax.progress import progress
from sims_jax.types import BankSpec, Segments

BANK_FILE = "bank.json"
PARTS_FOLDER = "parts"
# Increased whenever a bank written before can no longer be read.
FORMAT = 1
# Fields of an example besides photo and layout, in the type they are stored in.
OPTIONAL_FIELDS = {"instances": np.uint16, "depth": np.float32, "coarse": np.uint8}
_SPLIT_BATCH = 8
_UINT8_MAX = 255

Example = dict[str, Any]


def build_bank(
    source: Sequence[Example],
    spec: BankSpec,
    folder: str | pathlib.Path,
    *,
    source_name: str,
    licence: str,
) -> pathlib.Path:
    """Builds the bank of a dataset, or finishes one; a finished one is left as it is.

    Args:
      source: examples as dicts of id, photo, layout, video, frame and, where the dataset has
        them, instances, depth and coarse; sizes other than `spec.image_size` are resampled.
      spec: what the bank and the layouts asked of it have in common.
      folder: where the bank is or will be.
      source_name: the dataset's name, for messages and provenance.
      licence: the photos' licence, for provenance.

    Returns:
      The bank's folder.

    Raises:
      InputError: no photo was found, an example cannot be used, or the folder holds a bank
        of another spec or dataset.
    """
    folder = pathlib.Path(folder)
    identity = {
        "format": FORMAT,
        "spec": spec_to_json(spec),
        "source": source_name,
        "licence": licence,
    }
    if len(source) == 0:
        raise InputError(
            f"{source_name}: found 0 examples, expected photos with layouts; check the dataset's "
            "folder and split"
        )
    if _is_complete(folder, identity):
        return folder
    parts = folder / PARTS_FOLDER
    parts.mkdir(parents=True, exist_ok=True)
    write_json(folder / BANK_FILE, {**identity, "complete": False})
    ids = _write_parts(source, spec, parts, source_name)
    metas = {photo_id: read_json(part_folder(parts, photo_id) / META_FILE) for photo_id in ids}
    summary = {
        "complete": True,
        "photos": len(ids),
        "segments": sum(meta["segments"] for meta in metas.values()),
        "left_out": sum(meta["left_out"] for meta in metas.values()),
        "digest": digest_bank(spec, {key: meta["digest"] for key, meta in metas.items()}),
    }
    write_json(folder / BANK_FILE, {**identity, **summary})
    return folder


def part_folder(parts: pathlib.Path, photo_id: str) -> pathlib.Path:
    """The folder of a photo's part; any id makes a valid name."""
    return parts / urllib.parse.quote(photo_id, safe=" ")


def digest_bank(spec: BankSpec, part_digests: dict[str, str]) -> str:
    """SHA-256 that names a bank: over its spec and the contents of its parts."""
    content = {"format": FORMAT, "spec": spec_to_json(spec), "parts": part_digests}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def spec_to_json(spec: BankSpec) -> dict[str, Any]:
    """The spec as JSON values (lists for tuples)."""
    return json.loads(json.dumps(dataclasses.asdict(spec)))


def _is_complete(folder: pathlib.Path, identity: dict[str, Any]) -> bool:
    """Whether `folder` holds this very bank, complete; an error if it holds another."""
    path = folder / BANK_FILE
    if not path.exists():
        if (folder / PARTS_FOLDER).exists():
            raise InputError(
                f"{folder}: found {PARTS_FOLDER}/ without {BANK_FILE}, expected a bank or "
                "nothing; delete the folder or choose another workdir"
            )
        return False
    found = read_json(path)
    for key, expected in identity.items():
        if found.get(key) != expected:
            state = "a bank" if found.get("complete") else "an unfinished bank"
            raise InputError(
                f"{path}: found {state} of another {key} ({_difference(found.get(key), expected)}"
                "); delete its folder or choose another workdir"
            )
    return found.get("complete") is True


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in expected if found.get(key) != expected[key]]
        return "; ".join(f"{key}: {_difference(found.get(key), expected[key])}" for key in keys)
    return f"found {found!r}, expected {expected!r}"


def _write_parts(
    source: Sequence[Example], spec: BankSpec, parts: pathlib.Path, source_name: str
) -> list[str]:
    """Writes the parts that are missing; returns the ids of all photos of the bank, sorted."""
    ids: set[str] = set()
    fields: frozenset[str] | None = None
    waiting: list[Example] = []
    split = jax.jit(split_layout, static_argnames="spec")
    with progress("bank: photos", len(source)) as bar:
        for example in _iterate(source):
            bar.update()
            photo_id = str(example["id"])
            if photo_id in ids:
                raise InputError(
                    f"{source_name}: found two photos of id {photo_id!r}, expected different "
                    "ids; rename one"
                )
            ids.add(photo_id)
            found = frozenset(OPTIONAL_FIELDS).intersection(example)
            fields = found if fields is None else fields
            if found != fields:
                raise InputError(
                    f"{source_name}: found {sorted(found)} with photo {photo_id!r}, expected "
                    f"{sorted(fields)} as with the others; complete or remove them"
                )
            if part_folder(parts, photo_id).exists():
                continue
            waiting.append(prepare_example(example, spec))
            if len(waiting) == _SPLIT_BATCH:
                _write_batch(waiting, spec, parts, split)
                waiting = []
        if waiting:
            _write_batch(waiting, spec, parts, split)
    _check_no_other_parts(parts, ids, source_name)
    return sorted(ids)


def _iterate(source: Sequence[Example]) -> Iterator[Example]:
    for index in range(len(source)):
        yield source[index]


def _check_no_other_parts(parts: pathlib.Path, ids: set[str], source_name: str) -> None:
    expected = {part_folder(parts, photo_id).name for photo_id in ids}
    for path in sorted(parts.iterdir()):
        if not path.name.startswith(TEMPORARY_PREFIX) and path.name not in expected:
            raise InputError(
                f"{path}: found a photo that {source_name} does not have, expected parts of "
                "this dataset alone; delete the bank's folder or choose another workdir"
            )


def prepare_example(example: Example, spec: BankSpec) -> Example:
    """The example at the bank's resolution: photo bilinear, everything else nearest.

    Raises:
      InputError: shapes that disagree, or ids that the label space does not have.
    """
    photo, layout = np.asarray(example["photo"]), np.asarray(example["layout"])
    name = f"photo {example['id']!r}"
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
        raise InputError(
            f"{name}: found {photo.dtype} {photo.shape}, expected uint8 (H, W, 3); convert it"
        )
    _check_ids(layout, name, "layout", spec)
    prepared = {
        "id": str(example["id"]),
        "video": str(example["video"]),
        "frame": int(example["frame"]),
        "photo": _resize_photo(photo, spec.image_size),
        "layout": _resize_field(layout.astype(np.uint8), photo, name, "layout", spec),
    }
    for field, dtype in OPTIONAL_FIELDS.items():
        if field in example:
            values = np.asarray(example[field])
            if field == "coarse":
                _check_ids(values, name, field, spec)
            prepared[field] = _resize_field(values.astype(dtype), photo, name, field, spec)
    return prepared


def _check_ids(layout: np.ndarray, name: str, field: str, spec: BankSpec) -> None:
    classes = spec.labels.num_classes
    ids = np.unique(layout)
    unknown = ids[(ids < 0) | ((ids >= classes) & (ids != VOID))]
    if unknown.size:
        raise InputError(
            f"{name}: found ids {unknown.tolist()} in its {field}, expected 0 to {classes - 1} "
            f"or {VOID} (label space {spec.labels.name}); map them to classes or to void"
        )


def _resize_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if photo.shape[:2] == tuple(size):
        return photo
    # Pillow's bilinear filter widens when shrinking (antialiased), and compiles nothing for
    # each new size of a dataset of many sizes.
    return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))


def _resize_field(
    values: np.ndarray, photo: np.ndarray, name: str, field: str, spec: BankSpec
) -> np.ndarray:
    if values.shape != photo.shape[:2]:
        raise InputError(
            f"{name}: found a {field} of shape {values.shape}, expected {photo.shape[:2]} as "
            "the photo; pair them again"
        )
    return np.ascontiguousarray(resize_labels(values, tuple(spec.image_size)))


def _write_batch(examples: list[Example], spec: BankSpec, parts: pathlib.Path, split: Any) -> None:
    # The last batch is filled up, so that there is one compilation.
    padded = examples + examples[:1] * (_SPLIT_BATCH - len(examples))
    layouts = np.stack([example["layout"] for example in padded])
    instances = None
    if "instances" in examples[0]:
        instances = np.stack([example["instances"] for example in padded])
    segments = jax.device_get(split(layouts, spec=spec, instances=instances))
    for index, example in enumerate(examples):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], segments)
        arrays, meta = describe_photo(example, one)
        write_part(part_folder(parts, example["id"]), arrays, meta)


def describe_photo(
    example: Example, segments: Segments
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a photo's part.

    A row of `row_geometry` is (component, class, area in pixels, box y0 x0 y1 x1); a row of
    `row_appearance` is (colour mean 3, colour covariance 9, median depth in metres or 0).
    """
    rows = np.flatnonzero(segments.class_id >= 0).astype(np.int32)
    mean, cov = color_moments(example["photo"], segments.component, segments.class_id.size)
    depth_m = median_depth(example.get("depth"), segments.component, rows)
    geometry = [rows[:, None], segments.class_id[rows, None], segments.area_px[rows, None]]
    arrays = {
        "photo": example["photo"],
        "layout": example["layout"],
        "component": segments.component.astype(np.int16),
        "row_geometry": np.concatenate([*geometry, segments.box_yx[rows]], axis=1, dtype=np.int32),
        "row_appearance": np.concatenate(
            [mean[rows], cov[rows].reshape(-1, 9), depth_m[:, None]], axis=1, dtype=np.float32
        ),
    }
    arrays |= {field: example[field] for field in OPTIONAL_FIELDS if field in example}
    if "coarse" not in example:
        arrays["coarse"] = draw_coarse(example["layout"], segments.component)
    meta = {
        "id": example["id"],
        "video": example["video"],
        "frame": example["frame"],
        "segments": int(rows.size),
        "left_out": int(segments.left_out),
    }
    return arrays, meta


def color_moments(
    photo: np.ndarray, component: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [count, 3] and covariance [count, 3, 3] of each segment's colours in [0, 1]."""
    index = component.ravel() + 1
    colors = photo.reshape(-1, 3).astype(np.float64) / _UINT8_MAX
    # Float64 sums in raster order: the same bits, and so the same digest, on every machine.
    total = functools.partial(np.bincount, index, minlength=count + 1)
    area = np.maximum(total()[1:], 1)
    mean = np.stack([total(colors[:, c])[1:] / area for c in range(3)], axis=-1)
    centred = colors - np.concatenate([np.zeros((1, 3)), mean])[index]
    cov = np.empty((count, 3, 3))
    for a in range(3):
        for b in range(a, 3):
            cov[:, a, b] = cov[:, b, a] = total(centred[:, a] * centred[:, b])[1:] / area
    return mean, cov


def median_depth(depth: np.ndarray | None, component: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Median of each segment's known depths, metres; 0 where none is known."""
    if depth is None:
        return np.zeros(rows.size, np.float32)
    known = [depth[(component == row) & (depth > 0)] for row in rows]
    return np.array([np.median(values) if values.size else 0 for values in known], np.float32)
