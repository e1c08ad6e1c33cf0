"""An evaluation from end to end: what is judged, and what is told of it."""

import argparse
import functools
import pathlib
import zlib

import jax
import numpy as np

from sims_jax.atomic import write_json
from sims_jax.bank.store import Store, open_bank
from sims_jax.config import load_config
from sims_jax.errors import InputError
from sims_jax.evaluation import MEDOID, protocol
from sims_jax.evaluation import judge as judging
from sims_jax.evaluation.fid import MEANING, NAME, InceptionFeatures, fid
from sims_jax.evaluation.judge import Judge, train_judge
from sims_jax.evaluation.judged import (
    check_count,
    find_medoid,
    make_sets,
    read_judged,
    read_reference,
)
from sims_jax.evaluation.protocol import PhotoSet
from sims_jax.labels import colorize
from sims_jax.metrics import class_iou
from sims_jax.ops.sheet import contact_sheet, write_picture
from sims_jax.processes import describe_devices
from sims_jax.progress import progress

FOLDER = "evaluate"  # in the workdir
# Flags of which one makes the other's photos meaningless.
APART = (
    ("photos", "baselines"),
    ("photos", "coarse"),
    ("photos", "reference"),
    ("coarse", "baselines"),
    ("coarse", "reference"),
)
COLUMN = 34  # characters of the table: the longest cell and two spaces
SHEET_EACH = 3  # of the best, of the median, of the worst


def evaluate(arguments: argparse.Namespace) -> dict:
    """Judges what the flags say; the report that was written.

    Raises:
      InputError: something that is asked for is missing, damaged, or of other proportions.
    """
    _check(arguments)
    workdir, folder = arguments.workdir, arguments.workdir / FOLDER
    describe_devices()  # or the platform that is asked for is missing
    inception = InceptionFeatures.read(arguments.inception) if arguments.inception else None
    load_config(workdir)  # an error if it is no workdir
    store, heldout = open_bank(workdir / "bank"), open_bank(workdir / "heldout")
    if arguments.layouts:
        heldout = read_judged(arguments.layouts, arguments.real, store, heldout)
    origin, reference = None, None
    if arguments.reference is MEDOID:
        origin, reference, heldout = find_medoid(heldout)
    elif arguments.reference:
        origin, reference, heldout = read_reference(arguments.reference, heldout)
    check_count(
        len(heldout.ids), heldout.folder, f" beside the reference {origin}" if origin else ""
    )
    made = make_sets(arguments, store, heldout, reference, folder)
    judge = train_judge(store, heldout, folder)

    train_thumbnails = protocol.thumbnails(store.photo)

    def look(photo: np.ndarray) -> PhotoSet:
        return protocol.look_at(photo, heldout.layout, judge, train_thumbnails)

    real = look(heldout.photo)
    looked = {"real": real} | {name: look(photo) for name, photo in made.sets.items()}
    functions = {name: protocol.score_functions(photos, real) for name, photos in looked.items()}
    if inception:
        seen = {name: inception.look(photos.photo) for name, photos in looked.items()}
        for name, vectors in seen.items():
            functions[name][NAME] = functools.partial(fid, vectors, seen["real"])
    with progress("scores", len(looked)) as bar:
        table = {}
        for name in looked:
            table[name] = protocol.compare(functions[name], len(heldout.ids))
            bar.update()
    judged = str(arguments.layouts) if arguments.layouts else arguments.split
    report = {
        "protocol": _describe(judge, store, heldout, judged)
        | ({"reference": origin} if origin else {})
        | ({"inception_sha256": inception.sha256} if inception else {}),
        "scores": {
            name: {key: dict(zip(("value", "low", "high"), x, strict=True)) for key, x in y.items()}
            | made.told.get(name, {})
            for name, y in table.items()
        },
        "real_halves": protocol.half_distances(real),
        "classes": {name: _by_class(photos, heldout) for name, photos in looked.items()},
        "videos": _by_video(functions, heldout),
    }
    name = _name(arguments)
    path = arguments.json or folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = folder / f"{name}.png"
    write_picture(sheet, _sheet(looked["photos"], heldout, made.followed))
    write_json(path, report)
    _tell(report)
    print(f"report: {path}\nsheet of the best, the median and the worst: {sheet}")
    return report


def _check(arguments: argparse.Namespace) -> None:
    if arguments.workdir is None:
        raise InputError(
            "--workdir: found none, expected one of train.py, for --photos of others, too: the "
            "judge learns from its bank; add it"
        )
    if arguments.real and not arguments.layouts:
        raise InputError("--real: found no --layouts, expected the layouts of the real photos")
    if arguments.layouts and not arguments.photos:
        raise InputError("--layouts: found no --photos, expected the photos made of them")
    for one, other in APART:
        if getattr(arguments, one) and getattr(arguments, other):
            raise InputError(f"--{one}: found --{other}, expected one of the two; leave out one")


def _name(arguments: argparse.Namespace) -> str:
    """Of the report: another for what makes other photos, or others beside them."""

    def known_by_place(path: pathlib.Path) -> str:  # folders and files of one name are not one
        return f"-{zlib.crc32(str(path.resolve()).encode()):08x}"

    if arguments.photos:
        return arguments.photos.resolve().name + known_by_place(arguments.photos)
    name = arguments.split + "-coarse" * arguments.coarse + "-baselines" * arguments.baselines
    if arguments.reference is MEDOID:
        name += "-reference"
    elif arguments.reference:
        name += "-reference" + known_by_place(arguments.reference)
    return name


def _describe(judge: Judge, store: Store, heldout: Store, judged: str) -> dict[str, object]:
    return {
        "version": protocol.VERSION,
        "size": list(heldout.spec.image_size),
        "resampling": "photos bilinear with antialiasing, layouts nearest",
        "judge": judging.ARCHITECTURE,
        "judge_seed": judging.SEED,
        "judge_sha256": judge.sha256,
        "judge_photos": judge.photos,
        "features": f"the judge's, {judging.FEATURES}",
        "judged": judged,
        "n": len(heldout.ids),
        "bank_sha256": store.digest,
        "bootstrap": f"basic, {protocol.DRAWS} draws of photos, {protocol.LEVEL:.0%}",
        "platform": jax.default_backend(),
    }


def _by_class(photos: PhotoSet, heldout: Store) -> dict[str, float]:
    """Intersection over union of each class that is there."""
    each = class_iou(photos.confusion.sum(axis=0))
    names = heldout.spec.labels.classes
    return {n: float(iou) for n, iou in zip(names, each, strict=True) if not np.isnan(iou)}


def _by_video(
    functions: dict[str, dict[str, protocol.Score]], heldout: Store
) -> dict[str, dict[str, dict]]:
    """Scores of each video of several photos, where there is more than one."""
    videos = np.array(heldout.videos)
    names, counts = np.unique(videos, return_counts=True)
    if len(names) < 2:
        return {}
    return {
        str(video): {
            name: {key: function(np.flatnonzero(videos == video)) for key, function in own.items()}
            for name, own in functions.items()
        }
        for video in names[counts > 1]
    }


def _sheet(photos: PhotoSet, heldout: Store, followed: np.ndarray) -> np.ndarray:
    """Rows of: layout | photo | what the judge finds in it | real; best, median, worst.

    Where photos follow other layouts than they are judged by, these stand between the two.
    """
    order = np.argsort(-np.nan_to_num(photos.accuracy))
    middle = max(0, (len(order) - SHEET_EACH) // 2)
    chosen = [*order[:SHEET_EACH], *order[middle:][:SHEET_EACH], *order[-SHEET_EACH:]]
    layouts = [heldout.layout] + [followed] * (not np.array_equal(followed, heldout.layout))
    names = ["layout", "followed"][: len(layouts)]
    labels = heldout.spec.labels
    return contact_sheet([
        [*(colorize(layout[i], labels) for layout in layouts), photos.photo[i],
         colorize(photos.seen.found[i], labels), heldout.photo[i]]
        for i in chosen
    ], [*names, "photo", "what the judge finds", "real"])  # fmt: skip


def _tell(report: dict) -> None:
    for name, value in report["protocol"].items():
        print(f"{name}: {value}")
    sets = report["scores"]
    print("\n" + " " * 17 + "".join(f"{name:>{COLUMN}}" for name in sets))
    meanings = protocol.SCORES | ({NAME: MEANING} if NAME in sets["real"] else {})
    for key in meanings:
        cells = [
            f"{s[key]['value']:.3g} [{s[key]['low']:.3g}, {s[key]['high']:.3g}]"
            for s in sets.values()
        ]
        print(f"{key:17}" + "".join(f"{cell:>{COLUMN}}" for cell in cells))
    for key in (key for key in sets["photos"] if key not in meanings):
        cells = [f"{s[key]:.4g}" if key in s else "" for s in sets.values()]
        print(f"{key:17}" + "".join(f"{cell:>{COLUMN}}" for cell in cells))
    print("halves of the real photos to each other: " + _in_short(report["real_halves"]))
    for key, meaning in meanings.items():
        print(f"  {key}: {meaning}")


def _in_short(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
