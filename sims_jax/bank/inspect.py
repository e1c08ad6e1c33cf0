"""What a bank holds, in numbers."""

import collections
import pathlib
from typing import Any

import numpy as np

from sims_jax.bank.description import (
    PARTS_FOLDER,
    Description,
    digest_bank,
    read_finished,
    spec_from_json,
    spec_to_json,
)
from sims_jax.bank.parts import list_parts, read_arrays, read_meta
from sims_jax.errors import InputError
from sims_jax.words import counted


def describe(folder: str | pathlib.Path, *, ids: bool = False) -> dict[str, Any]:
    """What a finished bank holds, as JSON values; with its photos' `ids`, if they are asked for.

    `photos_per_video` is empty where no two photos share a video. The photos themselves are not
    read, and so not verified: `sims_jax.bank.store.open_bank` does that.

    Raises:
      InputError: the bank cannot be read, or a file that is read is missing or damaged.
    """
    folder = pathlib.Path(folder)
    description, spec = read_finished(folder)
    parts = list_parts(folder / PARTS_FOLDER)
    metas = {photo_id: read_meta(path) for photo_id, path in parts.items()}
    digest = digest_bank(spec, {photo_id: meta["digest"] for photo_id, meta in metas.items()})
    if digest != description["digest"]:
        raise InputError(
            f"{folder / PARTS_FOLDER}: found {len(parts)} photos of digest {digest}, expected "
            f"{description['photos']} of {description['digest']}; delete the bank's folder and "
            "build it again"
        )
    class_ids = [
        rows[:, 1] for path in parts.values() for rows in read_arrays([path / "row_geometry"])
    ]
    segments = np.bincount(np.concatenate(class_ids), minlength=spec.labels.num_classes).tolist()
    videos = collections.Counter(meta["video"] for meta in metas.values())
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "folder": str(folder),
        "format": description["format"],
        "digest": digest,
        "sources": _count_sources(description),
        "removed": len(description.get("removed", ())),
        "spec": spec_to_json(spec),
        "photos": len(parts),
        "segments": sum(segments),
        "left_out": description["left_out"],
        "segments_per_class": dict(zip(spec.labels.classes, segments, strict=True)),
        "photos_per_video": dict(sorted(videos.items())) if len(videos) < len(parts) else {},
        "bytes": num_bytes,
        "bytes_per_photo": num_bytes // len(parts),
        **({"ids": sorted(parts)} if ids else {}),
    }


def _count_sources(description: Description) -> list[dict[str, Any]]:
    appended = [
        entry | {"photos": len(entry["photos"])} for entry in description.get("appended", ())
    ]
    built = description["photos"] - sum(entry["photos"] for entry in appended)
    first = {"source": description["source"], "licence": description["licence"], "photos": built}
    return [first, *appended]


def to_text(held: dict[str, Any]) -> str:
    """What `describe` returns, as lines to read."""
    spec = held["spec"]
    sources = [
        ("source", f"{one['source']}: {counted(one['photos'], 'photo')}; licence: {one['licence']}")
        for one in held["sources"]
    ]
    lines = [
        ("bank", held["folder"]),
        ("format", held["format"]),
        ("digest", held["digest"]),
        *sources,
        ("labels", spec["labels"]["name"]),
        ("image size", "{}x{}".format(*spec["image_size"])),
        ("grid", "{}x{}".format(*spec["grid"])),
        ("smoothing", f"{spec_from_json(spec).smoothing_frac} of the height"),
        ("photos", f"{held['photos']}, and {held['removed']} removed"),
        ("segments", f"{held['segments']}, and {held['left_out']} beyond the maximum left out"),
        ("bytes", f"{held['bytes']:,}, {held['bytes_per_photo']:,} a photo"),
    ]
    tables = {"segments of class": "segments_per_class", "photos of video": "photos_per_video"}
    for title, key in tables.items():
        if held[key]:
            lines += [("", ""), (title, ""), *((f"  {name}", n) for name, n in held[key].items())]
    width = max(len(name) for name, _ in lines) + 2
    text = [f"{name:{width}}{value}".rstrip() for name, value in lines]
    if "ids" in held:
        text += ["", "ids", *(f"  {name}" for name in held["ids"])]
    return "\n".join(text)
