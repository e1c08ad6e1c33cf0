"""Reads a whole dataset and keeps what it finds: faults by file, and numbers of every example.

A fault is what training would stop at, or should not be fed with: it decides the status. A remark
is worth a look, and no more.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from scipy import ndimage

from sims_jax.data.pairs import Listed, Splits, check_ids, check_maps
from sims_jax.errors import InputError
from sims_jax.labels import CITYSCAPES, VOID, LabelSpace
from sims_jax.ops.adjacent import find_adjacent
from sims_jax.ops.resize import resize_labels
from sims_jax.progress import progress

MAX_THREADS = 8  # decoding frees the interpreter's lock; each may hold a large picture
ROAD_LABEL_ID, ROAD_TRAIN_ID = 7, 0  # of Cityscapes; train id 7 is a traffic sign
SIGN_AREA_FRAC = 0.1  # of a frame that no traffic signs fill


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong, in one line, and the files to look at; and which examples, if it is some."""

    message: str
    files: tuple[pathlib.Path, ...]
    ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: InputError) -> "Fault":
        return cls(" ".join(str(error).split()), error.files)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one example is.

    Args:
      one: the example as listed.
      faults: of its files.
      size: (H, W) of the layout, None if it cannot be read or is not of the photo's size.
      digest: of the photo's content, to find copies.
      pixels: int64 [C + 1], of each class; the last is void.
      segments: int64 [C], of each class at the bank's size.
      pairs: of these, pairs that touch and of which neither is planar: what order is learned from.
    """

    one: Listed
    split: str
    faults: tuple[Fault, ...]
    size: tuple[int, int] | None
    digest: str
    pixels: np.ndarray
    segments: np.ndarray
    pairs: int


def examine_all(
    splits: Splits,
    labels: LabelSpace,
    *,
    image_size: tuple[int, int],
    min_area_frac: float,
    root: pathlib.Path | None,
) -> list[Finding]:
    """Reads every example, some at a time, in the order they are listed in.

    Args:
      image_size: (H, W) at which segments are counted.
      min_area_frac: of that frame; smaller components are no segments.
      root: folder that no file may lie outside of, by a link; None if any may.
    """
    listed = [(split, one) for split, examples in splits.items() for one in examples]
    findings: list[Finding | None] = [None] * len(listed)
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with progress("checking", len(listed)) as bar, ThreadPoolExecutor(threads) as pool:
        jobs = {
            pool.submit(examine, one, split, labels, image_size, min_area_frac, root): index
            for index, (split, one) in enumerate(listed)
        }
        try:
            for job in as_completed(jobs):
                findings[jobs[job]] = job.result()
                bar.update()
        finally:
            # After an interrupt the rest is not read.
            pool.shutdown(wait=False, cancel_futures=True)
    return findings


def examine(
    one: Listed,
    split: str,
    labels: LabelSpace,
    image_size: tuple[int, int],
    min_area_frac: float,
    root: pathlib.Path | None,
) -> Finding:
    """Reads one example; see `examine_all`."""
    errors: list[InputError] = []
    example = one.read(labels, errors.append)
    faults = [Fault.of(error) for error in errors]
    if root:
        faults += _leaving(one, root)
    pixels = np.zeros(labels.num_classes + 1, np.int64)
    segments, pairs = pixels[:-1].copy(), 0
    if "layout" in example:
        layout = example["layout"]
        count = np.bincount(layout.ravel(), minlength=VOID + 1)
        pixels = np.append(count[: labels.num_classes], count[VOID])
        faults += _strange(one, pixels, labels)
        small = {
            name: resize_labels(example[name], image_size)
            for name in ("layout", "instances")
            if name in example
        }
        segments, pairs = count_segments(labels=labels, min_area_frac=min_area_frac, **small)
    photo = example.get("photo")
    return Finding(
        one=one,
        split=split,
        faults=tuple(faults),
        size=example["layout"].shape if "layout" in example else None,
        digest=hashlib.sha256(photo).hexdigest() if photo else "",
        pixels=pixels,
        segments=segments,
        pairs=pairs,
    )


def count_segments(
    layout: np.ndarray,
    labels: LabelSpace,
    min_area_frac: float,
    instances: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """8-connected components of each class, and of each instance of one; int64 [C], and pairs.

    Pairs are those that touch and of which neither is planar.
    Differs from `bank.segments`: what only poles and signs separate is not joined, and outlines
    are not smoothed; and from `bank.pairs`: whether a depth is known where two touch is not asked.
    """
    class_ids, component = [], np.full(layout.shape, -1)
    context = labels.ids(labels.context)
    for class_id in np.setdiff1d(np.unique(layout), [VOID]):
        of_class = layout == class_id
        parts = [of_class]
        if instances is not None and class_id not in context:
            parts = [of_class & (instances == i) for i in np.unique(instances[of_class])]
        for part in parts:
            number, _ = ndimage.label(part, np.ones((3, 3)))
            area = np.bincount(number.ravel())
            large = np.flatnonzero(area[1:] >= min_area_frac * layout.size) + 1
            index = np.full(len(area), -1)
            index[large] = len(class_ids) + np.arange(len(large))
            component = np.where(part, index[number], component)
            class_ids += [class_id] * len(large)
    planar = np.isin(class_ids, labels.ids(labels.planar))
    pairs = sum(not planar[[a, b]].any() for a, b in find_adjacent(component))
    return np.bincount(np.array(class_ids, int), minlength=labels.num_classes), pairs


def find_copies(findings: list[Finding]) -> Iterator[Fault]:
    """Remarks: photos of the same content."""
    by_digest: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.digest:
            by_digest.setdefault(finding.digest, []).append(finding)
    for same in by_digest.values():
        if len(same) > 1:
            files = [_first_file(finding.one) for finding in same]
            splits = sorted({finding.split for finding in same})
            leak = f" in the splits {' and '.join(splits)}" if len(splits) > 1 else ""
            yield Fault(
                f"{_name(same[0].one)}: found {len(files)} copies of this photo{leak} (the next: "
                f"{_name(same[1].one)}), expected one; remove the others",
                tuple(files),
                tuple(finding.one.id for finding in same),
            )


def find_disagreements(splits: Splits) -> list[Fault]:
    """Faults: examples of one name, and maps that only some have."""
    errors: list[InputError] = []
    check_ids(splits, errors.append)
    check_maps(splits, errors.append)
    return [Fault.of(error) for error in errors]


def _first_file(one: Listed) -> pathlib.Path:
    return next(iter(one.files.values()))


def _name(one: Listed, field: str = "photo") -> str:
    """The file of a field, and the example where one file has several."""
    return (
        str(one.files[field])
        if field in one.files and "layout" in one.files
        else (f"{_first_file(one)}, {one.id}")
    )


def _strange(one: Listed, pixels: np.ndarray, labels: LabelSpace) -> Iterator[Fault]:
    """Faults of a layout that can be read."""
    name, files = _name(one, "layout"), (one.files.get("layout", _first_file(one)),)
    if not pixels[:-1].any():
        yield Fault(f"{name}: found void alone, expected classes; label it or remove it", files)
    if labels.classes == CITYSCAPES.classes:
        signs = pixels[ROAD_LABEL_ID] / pixels.sum()
        if signs > SIGN_AREA_FRAC and not pixels[ROAD_TRAIN_ID]:
            yield Fault(
                f"{name}: found traffic signs on {signs:.0%} of the photo and no road, expected "
                "trainIds; these look like Cityscapes' labelIds: convert them",
                files,
            )


def _leaving(one: Listed, root: pathlib.Path) -> Iterator[Fault]:
    """Faults: links that lead out of the dataset's folder."""
    for path in one.files.values():
        target = pathlib.Path(os.path.realpath(path))
        if not target.is_relative_to(root):
            yield Fault(
                f"{path}: found a link to {target}, expected a file in {root}; put a copy there, "
                "or give --follow_links if this is meant",
                (path,),
            )
