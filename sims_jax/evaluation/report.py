"""An evaluation from end to end: what is judged, and what is told of it."""

import argparse
import dataclasses
import functools
import json
import pathlib
import zlib
from collections.abc import Callable

import jax
import numpy as np

import sims_jax
from sims_jax.atomic import write_json
from sims_jax.bank.photo import resize_photo
from sims_jax.bank.store import Store, open_bank
from sims_jax.data.listing import list_images
from sims_jax.errors import InputError
from sims_jax.evaluation import judge as judging
from sims_jax.evaluation import protocol
from sims_jax.evaluation.baselines import raw_canvas, train_without_canvas
from sims_jax.evaluation.fid import MEANING, NAME, InceptionFeatures, fid
from sims_jax.evaluation.judge import Judge, train_judge
from sims_jax.evaluation.protocol import PhotoSet
from sims_jax.images import decode_photo, read_bytes
from sims_jax.labels import LAYOUT_SUFFIXES, VOID, colorize, read_layout
from sims_jax.metrics import class_iou, confusion_matrix, mean_iou
from sims_jax.model import Model
from sims_jax.ops.nearest import fill_nearest
from sims_jax.ops.resize import resize_labels
from sims_jax.ops.sheet import contact_sheet, to_uint8, write_picture
from sims_jax.progress import progress
from sims_jax.result import Result

FOLDER = "evaluate"  # in the workdir
MOST_STRETCHED = 0.02  # of a photo's proportions
COLUMN = 28  # characters of the table
SHEET_EACH = 3  # of the best, of the median, of the worst


def evaluate(arguments: argparse.Namespace) -> dict:
    """Judges what the flags say; the report that was written.

    Raises:
      InputError: something that is asked for is missing, damaged, or of other proportions.
    """
    workdir, folder = arguments.workdir, arguments.workdir / FOLDER
    _check(arguments)
    inception = InceptionFeatures.read(arguments.inception) if arguments.inception else None
    store, heldout = open_bank(workdir / "bank"), open_bank(workdir / "heldout")
    if arguments.layouts:
        heldout = _read_judged(arguments.layouts, arguments.real, store, heldout)
    _check_count(len(heldout.ids), heldout.folder)
    pictures: dict[str, np.ndarray] = {}
    extra: dict[str, dict[str, float]] = {}
    followed = heldout.layout
    if arguments.photos:
        pictures["photos"] = _read_photos(arguments.photos, heldout)
    else:
        made = _make_photos(workdir, heldout, arguments.baselines, arguments.coarse)
        pictures, extra, followed = made
    judge = train_judge(store, heldout, folder)

    train_thumbnails = protocol.thumbnails(store.photo)

    def look(photo: np.ndarray) -> PhotoSet:
        return protocol.look_at(photo, heldout.layout, judge, train_thumbnails)

    real = look(heldout.photo)
    looked = {"real": real} | {name: look(photo) for name, photo in pictures.items()}
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
        | ({"inception_sha256": inception.sha256} if inception else {}),
        "scores": {
            name: {key: dict(zip(("value", "low", "high"), x, strict=True)) for key, x in y.items()}
            | extra.get(name, {})
            for name, y in table.items()
        },
        "real_halves": protocol.half_distances(real),
        "classes": {name: _by_class(photos, heldout) for name, photos in looked.items()},
        "videos": _by_video(functions, heldout),
    }
    name = f"{arguments.split}-coarse" if arguments.coarse else arguments.split
    if arguments.photos:  # folders of one name are not one report
        place = arguments.photos.resolve()
        name = f"{place.name}-{zlib.crc32(str(place).encode()):08x}"
    path = arguments.json or folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = folder / f"{name}.png"
    write_picture(sheet, _sheet(looked["photos"], heldout, followed))
    write_json(path, report)
    _tell(report)
    print(f"report: {path}\nsheet of the best, the median and the worst: {sheet}")
    return report


# What is judged.


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.layouts is None) != (arguments.real is None):
        raise InputError("--layouts and --real: expected both or neither; give the other one, too")
    if arguments.layouts and not arguments.photos:
        raise InputError("--layouts: found no --photos, expected the photos made of them")
    if arguments.photos and arguments.baselines:
        raise InputError("--baselines: found --photos, but they are of the workdir's own model")
    if arguments.coarse and (arguments.photos or arguments.baselines):
        other = "--photos" if arguments.photos else "--baselines"
        raise InputError(f"--coarse: found {other}, expected one of the two; give the other alone")


def _check_count(found: int, where: pathlib.Path) -> None:
    if found < protocol.LEAST_PHOTOS:
        raise InputError(
            f"{where}: found {found} layouts, expected {protocol.LEAST_PHOTOS} or more; add some"
        )


# Photos by name of their set, what else is told of a set, and the layouts that `photos` follow.
Made = tuple[dict[str, np.ndarray], dict[str, dict[str, float]], np.ndarray]


def _make_photos(workdir: pathlib.Path, heldout: Store, baselines: bool, coarse: bool) -> Made:
    """The model's photos and what their sources say."""
    model = sims_jax.load(workdir)
    if coarse:
        return _make_coarse_photos(model, heldout)
    results = _synthesize("synthesize", model, heldout.layout)
    pictures = {"photos": _stack(results, lambda result: result.photo)}
    sources = [{s.photo_id for s in result.segments if s.used} for result in results]
    extra = {
        "photos": {
            "bank_share": float(np.mean([result.canvas_mask.mean() for result in results])),
            "source_photos": float(np.mean([len(some) for some in sources])),
        }
    }
    if baselines:
        pictures["canvas"] = _stack(results, lambda r: raw_canvas(r.canvas, r.canvas_mask))
        crn = train_without_canvas(workdir, workdir / FOLDER, model)
        crn_results = _synthesize("synthesize without a bank", crn, heldout.layout)
        pictures["crn"] = _stack(crn_results, lambda result: result.photo)
    return pictures, extra, np.stack([result.layout for result in results])


def _make_coarse_photos(model: Model, heldout: Store) -> Made:
    """Photos of coarse layouts made dense, of those filled with their nearest labels, of the fine.

    With the mIoU of the layout that each set follows.
    """
    fill = jax.jit(lambda coarse: fill_nearest(coarse, coarse != VOID)[0])
    nearest = np.stack([fill(coarse) for coarse in heldout.coarse])
    results = {
        "photos": _synthesize("synthesize coarse", model, heldout.coarse, coarse=True),
        "nearest": _synthesize("synthesize nearest", model, nearest),
        "fine": _synthesize("synthesize fine", model, heldout.layout),
    }
    classes = model.labels.num_classes
    layouts = {name: np.stack([one.layout for one in some]) for name, some in results.items()}
    pictures = {name: _stack(some, lambda one: one.photo) for name, some in results.items()}
    extra = {
        name: {"layout_miou": mean_iou(confusion_matrix(layout, heldout.layout, classes))}
        for name, layout in layouts.items()
    }
    return pictures, extra, layouts["photos"]


def _synthesize(name: str, model: Model, layouts: np.ndarray, **options: bool) -> list[Result]:
    results = []
    with progress(name, len(layouts)) as bar:
        for layout in layouts:
            results.append(model.synthesize(layout, **options))
            bar.update()
    return results


def _stack(results: list[Result], picture: Callable[[Result], np.ndarray]) -> np.ndarray:
    return np.stack([to_uint8(picture(result)) for result in results])


def _read_judged(layouts: pathlib.Path, real: pathlib.Path, store: Store, heldout: Store) -> Store:
    """The held-out store with other photos and layouts in it.

    Those that the workdir has by the same id are of the same video, others each of its own.
    """
    paths = list_images(layouts, suffixes=LAYOUT_SUFFIXES)
    _check_count(len(paths), layouts)
    labels, size = heldout.spec.labels, heldout.spec.image_size
    ids = tuple(paths)
    read = [resize_labels(read_layout(path, labels), size) for path in paths.values()]
    known = {i: video for s in (store, heldout) for i, video in zip(s.ids, s.videos, strict=True)}
    videos = tuple(known.get(photo_id, photo_id) for photo_id in ids)
    judged = dataclasses.replace(heldout, ids=ids, videos=videos, layout=np.stack(read))
    return dataclasses.replace(judged, photo=_read_photos(real, judged))


def _read_photos(folder: pathlib.Path, judged: Store) -> np.ndarray:
    """Photos of the judged layouts, by name, at the working size."""
    there = list_images(folder)
    missing = [photo_id for photo_id in judged.ids if photo_id not in there]
    if missing:
        raise InputError(
            f"{folder / missing[0]}.png: not found, expected a photo for each of the "
            f"{len(judged.ids)} layouts ({len(missing)} are missing); make them"
        )
    return np.stack([_read_photo(there[i], judged.spec.image_size) for i in judged.ids])


def _read_photo(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    photo = decode_photo(read_bytes(path), path)
    height, width = photo.shape[:2]
    if abs(width * size[0] / (height * size[1]) - 1) > MOST_STRETCHED:
        raise InputError(
            f"{path}: found {width}x{height} pixels, expected the proportions of {size[1]}x"
            f"{size[0]}, the model's size; crop it"
        )
    return resize_photo(photo, size)


# What is told.


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
    labels = heldout.spec.labels
    return contact_sheet([
        [*(colorize(layout[i], labels) for layout in layouts), photos.photo[i],
         colorize(photos.seen.found[i], labels), heldout.photo[i]]
        for i in chosen
    ])  # fmt: skip


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
    print("halves of the real photos to each other: " + json.dumps(report["real_halves"]))
    for key, meaning in meanings.items():
        print(f"  {key}: {meaning}")
