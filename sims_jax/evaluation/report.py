"""An evaluation from end to end: what is judged, and what is told of it."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

import sims_jax
from sims_jax.bank.store import Store, open_bank
from sims_jax.config import write_json
from sims_jax.errors import InputError
from sims_jax.evaluation import judge as judging
from sims_jax.evaluation import protocol
from sims_jax.evaluation.baselines import raw_canvas, train_without_canvas
from sims_jax.evaluation.judge import Judge, train_judge
from sims_jax.evaluation.protocol import PhotoSet
from sims_jax.images import decode_photo, read_bytes
from sims_jax.labels import colorize, read_layout
from sims_jax.model import Model, Result
from sims_jax.ops.resize import resize_labels
from sims_jax.ops.sheet import contact_sheet, to_uint8, write_picture
from sims_jax.progress import progress

FOLDER = "evaluate"  # in the workdir
SHEET_EACH = 3  # of the best, of the median, of the worst


def evaluate(arguments: argparse.Namespace) -> dict:
    """Judges what the flags say; the report that was written.

    Raises:
      InputError: something that is asked for is missing, damaged, or of another size.
    """
    workdir, folder = arguments.workdir, arguments.workdir / FOLDER
    _check(arguments)
    store, heldout = open_bank(workdir / "bank"), open_bank(workdir / "heldout")
    if arguments.layouts:
        heldout = _read_judged(arguments.layouts, arguments.real, heldout)
    pictures: dict[str, np.ndarray] = {}
    extra: dict[str, dict[str, float]] = {}
    if arguments.photos:
        pictures["photos"] = _read_photos(arguments.photos, heldout)
    else:
        pictures, extra = _make_photos(workdir, heldout, arguments.baselines)
    judge = train_judge(store, heldout, folder)

    def look(photo: np.ndarray) -> PhotoSet:
        return protocol.look_at(photo, heldout.layout, judge, store.photo)

    real = look(heldout.photo)
    looked = {"real": real} | {name: look(photo) for name, photo in pictures.items()}
    with progress("scores", len(looked)) as bar:
        table = {}
        for name, photos in looked.items():
            table[name] = protocol.compare(photos, real)
            bar.update()
    report = {
        "protocol": _describe(judge, store, heldout),
        "scores": {
            name: {key: dict(zip(("value", "low", "high"), x, strict=True)) for key, x in y.items()}
            | extra.get(name, {})
            for name, y in table.items()
        },
        "floor": protocol.floor(real),
        "classes": {
            name: protocol.class_iou(photos, judge.labels.classes)
            for name, photos in looked.items()
        },
        "videos": _by_video(looked, heldout),
    }
    name = arguments.photos.name if arguments.photos else arguments.split
    path = arguments.json or folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = folder / f"{name}.png"
    write_picture(sheet, _sheet(looked["photos"], heldout))
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


def _make_photos(
    workdir: pathlib.Path, heldout: Store, baselines: bool
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """The model's photos by name of their set, and what their sources say."""
    model = sims_jax.load(workdir)
    results = _synthesize("synthesize", model, heldout)
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
        crn = train_without_canvas(workdir, workdir / FOLDER / "crn", model)
        crn_results = _synthesize("synthesize without a bank", crn, heldout)
        pictures["crn"] = _stack(crn_results, lambda result: result.photo)
    return pictures, extra


def _synthesize(name: str, model: Model, heldout: Store) -> list[Result]:
    results = []
    with progress(name, len(heldout.ids)) as bar:
        for layout in heldout.layout:
            results.append(model.synthesize(layout))
            bar.update()
    return results


def _stack(results: list[Result], picture: Callable[[Result], np.ndarray]) -> np.ndarray:
    return np.stack([to_uint8(picture(result)) for result in results])


def _read_judged(layouts: pathlib.Path, real: pathlib.Path, heldout: Store) -> Store:
    """The held-out store with other photos and layouts in it; each is a video of its own."""
    paths = _pngs(layouts)
    size = heldout.spec.image_size
    ids = tuple(path.stem for path in paths)
    read = [resize_labels(read_layout(path, heldout.spec.labels), size) for path in paths]
    judged = dataclasses.replace(heldout, ids=ids, videos=ids, layout=np.stack(read))
    return dataclasses.replace(judged, photo=_read_photos(real, judged))


def _read_photos(folder: pathlib.Path, judged: Store) -> np.ndarray:
    """Photos of the judged layouts, by name, at the working size."""
    there = {path.stem: path for path in _pngs(folder)}
    missing = [photo_id for photo_id in judged.ids if photo_id not in there]
    if missing:
        raise InputError(
            f"{folder / missing[0]}.png: not found, expected a photo for each of the "
            f"{len(judged.ids)} layouts ({len(missing)} are missing); make them"
        )
    size = judged.spec.image_size[::-1]
    return np.stack([
        np.asarray(
            Image.fromarray(decode_photo(read_bytes(there[i]), there[i]))
            .resize(size, Image.Resampling.BOX)
        )
        for i in judged.ids
    ])  # fmt: skip


def _pngs(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected one of PNGs; check the path")
    found = sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
    if not found:
        raise InputError(f"{folder}: found no PNG, expected one a layout; check the path")
    return found


# What is told.


def _describe(judge: Judge, store: Store, heldout: Store) -> dict[str, object]:
    return {
        "version": protocol.VERSION,
        "size": list(heldout.spec.image_size),
        "resampling": "photos area, layouts nearest",
        "judge": judging.ARCHITECTURE,
        "judge_seed": judging.SEED,
        "judge_sha256": judge.sha256,
        "features": f"the judge's, {judging.FEATURES}",
        "split": "val",
        "n": len(heldout.ids),
        "bank_sha256": store.digest,
        "bootstrap": f"{protocol.DRAWS} draws, {protocol.LEVEL:.0%}",
        "platform": jax.default_backend(),
    }


def _by_video(looked: dict[str, PhotoSet], heldout: Store) -> dict[str, dict[str, dict]]:
    """Scores of each video of several photos, where there is more than one."""
    videos = np.array(heldout.videos)
    names, counts = np.unique(videos, return_counts=True)
    if len(names) < 2:
        return {}
    return {
        str(video): {
            name: {
                key: function(np.flatnonzero(videos == video))
                for key, function in protocol.score_functions(photos, looked["real"]).items()
            }
            for name, photos in looked.items()
        }
        for video in names[counts > 1]
    }


def _sheet(photos: PhotoSet, heldout: Store) -> np.ndarray:
    """Rows of: layout | photo | what the judge finds in it | real; best, median, worst."""
    order = np.argsort(-np.nan_to_num(photos.accuracy))
    middle = max(0, (len(order) - SHEET_EACH) // 2)
    chosen = [*order[:SHEET_EACH], *order[middle:][:SHEET_EACH], *order[-SHEET_EACH:]]
    labels = heldout.spec.labels
    return contact_sheet([
        [colorize(heldout.layout[i], labels), photos.photo[i],
         colorize(photos.seen.found[i], labels), heldout.photo[i]]
        for i in chosen
    ])  # fmt: skip


def _tell(report: dict) -> None:
    for name, value in report["protocol"].items():
        print(f"{name}: {value}")
    sets = report["scores"]
    print("\n" + " " * 17 + "".join(f"{name:>26}" for name in sets))
    for key in protocol.SCORES:
        cells = [
            f"{s[key]['value']:.4g} [{s[key]['low']:.4g}, {s[key]['high']:.4g}]"
            for s in sets.values()
        ]
        print(f"{key:17}" + "".join(f"{cell:>26}" for cell in cells))
    for key, value in sets["photos"].items():
        if key not in protocol.SCORES:
            print(f"{key:17}{'':26}{value:>26.4g}")
    print("floor, halves of the real photos: " + json.dumps(report["floor"]))
    for key, meaning in protocol.SCORES.items():
        print(f"  {key}: {meaning}")
