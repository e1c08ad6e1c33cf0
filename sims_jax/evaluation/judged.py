"""What is judged: photos that the workdir's model makes of held-out layouts, or photos of others.

A set is a name and photos of all layouts, at the working size: `photos`, BASELINES, ...
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

import sims_jax
from sims_jax.bank.choose import LIGHT_STEPS
from sims_jax.bank.photo import as_float, resize_photo
from sims_jax.bank.store import Store
from sims_jax.data.listing import list_images, photo_id_of
from sims_jax.errors import InputError
from sims_jax.evaluation import BASELINES, protocol
from sims_jax.evaluation.baselines import raw_canvas, retrieve_photos, train_without_canvas
from sims_jax.images import decode_photo, read_bytes
from sims_jax.labels import LAYOUT_SUFFIXES, VOID, read_layout
from sims_jax.metrics import confusion_matrix, mean_iou
from sims_jax.model import Model
from sims_jax.ops.light import Light, measure_light, relight, sharpen
from sims_jax.ops.nearest import fill_nearest
from sims_jax.ops.resize import resize_labels
from sims_jax.ops.sheet import to_uint8
from sims_jax.progress import progress
from sims_jax.result import Result, Source
from sims_jax.words import counted

MOST_STRETCHED = 0.02  # of a photo's proportions


@dataclasses.dataclass(frozen=True)
class Made:
    """What is judged, and what its making says."""

    sets: dict[str, UInt8[np.ndarray, "n H W 3"]]  # `photos` first, then what they stand beside
    told: dict[str, dict[str, float]]  # of a set, by its name
    followed: UInt8[np.ndarray, "n H W"]  # the layouts that `photos` follow


def make_sets(
    arguments: argparse.Namespace,
    store: Store,
    heldout: Store,
    reference: UInt8[np.ndarray, "H W 3"] | None,
    folder: pathlib.Path,
) -> Made:
    """The photos that the flags ask for.

    Args:
      store: the bank.   heldout: the layouts, and their real photos.
      reference: the photo whose light all are made in.
      folder: where networks that an evaluation trains are kept.
    """
    if arguments.photos:
        return Made({"photos": _read_photos(arguments.photos, heldout)}, {}, heldout.layout)
    model = sims_jax.load(arguments.workdir)
    if arguments.coarse:
        return _make_coarse_photos(model, heldout)
    results = _synthesize("synthesize", model, heldout.layout, reference=reference)
    sets = {"photos": _stack(results, lambda result: result.photo)}
    sources = [{s.photo_id for s in _used(result)} for result in results]
    told = {
        "bank_share": float(np.mean([result.canvas_mask.mean() for result in results])),
        "source_photos": float(np.mean([len(some) for some in sources])),
        "light_spread": float(np.mean([_light_spread(model, result) for result in results])),
    }
    if arguments.baselines:
        canvas = _stack(results, lambda r: raw_canvas(r.canvas, r.canvas_mask))
        crn = train_without_canvas(arguments.workdir, folder, model)
        parametric = _synthesize("synthesize without a bank", crn, heldout.layout)
        made = (
            _bring(sharpen, canvas, reference),
            _bring(_relight, retrieve_photos(store, heldout.layout), reference),
            _bring(_relight, _stack(parametric, lambda result: result.photo), reference),
        )
        sets |= dict(zip(BASELINES, made, strict=True))
    return Made(sets, {"photos": told}, np.stack([result.layout for result in results]))


def _used(result: Result) -> list[Source]:
    """What a photo is made of."""
    return [source for source in result.segments + result.fillings if source.used]


def _light_spread(model: Model, result: Result) -> float:
    """How far apart in light the photos lie that pieces come from: in logarithms of colours."""
    rows = np.array([s.row_id for s in _used(result)], int)
    light = np.asarray(model.bank.light)[rows // model.spec.max_segments] / LIGHT_STEPS
    return float(np.sqrt(light.var(axis=0).mean())) if rows.size else 0.0


def _relight(photo: Array, light: Light) -> Array:
    """A photo as a whole in another light, and as sharp as a photo in it."""
    return sharpen(relight(photo, measure_light(photo), light), light)


def _bring(
    change: Callable[[Array, Light], Array], photos: np.ndarray, reference: np.ndarray | None
) -> np.ndarray:
    """Photos in bytes, each brought to the light of the reference, if there is one."""
    if reference is None:
        return photos
    light = measure_light(as_float(reference))
    one = jax.jit(lambda photo: change(as_float(photo), light))
    return np.stack([to_uint8(np.asarray(one(photo))) for photo in photos])


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
    return Made(
        sets={name: _stack(some, lambda one: one.photo) for name, some in results.items()},
        told={
            name: {"layout_miou": mean_iou(confusion_matrix(layout, heldout.layout, classes))}
            for name, layout in layouts.items()
        },
        followed=layouts["photos"],
    )


def _synthesize(name: str, model: Model, layouts: np.ndarray, **options: Any) -> list[Result]:
    results = []
    with progress(name, len(layouts)) as bar:
        for layout in layouts:
            results.append(model.synthesize(layout, **options))
            bar.update()
    return results


def _stack(results: list[Result], picture: Callable[[Result], np.ndarray]) -> np.ndarray:
    return np.stack([to_uint8(picture(result)) for result in results])


def read_reference(path: pathlib.Path, heldout: Store) -> tuple[str, np.ndarray, Store]:
    """The photo whose light all are brought into: its name; itself; the held-out without it."""
    photo = resize_photo(decode_photo(read_bytes(path), path), heldout.spec.image_size)
    return path.name, photo, _without(photo_id_of(path.name), heldout)


def find_medoid(heldout: Store) -> tuple[str, np.ndarray, Store]:
    """`read_reference` of the held-out photo whose light is nearest to the others' on average."""
    measure = jax.jit(lambda photo: measure_light(as_float(photo)).mean)
    light = np.stack([measure(photo) for photo in heldout.photo])
    apart = np.linalg.norm(light[:, None] - light, axis=-1)
    index = int(apart.mean(axis=1).argmin())
    photo_id = heldout.ids[index]
    return photo_id, heldout.photo[index], _without(photo_id, heldout)


def _without(photo_id: str, heldout: Store) -> Store:
    """The held-out store without the photo of an id, if it has it."""
    others = [index for index, one in enumerate(heldout.ids) if one != photo_id]
    return dataclasses.replace(
        heldout,
        ids=tuple(heldout.ids[i] for i in others),
        videos=tuple(heldout.videos[i] for i in others),
        photo=heldout.photo[others],
        layout=heldout.layout[others],
    )


def check_count(found: int, where: pathlib.Path, besides: str = "") -> None:
    """`besides`: what is there, too, and is not judged."""
    if found < protocol.LEAST_PHOTOS:
        raise InputError(
            f"{where}: found {counted(found, 'layout')} to judge{besides}, expected "
            f"{protocol.LEAST_PHOTOS} or more; hold more photos out"
        )


def read_judged(
    layouts: pathlib.Path, real: pathlib.Path | None, store: Store, heldout: Store
) -> Store:
    """The held-out store with other layouts in it, and their real photos: its own, or others.

    Those that the workdir has by the same id are of the same video, others each of its own.
    """
    paths = list_images(layouts, suffixes=LAYOUT_SUFFIXES)
    check_count(len(paths), layouts)
    labels, size = heldout.spec.labels, heldout.spec.image_size
    ids = tuple(paths)
    read = [resize_labels(read_layout(path, labels), size) for path in paths.values()]
    known = {i: video for s in (store, heldout) for i, video in zip(s.ids, s.videos, strict=True)}
    videos = tuple(known.get(photo_id, photo_id) for photo_id in ids)
    judged = dataclasses.replace(heldout, ids=ids, videos=videos, layout=np.stack(read))
    if real:
        return dataclasses.replace(judged, photo=_read_photos(real, judged))
    place = {photo_id: index for index, photo_id in enumerate(heldout.ids)}
    if unknown := [photo_id for photo_id in ids if photo_id not in place]:
        raise InputError(
            f"{paths[unknown[0]]}: found no photo of this name held out in the workdir, expected "
            f"one for each layout ({len(unknown)} of {len(ids)} have none); give --real"
        )
    return dataclasses.replace(judged, photo=heldout.photo[[place[i] for i in ids]])


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
            f"{path}: found {height}x{width} pixels, expected the proportions of {size[0]}x"
            f"{size[1]}, the model's size; crop it"
        )
    return resize_photo(photo, size)
