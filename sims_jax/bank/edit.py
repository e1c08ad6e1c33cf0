"""Appends photos to a finished bank, and takes photos out of one; no network is trained again.

An edit is recorded in `bank.json` before the first part moves, and struck out after the last. If it
is killed in between, the bank is refused to whoever opens it, and the next edit carries the
recorded one out first: both kinds go on from whatever is done. New parts are made aside and moved
in, so that a mistake among the new photos leaves the bank as it was. Of several edits at once, each
waits for the one before, those of banks in one folder too. To repeat an edit that is done, perhaps
by another command, is no mistake, and changes nothing.

The digest of an edited bank is that of a bank built of the same photos.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from sims_jax.atomic import TEMPORARY_PREFIX, locked, write_json
from sims_jax.bank.build import write_parts
from sims_jax.bank.description import (
    BANK_FILE,
    PARTS_FOLDER,
    Description,
    difference,
    finish,
    hash_id,
    read_description,
    read_finished,
)
from sims_jax.bank.parts import (
    META_FILE,
    list_parts,
    part_folder,
    read_json,
    read_meta,
    sweep,
)
from sims_jax.bank.traces import (
    PREPARED_ROWS,
    delete,
    delete_traces,
    find_in_others,
    find_others,
    find_traces,
    in_workdir,
    update_report,
)
from sims_jax.data.example import OPTIONAL_FIELDS, Example
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.words import counted

_ASIDE = TEMPORARY_PREFIX + "appended"
_LOCKED = "bank"  # for all banks of a folder: what one may append, others say
# Fields of which 0 says that nothing is known, and which an appended photo may lack.
_MAY_LACK = ("instances", "depth")
# What of a label space is about files, and not about what a bank stores.
_OF_FILES = ("name", "void_ids")

Edit = dict[str, Any]


def append_photos(
    folder: str | pathlib.Path,
    source: Sequence[Example],
    *,
    labels: LabelSpace,
    source_name: str,
    licence: str,
) -> list[str]:
    """Appends the photos of a dataset to a finished bank.

    They take the bank's form: its size; instances and depth 0 where the bank has them and they do
    not; without them where it has none. Photos that were once removed from the bank, or from
    another one of its workdir, stay out.

    Args:
      folder: the bank's.
      source: examples as `sims_jax.bank.build.build_bank` takes them.
      labels: their label space; classes, colours and groups must be the bank's.
      source_name: where they come from, for messages and provenance.
      licence: their licence, for provenance.

    Returns:
      The ids of the appended photos; none where an append of the same ones was done before.

    Raises:
      InputError: the bank cannot be read, the label spaces differ, there is nothing to append, the
        bank or another one of its workdir has some of the photos already, that one is unfinished,
        or an example cannot be used.
    """
    folder = pathlib.Path(folder)
    read_description(folder)  # an error if there is none
    with locked(folder.absolute().parent / _LOCKED):
        return _append(folder, source, labels, source_name, licence)


def remove_photos(folder: str | pathlib.Path, photo_ids: Sequence[str]) -> list[pathlib.Path]:
    """Takes photos out of a finished bank: their parts, and all traces of them beside it.

    What is searched for traces is listed in `sims_jax.bank.traces`. The bank keeps a hash of their
    ids, so that they do not come back with the dataset.

    Returns:
      What was deleted; nothing where all were taken out before.

    Raises:
      InputError: the bank cannot be read, never had a photo, or has no others.
    """
    folder = pathlib.Path(folder).absolute()
    read_description(folder)  # an error if there is none
    with locked(folder.absolute().parent / _LOCKED):
        _finish_killed(folder)
        there = _check_removal(folder, photo_ids)
        return _edit(folder, {"kind": "remove", "photos": there}) if there else []


def find_removed(folder: str | pathlib.Path, photo_ids: Sequence[str]) -> list[pathlib.Path]:
    """What `remove_photos` would delete; nothing is.

    Raises:
      InputError: as of `remove_photos`, or an edit of the bank was killed.
    """
    folder = pathlib.Path(folder).absolute()
    there = _check_removal(folder, photo_ids)
    parts = sorted(part_folder(folder / PARTS_FOLDER, photo_id) for photo_id in there)
    return [*parts, *find_traces(folder, there)[0]] if there else []


def _append(
    folder: pathlib.Path,
    source: Sequence[Example],
    labels: LabelSpace,
    source_name: str,
    licence: str,
) -> list[str]:
    _finish_killed(folder)
    description, spec = read_finished(folder)
    _check_labels(source_name, labels, spec.labels)
    others = find_others(folder) if in_workdir(folder) else []
    removed = {*description.get("removed", ())}
    for other in others:
        removed |= {*read_finished(other)[0].get("removed", ())}
    index_of = _index_new(source, source_name, removed)
    known = list_parts(folder / PARTS_FOLDER)
    present = sorted(index_of.keys() & known.keys())
    repeated = len(present) == len(index_of) and any(
        {*present} == {*one["photos"]} and one["licence"] == licence
        for one in description.get("appended", ())
    )
    if present and not repeated:
        raise _already_has(folder, source_name, present)
    if others and (held := find_in_others(folder, index_of)):
        other, ids = next(iter(held.items()))
        raise InputError(
            f"{source_name}: found {counted(len(ids), 'photo')} of the names of photos in {other} "
            f"({', '.join(ids)}), expected others: what is held out must not be in the bank; leave "
            "them out, or rename them"
        )
    aside = folder / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    stored = read_json(next(iter(known.values())) / META_FILE)["arrays"]
    fields = {field for field in _MAY_LACK if field in stored}
    examples = (_conform(source[index], fields) for index in index_of.values())
    photo_ids = write_parts(examples, spec, aside)
    if repeated:
        changed = [
            one
            for one, path in list_parts(aside).items()
            if read_meta(path)["digest"] != read_meta(known[one])["digest"]
        ]
        shutil.rmtree(aside)
        if changed:  # of the names of photos that it has, but other photos or layouts
            raise _already_has(folder, source_name, changed)
        return []
    edit = {"kind": "append", "source": source_name, "licence": licence}
    _edit(folder, edit | {"photos": photo_ids})
    return photo_ids


def _already_has(folder: pathlib.Path, source_name: str, present: list[str]) -> InputError:
    return InputError(
        f"{source_name}: found {counted(len(present), 'photo')} that the bank {folder} already "
        f"has ({', '.join(present)}), expected others; leave them out, or rename them"
    )


def _check_removal(folder: pathlib.Path, photo_ids: Sequence[str]) -> list[str]:
    """Those of the photos that are there; all others must have been taken out before."""
    description, _ = read_finished(folder)
    known, removed = list_parts(folder / PARTS_FOLDER), description.get("removed", ())
    asked = dict.fromkeys(photo_ids)
    absent = [one for one in asked if one not in known]
    if unknown := [one for one in absent if hash_id(one) not in removed]:
        there = find_in_others(folder, unknown[:1])
        advice = f"remove it with --bank={next(iter(there))}" if there else "check --photo"
        raise InputError(
            f"{folder}: found no photo {unknown[0]!r}, expected ids of its photos, as in "
            f"sources.json; {advice}"
        )
    if known.keys() <= asked.keys():
        raise InputError(
            f"{folder}: found no photo that would stay, expected one; begin another workdir, with "
            "files without these photos"
        )
    return [one for one in asked if one in known]


def _check_labels(source_name: str, found: LabelSpace, expected: LabelSpace) -> None:
    stored = [
        {key: value for key, value in dataclasses.asdict(labels).items() if key not in _OF_FILES}
        for labels in (found, expected)
    ]
    if stored[0] != stored[1]:
        raise InputError(
            f"{source_name}: found another label space than the bank's ({difference(*stored)}); "
            "map the layouts to the bank's classes, and give its labels"
        )


def _index_new(
    source: Sequence[Example], source_name: str, removed: Collection[str]
) -> dict[str, int]:
    """Where each photo stands in the source, by id; those of `removed` hashes are left out."""
    ids = [str(source[index]["id"]) for index in range(len(source))]
    index_of = {one: index for index, one in enumerate(ids) if hash_id(one) not in removed}
    if len(set(ids)) < len(ids):
        raise InputError(
            f"{source_name}: found {len(ids)} photos of {len(set(ids))} ids, expected different "
            "ids; rename some"
        )
    if out := len(ids) - len(index_of):
        print(f"{source_name}: photos that stay out because they were removed: {out}")
    if not index_of:
        raise InputError(f"{source_name}: found nothing to append, expected photos; add some")
    return index_of


def _conform(example: Example, fields: set[str]) -> Example:
    """The example with just those of `_MAY_LACK` that the bank has."""
    unknown = {
        field: np.zeros(np.shape(example["layout"]), OPTIONAL_FIELDS[field]) for field in fields
    }
    dropped = set(_MAY_LACK) - fields
    return unknown | {key: value for key, value in example.items() if key not in dropped}


def _edit(folder: pathlib.Path, edit: Edit) -> list[pathlib.Path]:
    """Records an edit and carries it out; returns what it deleted."""
    description, _ = read_finished(folder)  # once more: another edit may have come in between
    write_json(folder / BANK_FILE, description | {"complete": False, "edit": edit})
    return _carry_out(folder, description, edit)


def _finish_killed(folder: pathlib.Path) -> None:
    """Carries out the edit that a killed command has recorded, if there is one."""
    description = read_description(folder)
    edit = description.pop("edit", None)
    if edit:
        photos = counted(len(edit["photos"]), "photo")
        print(f"{folder}: going on with a killed {edit['kind']} of {photos}")
        _carry_out(folder, description, edit)


def _carry_out(folder: pathlib.Path, description: Description, edit: Edit) -> list[pathlib.Path]:
    """Moves or deletes what is left to, then strikes the edit out; returns what it deleted."""
    parts, photo_ids = folder / PARTS_FOLDER, edit["photos"]
    appended, removed = description.get("appended", []), description.get("removed", [])
    deleted = []
    if edit["kind"] == "append":
        for photo_id in photo_ids:
            part = part_folder(parts, photo_id)
            if not part.exists():
                part_folder(folder / _ASIDE, photo_id).rename(part)
        delete(folder.glob(PREPARED_ROWS))  # of a bank that is no more, and large
        appended = [*appended, {key: edit[key] for key in ("source", "licence", "photos")}]
    else:
        deleted = delete(part_folder(parts, photo_id) for photo_id in photo_ids)
        deleted += delete_traces(folder, photo_ids)
        removed = sorted({*removed, *map(hash_id, photo_ids)})
        appended = _strike_out(appended, photo_ids)
    sweep(folder)
    sweep(parts)
    finished = finish(folder, description | {"appended": appended, "removed": removed})
    update_report(folder, finished)
    write_json(folder / BANK_FILE, finished)
    return deleted


def _strike_out(appended: list[dict[str, Any]], photo_ids: list[str]) -> list[dict[str, Any]]:
    left = [[one for one in entry["photos"] if one not in photo_ids] for entry in appended]
    return [entry | {"photos": ids} for entry, ids in zip(appended, left, strict=True) if ids]
