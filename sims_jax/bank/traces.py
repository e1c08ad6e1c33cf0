"""What holds pixels, rows or ids of a bank's photos besides its parts, and its deletion.

In every bank of the folder that a bank lies in:

    donors-<key>/                 rows by their numbers; found again when next needed
    rows-<key>/                   rows as devices read them; prepared again when next needed

Where that folder is a workdir:

    data/                         the prepared dataset
    aligned/                      donors, aligned; found again when next needed
    sheets/  sheet.png  events/   pictures of photos; the numbers are in metrics.jsonl, too
    evaluate/                     the same of its judges and baselines; their scores stay
    layouts/<photo id>.png        held-out layouts
    **/sources.json               photos of synthesize.py, with the ids of those they are made of,
                                  and the file of the one whose light they have

The user's own files, photos made elsewhere and what networks have learned stay as they are. So do
the scores in report.json; its counts of the bank follow every edit.
"""

import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from sims_jax.atomic import TEMPORARY_PREFIX, locked, write_json
from sims_jax.bank.description import BANK_FILE, PARTS_FOLDER, Description
from sims_jax.bank.parts import list_parts
from sims_jax.config import CONFIG_FILE
from sims_jax.data.listing import photo_id_of
from sims_jax.errors import InputError

PREPARED_ROWS = "rows-*"
_OF_ROWS = ("donors-*", PREPARED_ROWS)
_WITH_PIXELS = ("data", "aligned", "sheets", "sheet.png", "events")
_EVALUATED_WITH_PIXELS = ("evaluate/*.png", "evaluate/*/sheets", "evaluate/*/events")
_UNFINISHED = TEMPORARY_PREFIX + "*"  # pictures and sources of commands that were killed
_SHEET_FILE = "sheet.png"
_REPORT_FILE = "report.json"


def find_traces(
    folder: pathlib.Path, photo_ids: Iterable[str]
) -> tuple[list[pathlib.Path], dict[pathlib.Path, set[str]]]:
    """All of the above that there is of photos of the bank in `folder`.

    Returns:
      what is to be deleted, and which photos are to be struck out of a sources.json.

    Raises:
      InputError: a sources.json cannot be read.
    """
    photo_ids, around = set(photo_ids), folder.absolute().parent
    traces = {path for bank in find_banks(around) for kind in _OF_ROWS for path in bank.glob(kind)}
    struck = {}
    if in_workdir(folder):
        traces |= {around / name for name in _WITH_PIXELS}
        traces |= {path for name in _EVALUATED_WITH_PIXELS for path in around.glob(name)}
        traces |= {around / "layouts" / f"{photo_id}.png" for photo_id in photo_ids}
        traces |= set(_search(around, _UNFINISHED))
        for sources in _search(around, "sources.json"):
            names = _find_made(sources, photo_ids)
            # A sheet may show photos that were made anew since, of other sources.
            traces |= {sources.parent / name for name in (*names, _SHEET_FILE)}
            if names:
                struck[sources] = names
    whole = {path for path in traces if path.exists() and not traces.intersection(path.parents)}
    return sorted(whole), struck


def delete_traces(folder: pathlib.Path, photo_ids: Iterable[str]) -> list[pathlib.Path]:
    """Deletes what `find_traces` finds; returns what it was.

    Raises:
      InputError: a sources.json cannot be read.
    """
    traces, struck = find_traces(folder, photo_ids)
    deleted = delete(traces)
    for sources, names in struck.items():
        with locked(sources):
            made = json.loads(sources.read_text())
            write_json(sources, {name: made[name] for name in made if name not in names})
    return deleted


def update_report(folder: pathlib.Path, finished: Description) -> None:
    """Brings what a workdir's report says of the bank in `folder` up to date, if it does.

    Raises:
      InputError: the report cannot be read.
    """
    path = folder.absolute().parent / _REPORT_FILE
    if not path.exists():
        return
    try:
        report = json.loads(path.read_text())
        counts = {key: finished[key] for key in report.get(folder.name, ())}
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: found another content ({error!r}), expected what train.py wrote; delete it"
        ) from error
    if counts:
        write_json(path, report | {folder.name: counts})


def find_banks(around: pathlib.Path) -> list[pathlib.Path]:
    """The banks in a folder."""
    return sorted(path.parent for path in around.glob(f"*/{BANK_FILE}"))


def in_workdir(folder: pathlib.Path) -> bool:
    """Whether the folder that the bank in `folder` lies in is a workdir of train.py."""
    return (folder.absolute().parent / CONFIG_FILE).exists()


def find_others(folder: pathlib.Path) -> list[pathlib.Path]:
    """The banks that have begun beside the one in `folder`."""
    folder = folder.absolute()
    banks = find_banks(folder.parent)
    return [bank for bank in banks if bank != folder and (bank / PARTS_FOLDER).is_dir()]


def find_in_others(folder: pathlib.Path, photo_ids: Iterable[str]) -> dict[pathlib.Path, list[str]]:
    """Which of some photos the banks beside the one in `folder` have, by their folders."""
    asked = set(photo_ids)
    shared = {
        bank: sorted(asked & list_parts(bank / PARTS_FOLDER).keys()) for bank in find_others(folder)
    }
    return {bank: ids for bank, ids in shared.items() if ids}


def _search(around: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Files at any depth of a workdir, but not of its banks: they have very many."""
    banks = find_banks(around)
    folders = [path for path in around.iterdir() if path.is_dir() and path not in banks]
    return [*around.glob(pattern), *(path for one in folders for path in one.rglob(pattern))]


def delete(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Deletes the files and folders that exist; returns which they were."""
    existing = sorted(path for path in paths if path.exists())
    for path in existing:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return existing


def _find_made(sources: pathlib.Path, photo_ids: set[str]) -> set[str]:
    """The photos made of some photos, in the light of one, or of their layouts."""
    try:
        return {
            name
            for name, segments in json.loads(sources.read_text()).items()
            if segments is None  # not told, for its command was killed: it may be
            or pathlib.Path(name).stem in photo_ids
            or photo_ids.intersection(one for segment in segments for one in _made_of(segment))
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{sources}: found another content ({error!r}), expected what synthesize.py wrote; "
            "move or delete its folder"
        ) from error


def _made_of(segment: dict[str, Any]) -> Iterator[str]:
    yield segment["photo_id"]
    if segment.get("reference"):  # a file, which may be the photo's
        yield photo_id_of(segment["reference"]["file"])
