"""Builds a memory bank on disk from a dataset: one self-contained part a photo.

The folder of a bank:

    bank.json            see `sims_jax.bank.description`
    parts/<photo id>/    one photo, see `sims_jax.bank.photo`
    donors-<key>/        nearest rows, see `sims_jax.bank.donors`
    rows-<key>/          rows to be read in blocks, see `sims_jax.bank.blocks`
    .tmp-*               what is being written; a process's list of its photos when it is done

Parts are renamed into place, so a build that was killed continues with what is complete.
Differs from SIMS (.mat files of crops): photos are stored once, segments are rows.
"""

import collections
import json
import multiprocessing
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
import numpy as np

from sims_jax.atomic import TEMPORARY_PREFIX, write_json
from sims_jax.bank.description import (
    BANK_FILE,
    FORMAT,
    PARTS_FOLDER,
    Description,
    hash_id,
    refuse_another,
    refuse_unfinished_edit,
    spec_to_json,
    write_finished,
)
from sims_jax.bank.parts import (
    list_parts,
    part_folder,
    read_json,
    sweep,
    write_part,
)
from sims_jax.bank.photo import describe_photo, prepare_example
from sims_jax.bank.segments import split_layout
from sims_jax.data.example import OPTIONAL_FIELDS, Example
from sims_jax.errors import InputError
from sims_jax.processes import wait_for_all
from sims_jax.progress import progress
from sims_jax.types import BankSpec

_SHARE_PREFIX = TEMPORARY_PREFIX + "share-"
_SPLIT_BATCH = 8


def build_bank(
    source: Sequence[Example],
    spec: BankSpec,
    folder: str | pathlib.Path,
    *,
    source_name: str,
    licence: str,
    share: tuple[int, int] = (0, 1),
) -> pathlib.Path:
    """Builds the bank of a dataset, or finishes one; a finished one is left as it is.

    Several processes build one bank together, each its share; whichever finds all of them done
    finishes it, and the others return before that. Photos that were removed from the bank stay out.

    Args:
      source: examples as dicts of id, photo, layout, video, frame and, where the dataset has
        them, instances, depth and coarse; sizes other than `spec.image_size` are resampled.
      spec: what the bank and the layouts asked of it have in common.
      folder: where the bank is or will be.
      source_name: the dataset's name, for messages and provenance.
      licence: the photos' licence, for provenance.
      share: (index, count); this process writes the examples whose index is `index` modulo `count`.

    Returns:
      The bank's folder.

    Raises:
      InputError: no photo was found, an example cannot be used, or the folder holds a bank
        of another spec or dataset, or one that is being edited.
    """
    folder = pathlib.Path(folder)
    if len(source) == 0:
        raise InputError(
            f"{source_name}: found 0 examples, expected photos with layouts; check the dataset's "
            "folder and split"
        )
    identity = {
        "format": FORMAT,
        "spec": spec_to_json(spec),
        "source": source_name,
        "licence": licence,
    }
    description = _begin(folder, identity)
    removed = frozenset(description.get("removed", ()))
    if removed:
        print(f"{folder}: photos that stay out because they were removed: {len(removed)}")
    if description.get("complete") is True:
        return folder
    own = _share_file(folder, share[0], share[1])
    own.unlink(missing_ok=True)  # of a killed build; this one's shall say what is there now
    examples = _read_share(source, share, source_name)
    kept = (example for example in examples if hash_id(str(example["id"])) not in removed)
    write_json(own, {"photos": write_parts(kept, spec, folder / PARTS_FOLDER)})
    _finish(folder, description, share[1])
    return folder


def build_bank_together(
    source: Sequence[Example],
    spec: BankSpec,
    folder: str | pathlib.Path,
    *,
    source_name: str,
    licence: str,
    processes: int = 1,
) -> pathlib.Path:
    """`build_bank` by several processes at once; returns when the bank is finished.

    With `jax.distributed` all its processes call this together, and each builds its share, on a
    folder that all of them see.

    Args:
      source, spec, folder, source_name, licence: as of `build_bank`; the source is pickled.
      processes: to start here, on the CPU; 1 builds in this one.

    Raises:
      InputError: as `build_bank`; or a process was killed.
    """
    count, first = jax.process_count() * processes, jax.process_index() * processes
    names = {"source_name": source_name, "licence": licence}
    if processes == 1:
        build_bank(source, spec, folder, **names, share=(first, count))
    else:
        spawn = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
        with ProcessPoolExecutor(processes, spawn, initializer=_use_cpu) as pool:
            shares = [
                pool.submit(build_bank, source, spec, folder, **names, share=(first + index, count))
                for index in range(processes)
            ]
        try:
            for share in shares:
                share.result()
        except BrokenProcessPool as error:
            raise InputError(
                f"{folder}: found that one of {processes} processes was killed, expected memory "
                "for all; give the same command again, with fewer: it continues"
            ) from error
    wait_for_all(f"the bank {folder}")
    return pathlib.Path(folder)


def _use_cpu() -> None:
    """Leaves the accelerators to the process that started this one."""
    jax.config.update("jax_platforms", "cpu")


def _begin(folder: pathlib.Path, identity: Description) -> Description:
    """The description of the bank in `folder`, begun if there is none; an error if of another."""
    path, parts = folder / BANK_FILE, folder / PARTS_FOLDER
    # In this order: another process may be beginning it just now, the description first.
    if parts.exists() and not path.exists():
        raise InputError(
            f"{folder}: found {PARTS_FOLDER}/ without {BANK_FILE}, expected a bank or "
            "nothing; delete the folder or choose another workdir"
        )
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, identity | {"complete": False})
    parts.mkdir(exist_ok=True)
    description = read_json(path)
    refuse_another(folder, description, identity)
    refuse_unfinished_edit(folder, description)
    return description


def _read_share(
    source: Sequence[Example], share: tuple[int, int], source_name: str
) -> Iterator[Example]:
    """The examples of a share; all must have the fields of the source's first."""
    fields = frozenset(OPTIONAL_FIELDS).intersection(source[0])
    indices = range(share[0], len(source), share[1])
    with progress("bank: photos", len(indices), shown=share[0] == 0) as bar:
        for index in indices:
            example = source[index]
            found = frozenset(OPTIONAL_FIELDS).intersection(example)
            if found != fields:
                raise InputError(
                    f"{source_name}: found {sorted(found)} with photo {example['id']!r}, expected "
                    f"{sorted(fields)} as with the others; complete or remove them"
                )
            yield example
            bar.update()


def write_parts(examples: Iterable[Example], spec: BankSpec, parts: pathlib.Path) -> list[str]:
    """Writes the parts that `parts` does not have; the ids of all examples, in their order.

    Raises:
      InputError: an example cannot be used.
    """
    split = jax.jit(split_layout, static_argnames="spec")
    ids: list[str] = []
    waiting: list[Example] = []
    for example in examples:
        ids.append(str(example["id"]))
        if not part_folder(parts, ids[-1]).exists():
            waiting.append(prepare_example(example, spec))
        if len(waiting) == _SPLIT_BATCH:
            _write_batch(waiting, spec, parts, split)
            waiting = []
    if waiting:
        _write_batch(waiting, spec, parts, split)
    return ids


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


def _share_file(folder: pathlib.Path, index: int, count: int) -> pathlib.Path:
    return folder / f"{_SHARE_PREFIX}{index}-of-{count}.json"


def _finish(folder: pathlib.Path, description: Description, count: int) -> None:
    """Finishes the bank if all shares are done; two processes that both do write the same."""
    try:
        shares = [
            json.loads(_share_file(folder, index, count).read_text()) for index in range(count)
        ]
    except FileNotFoundError:
        return  # another process is still at work, or has finished the bank just now
    ids = [photo_id for share in shares for photo_id in share["photos"]]
    ids += [photo_id for entry in description.get("appended", ()) for photo_id in entry["photos"]]
    _check_ids(folder / PARTS_FOLDER, ids, description["source"])
    write_finished(folder, description)
    for path in folder.glob(f"{_SHARE_PREFIX}*"):
        path.unlink(missing_ok=True)
    sweep(folder / PARTS_FOLDER)


def _check_ids(parts: pathlib.Path, ids: list[str], source_name: str) -> None:
    """Every id once, with a part, and no part besides."""
    photo_id, count = collections.Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{source_name}: found {count} photos of id {photo_id!r}, expected different ids; "
            "rename all but one, delete the bank's folder and build it again"
        )
    found = list_parts(parts)
    for photo_id in sorted(found.keys() ^ set(ids)):
        wrong = "found a photo that {} does not have" if photo_id in found else "lost a photo of {}"
        raise InputError(
            f"{part_folder(parts, photo_id)}: {wrong.format(source_name)}, expected the parts of "
            "this dataset, all and alone; delete the bank's folder or choose another workdir"
        )
