"""`bank.json`: what a bank says of itself, and whether it may be read.

    format, spec, source, licence        what it was begun with
    complete                             whether the rest holds
    photos, segments, left_out, digest   counts, and the SHA-256 over spec and parts
    appended                             [{source, licence, photos: [id, ...]}, ...]
    removed                              SHA-256 of the ids of the photos taken out, never the ids
    edit                                 only while photos are appended or removed

`complete` is false from the first write to the last, and while an edit is under way.
"""

import dataclasses
import hashlib
import json
import pathlib
import shlex
from typing import Any

from sims_jax.atomic import write_json
from sims_jax.bank.parts import META_FILE, list_parts, read_json
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.types import BankSpec
from sims_jax.words import counted

BANK_FILE = "bank.json"
PARTS_FOLDER = "parts"
# Increased whenever a bank written before can no longer be read.
FORMAT = 1

Description = dict[str, Any]


def read_description(folder: pathlib.Path) -> Description:
    """The description of a bank, finished or not.

    Raises:
      InputError: there is no bank, or it is of another format.
    """
    path = folder / BANK_FILE
    if not path.exists():
        inside = folder / "bank"  # of a workdir
        is_there = (inside / BANK_FILE).exists()
        advice = f"did you mean {inside}?" if is_there else "run the stage `bank`"
        raise InputError(f"{path}: found no such file, expected a bank; {advice}")
    description = read_json(path)
    if description.get("format") != FORMAT:
        raise InputError(
            f"{path}: found format {description.get('format')}, expected {FORMAT}; "
            "delete the bank's folder and build it again"
        )
    return description


def read_finished(folder: pathlib.Path) -> tuple[Description, BankSpec]:
    """The description and the spec of a bank that may be read.

    Raises:
      InputError: there is no bank, it is of another format, unfinished or being edited.
    """
    path, description = folder / BANK_FILE, read_description(folder)
    refuse_unfinished_edit(folder, description)
    if description.get("complete") is not True:
        raise InputError(
            f"{path}: found an unfinished bank, expected a finished one; run the stage `bank` "
            "again, it continues"
        )
    return description, spec_of(folder, description)


def spec_of(folder: pathlib.Path, description: Description) -> BankSpec:
    """The spec in a bank's description, finished or not.

    Raises:
      InputError: there is none.
    """
    try:
        return spec_from_json(description["spec"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder / BANK_FILE}: found a description without {error}, expected a bank's; "
            "delete the bank's folder and build it again"
        ) from error


def refuse_unfinished_edit(folder: pathlib.Path, description: Description) -> None:
    """Raises an InputError that names the command to repeat, if photos are being edited."""
    if edit := description.get("edit"):
        kind, photo_ids = edit["kind"], edit["photos"]
        what = f"--data={edit['source']}" if kind == "append" else f"--photo={photo_ids[0]}"
        command = shlex.join(["python", "-m", "sims_jax.bank", kind, f"--bank={folder}", what])
        raise InputError(
            f"{folder / BANK_FILE}: found an unfinished {kind} of "
            f"{counted(len(photo_ids), 'photo')}, expected a finished bank; repeat the command, it "
            f"continues: {command}"
        )


def refuse_another(folder: pathlib.Path, found: Description, expected: Description) -> None:
    """Raises an InputError that names the first key of `expected` that a bank has otherwise."""
    for key, value in expected.items():
        if found.get(key) != value:
            state = "a bank" if found.get("complete") else "an unfinished bank"
            raise InputError(
                f"{folder / BANK_FILE}: found {state} of another {key} "
                f"({difference(found.get(key), value)}); delete its folder or choose another "
                "workdir"
            )


def difference(found: Any, expected: Any) -> str:
    """In words; of dicts only the keys that differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in found | expected if found.get(key) != expected.get(key)]
        return "; ".join(f"{key}: {difference(found.get(key), expected.get(key))}" for key in keys)
    found, expected = ("nothing" if value is None else repr(value) for value in (found, expected))
    return f"found {found}, expected {expected}"


def write_finished(folder: pathlib.Path, description: Description) -> None:
    """Writes the description of a bank whose parts are all there."""
    write_json(folder / BANK_FILE, finish(folder, description))


def finish(folder: pathlib.Path, description: Description) -> Description:
    """The description of a bank whose parts are all there, with its counts and its digest."""
    paths = list_parts(folder / PARTS_FOLDER)
    metas = {photo_id: read_json(path / META_FILE) for photo_id, path in paths.items()}
    return description | {
        "complete": True,
        "photos": len(metas),
        "segments": sum(meta["segments"] for meta in metas.values()),
        "left_out": sum(meta["left_out"] for meta in metas.values()),
        "digest": digest_bank(
            spec_from_json(description["spec"]),
            {photo_id: meta["digest"] for photo_id, meta in metas.items()},
        ),
    }


def digest_bank(spec: BankSpec, part_digests: dict[str, str]) -> str:
    """SHA-256 that names a bank: over its spec and the contents of its parts."""
    content = {"format": FORMAT, "spec": spec_to_json(spec), "parts": part_digests}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_id(photo_id: str) -> str:
    """What a bank keeps of the id of a photo that was taken out."""
    return hashlib.sha256(photo_id.encode()).hexdigest()


def spec_to_json(spec: BankSpec) -> dict[str, Any]:
    """The spec as JSON values (lists for tuples).

    Without a smoothing that is none: banks are known by the digest that they had before there was.
    """
    values = json.loads(json.dumps(dataclasses.asdict(spec)))
    if not spec.smoothing_frac:
        del values["smoothing_frac"]
    return values


def spec_from_json(values: dict[str, Any]) -> BankSpec:
    """Inverse of `spec_to_json`."""
    return BankSpec(**{**_to_tuples(values), "labels": LabelSpace(**_to_tuples(values["labels"]))})


def _to_tuples(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _to_tuples(value) for key, value in values.items()}
    return tuple(map(_to_tuples, values)) if isinstance(values, list) else values
