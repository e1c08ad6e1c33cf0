"""The report of a check: on the terminal, as JSON, and as a sheet of the samples to look at."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from sims_jax.data.check.examine import (
    Fault,
    Finding,
    examine_all,
    find_copies,
    find_disagreements,
)
from sims_jax.data.pairs import FilesBuilder
from sims_jax.data.source import choose_dataset
from sims_jax.errors import InputError
from sims_jax.images import load_photo
from sims_jax.labels import LabelSpace, colorize
from sims_jax.ops.sheet import contact_sheet, write_picture
from sims_jax.words import counted

NUM_SHOWN = 20  # faults, or remarks, on the terminal; the JSON has all
NUM_SAMPLES = 32  # on the sheet
SAMPLE_PX = 240  # width of a picture on the sheet
UNREADABLE = "silver"  # in place of what cannot be read
LEAST_TRAIN, LEAST_VAL = 2, 1  # photos that training needs


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check has found; `faults` decide whether the dataset can be trained on."""

    dataset: str
    labels: LabelSpace | None
    findings: list[Finding]
    faults: list[Fault]
    remarks: list[Fault]

    @property
    def passed(self) -> bool:
        return not self.faults


def check_dataset(
    data: Mapping | ConfigDict,
    *,
    image_size: tuple[int, int],
    min_area_frac: float,
    follow_links: bool = False,
) -> Report:
    """Reads all of a dataset.

    Args:
      data: config.data.
      image_size, min_area_frac: of config.bank; segments are counted at this size.
      follow_links: files may lie outside of the dataset's folder.

    Raises:
      InputError: `data` names no dataset. What is wrong with its files is in the report.
    """
    name, builder, config = choose_dataset(data)
    if not issubclass(builder, FilesBuilder):
        return Report(name, None, [], [], [])
    errors: list[InputError] = []
    try:
        labels, splits = builder.list_examples(config, errors.append)
    except InputError as error:
        errors.append(error)
        return Report(name, None, [], [Fault.of(one) for one in errors], [])
    findings = examine_all(
        splits,
        labels,
        image_size=image_size,
        min_area_frac=min_area_frac,
        root=None if follow_links else pathlib.Path(config.root).expanduser().resolve(),
    )
    faults = [Fault.of(error) for error in errors]
    faults += find_disagreements(splits)
    faults += [fault for finding in findings for fault in finding.faults]
    faults += _find_shortage(name, findings)
    remarks = [*find_copies(findings), *_find_unseen(labels, findings), *_find_too_few(findings)]
    return Report(name, labels, findings, faults, remarks)


def _find_shortage(name: str, findings: list[Finding]) -> Iterator[Fault]:
    for split, least in (("train", LEAST_TRAIN), ("val", LEAST_VAL)):
        found = [finding for finding in findings if finding.split == split]
        segments = sum(int(finding.segments.sum()) for finding in found)
        if len(found) < least or not segments:
            yield Fault(
                f"{name}: found {counted(len(found), 'photo')} with {counted(segments, 'segment')} "
                f"in {split}, expected {least} or more and some segments; add some or lower "
                "config.bank.min_area_frac",
                (),
            )
        elif not sum(finding.pairs for finding in found):
            yield Fault(
                f"{name}: found no two adjacent objects (neither is planar) in {split}, expected "
                "some to learn their order from; add photos or lower config.bank.min_area_frac",
                (),
            )


def _find_unseen(labels: LabelSpace, findings: list[Finding]) -> list[Fault]:
    train = [finding.pixels[:-1] for finding in findings if finding.split == "train"]
    if not np.any(train):  # or none: that is a fault already
        return []
    names = [name for name, n in zip(labels.classes, _total(train), strict=True) if not n]
    if not names:
        return []
    return [
        Fault(f"train: found no pixel of {counted(len(names), 'class', 'classes')} "
              f"({', '.join(names)}); photos of them will be made without the bank", ())
    ]  # fmt: skip


def _find_too_few(findings: list[Finding]) -> Iterator[Fault]:
    if sum(finding.split == "val" for finding in findings) == 1:
        yield Fault(
            "val: found 1 photo, enough to train, but to judge takes two; hold out more", ()
        )


def _total(arrays) -> np.ndarray:
    return np.sum([*arrays], axis=0)


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values; files as text."""
    findings, labels = report.findings, report.labels
    content = {
        "dataset": report.dataset,
        "passed": report.passed,
        "photos": dict(collections.Counter(finding.split for finding in findings)),
        "faults": [_fault_to_json(fault) for fault in report.faults],
        "remarks": [_fault_to_json(remark) for remark in report.remarks],
    }
    if not findings or labels is None:
        return content
    sizes = collections.Counter(f.size for f in findings if f.size)
    pixels, segments = (_total(getattr(f, n) for f in findings) for n in ("pixels", "segments"))
    photos = _total(f.pixels[:-1] > 0 for f in findings)
    total = max(int(pixels.sum()), 1)
    return content | {
        "void_share": round(float(pixels[-1]) / total, 4),
        "sizes": {f"{height}x{width}": n for (height, width), n in sizes.most_common()},
        "classes": {
            name: {
                "share": round(float(pixels[i]) / total, 6),
                "photos": int(photos[i]),
                "segments": int(segments[i]),
            }
            for i, name in enumerate(labels.classes)
        },
    }


def _fault_to_json(fault: Fault) -> dict[str, Any]:
    return {"message": fault.message, "files": [str(path) for path in fault.files]}


def to_text(report: Report) -> str:
    """The report for a terminal."""
    content = to_json(report)
    lines = []
    if "classes" in content:
        photos = ", ".join(f"{n} {split}" for split, n in content["photos"].items())
        sizes = list(content["sizes"].items())
        more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
        lines += [
            f"{report.dataset}: {photos}",
            "sizes: " + ", ".join(f"{size} ({n})" for size, n in sizes[:3]) + more,
            f"void: {content['void_share']:.1%} of all pixels",
            f"{'class':<24}{'share':>8}{'photos':>9}{'segments':>10}",
        ]
        for name, entry in content["classes"].items():
            if entry["photos"]:
                numbers = f"{entry['share']:>8.2%}{entry['photos']:>9}{entry['segments']:>10}"
                lines.append(f"{name:<24}{numbers}")
    elif report.passed:
        lines.append(f"{report.dataset}: drawn by sims_jax, there are no files to check")
    for what, some in (("fault", report.faults), ("remark", report.remarks)):
        lines += [f"{what}: {one.message}" for one in some[:NUM_SHOWN]]
        if len(some) > NUM_SHOWN:
            lines.append(f"{what}: and {len(some) - NUM_SHOWN} more; --json=FILE lists all")
    verdict = "can be trained on" if report.passed else f"faults to correct: {len(report.faults)}"
    return "\n".join([*lines, f"{report.dataset}: {verdict}"])


def find_strange(report: Report) -> list[Finding]:
    """The examples with faults of their own, and the copies."""
    named = {one for remark in report.remarks for one in remark.ids}
    return [finding for finding in report.findings if finding.faults or finding.one.id in named]


def write_sheet(path: pathlib.Path, report: Report) -> int:
    """Writes photo | layout of examples with faults, of copies, and of those with the most void.

    Returns:
      how many are on it.
    """
    strange = find_strange(report)
    void = sorted(report.findings, key=lambda f: -f.pixels[-1] / max(f.pixels.sum(), 1))
    chosen = list({id(f): f for f in [*strange, *void]}.values())[:NUM_SAMPLES]
    if chosen:
        rows, names = zip(*(_sample(finding, report.labels) for finding in chosen), strict=True)
        write_picture(path, contact_sheet(rows, ["photo", "layout"], names))
    return len(chosen)


def _sample(finding: Finding, labels: LabelSpace) -> tuple[list[np.ndarray], list[str]]:
    """(photo, layout), grey where one cannot be read; (name, first fault, or the name again)."""
    example = finding.one.read(labels, lambda error: None)
    told = finding.faults[0].message if finding.faults else finding.one.id
    photo = layout = Image.new("RGB", (SAMPLE_PX, SAMPLE_PX // 2), UNREADABLE)
    if "photo" in example:
        photo = load_photo(example["photo"], told)
    if "layout" in example:
        layout = Image.fromarray(colorize(example["layout"], labels))
    return [_shrink(photo), _shrink(layout)], [finding.one.id, told.rpartition("found ")[2]]


def _shrink(picture: Image.Image) -> np.ndarray:
    height = max(1, round(SAMPLE_PX * picture.height / picture.width))
    return np.asarray(picture.resize((SAMPLE_PX, min(height, 2 * SAMPLE_PX))))
