"""`synthesize.py`: photos of layouts, and the sources of their segments, into a folder."""

import argparse
import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib

from sims_jax.commands import OneLineParser, exit_with_one_line, to_path
from sims_jax.errors import InputError
from sims_jax.programs import shorten_start
from sims_jax.words import counted

SHEET_FILE = "sheet.png"
SOURCES_FILE = "sources.json"
SHEET_PICTURE_PX = 240  # width of a picture on a sheet
SHEET_COLUMNS = 3  # layouts side by side on a sheet
NUM_NAMED = 3  # layouts of void alone


def synthesize_command() -> None:
    """`synthesize.py` and `sims-synthesize`."""
    shorten_start()
    arguments = synthesize_parser().parse_args()
    exit_with_one_line(lambda: _synthesize(arguments))


def synthesize_parser() -> argparse.ArgumentParser:
    """The flags of `synthesize.py`."""
    parser = OneLineParser(
        prog="synthesize", description="Makes photos of semantic layouts with a trained model."
    )
    parser.add_argument("--workdir", required=True, type=to_path, help="what train.py left")
    parser.add_argument(
        "--layout",
        required=True,
        type=to_path,
        help="a PNG or .npy of class ids, or a folder of them",
    )
    parser.add_argument("--out", required=True, type=to_path, help="folder for the photos")
    parser.add_argument("--coarse", action="store_true", help="make the layouts dense first")
    parser.add_argument(
        "--instances", type=to_path, help="PNG of instance ids, or a folder of them"
    )
    parser.add_argument(
        "--candidate",
        type=int,
        default=0,
        metavar="K",
        help="0: each segment's best candidate, 1: the second, ...",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="ID",
        help="photo of the bank that may not be used; may be given several times",
    )
    parser.add_argument(
        "--adherence",
        choices=("segment", "layout"),
        help="segment: segments keep their silhouettes; layout: the photo follows the layout",
    )
    parser.add_argument(
        "--reference",
        type=to_path,
        help="a photo whose light segments are brought into; the photo becomes as sharp, too",
    )
    parser.add_argument(
        "--photos",
        choices=("device", "disk"),
        help="of the bank: on the devices, or for more than fits there read when they are used",
    )
    parser.add_argument(
        "--rows",
        choices=("device", "stream"),
        default="device",
        help="of the bank: on the devices, or for more than fits there read in blocks, photos too",
    )
    parser.add_argument(
        "--sheet",
        action="store_true",
        help=f"also a contact sheet, OUT/{SHEET_FILE}: layout | canvas | photo",
    )
    return parser


def _synthesize(arguments: argparse.Namespace) -> None:
    import sims_jax
    from sims_jax.labels import VOID, colorize
    from sims_jax.ops.sheet import contact_sheet, write_picture
    from sims_jax.processes import describe_devices
    from sims_jax.progress import progress

    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out={arguments.out}: found a file, expected a folder; change it")
    paths = _layouts(arguments.layout)
    instances = _partners(paths, arguments.instances)
    earlier = _read_sources(arguments.out / SOURCES_FILE)
    _check_out(arguments, paths, instances, earlier)
    reference, origin = _read_reference(arguments.reference)
    describe_devices()  # or the platform that is asked for is missing
    model = sims_jax.load(arguments.workdir, photos=arguments.photos, rows=arguments.rows)
    # All files are read before the first photo is made: a bad one stops the whole, not the half.
    for pair in zip(paths, instances, strict=True):
        _read_pair(*pair, model.labels)
    names = [_photo_name(path) for path in paths]
    told = arguments.out / SOURCES_FILE
    made, rows, named, void, alone = {}, [], [], [], collections.Counter()
    print("synthesize: compiling", flush=True)
    bar = progress("synthesize", len(paths))
    try:
        for name, path, instance in zip(names, paths, instances, strict=True):
            layout, instance_ids = _read_pair(path, instance, model.labels)
            result = model.synthesize(
                layout,
                candidate=arguments.candidate,
                adherence=arguments.adherence,
                instances=instance_ids,
                coarse=arguments.coarse,
                exclude=arguments.exclude,
                reference=reference,
            )
            if not made:  # the model takes the flags
                # Whoever takes a photo out of the bank needs to find what was made of it: what
                # there will be is said at once, its sources at the end.
                _add_sources(told, names, dict.fromkeys(names))
            if (result.layout == VOID).all():
                void.append(path)
            sources = result.segments + result.fillings
            made[name] = [_to_json(source, origin) for source in sources]
            alone.update(s.class_name for s in result.segments if s.photo_id is None)
            write_picture(arguments.out / name, result.photo)
            if arguments.sheet:
                drawn = [layout, result.layout] if arguments.coarse else [layout]
                pictures = *(colorize(one, model.labels) for one in drawn), result.canvas
                rows.append([_shrink(picture) for picture in (*pictures, result.photo)])
                named.append([path.name, *[""] * len(pictures)])
            bar.update()
    finally:
        bar.close()
        if made:
            before = {name: earlier[name] for name in names if name in earlier}
            _add_sources(told, names, before | made)
    print(f"{counted(len(paths), 'photo')} and {SOURCES_FILE}: {arguments.out}")
    for class_name, count in alone.items():
        segments = counted(count, "segment")
        print(f"found nothing in the bank for {class_name} ({segments}): made without it")
    if void:
        first = ", ".join(map(str, void[:NUM_NAMED])) + ", ..." * (len(void) > NUM_NAMED)
        print(f"void alone at the model's size, photos show nothing ({len(void)}): {first}")
    if arguments.sheet:
        headings = ["coarse", "dense"] if arguments.coarse else ["layout"]
        headings += ["canvas", "photo"]
        sheet = contact_sheet(_abreast(rows), headings, names=_abreast(named))
        write_picture(arguments.out / SHEET_FILE, sheet)
        print(f"sheet: {arguments.out / SHEET_FILE}")


def _layouts(path: pathlib.Path) -> list[pathlib.Path]:
    from sims_jax.data.listing import list_images
    from sims_jax.labels import LAYOUT_SUFFIXES

    if not path.is_dir():
        return [path]
    found = list(list_images(path, suffixes=LAYOUT_SUFFIXES).values())
    if not found:
        raise InputError(f"{path}: found no PNG or .npy, expected layouts; check --layout")
    return found


def _photo_name(layout: pathlib.Path) -> str:
    """Of the photo of a layout, and of its instance ids."""
    return layout.name if layout.suffix.lower() == ".png" else f"{layout.stem}.png"


def _partners(
    paths: list[pathlib.Path], instances: pathlib.Path | None
) -> list[pathlib.Path | None]:
    if instances is None:
        return [None] * len(paths)
    if not instances.is_dir() and len(paths) == 1:
        return [instances]
    names = [_photo_name(path) for path in paths]
    missing = [name for name in names if not (instances / name).exists()]
    if missing:
        raise InputError(
            f"{instances / missing[0]}: not found, expected the instance ids of {missing[0]} "
            f"({len(missing)} of {len(paths)} are missing); add them"
        )
    return [instances / name for name in names]


def _check_out(
    arguments: argparse.Namespace,
    paths: list[pathlib.Path],
    instances: list[pathlib.Path | None],
    earlier: dict[str, list[dict]],
) -> None:
    """Refuses to write a photo over what is read or was not made here, or a sheet over a photo."""
    photos = {arguments.out.resolve() / _photo_name(path) for path in paths}
    for path in filter(None, (*paths, *instances, arguments.reference)):
        if path.parent.resolve() / path.name in photos:
            raise InputError(
                f"{path}: found in --out, where a photo would overwrite it, expected another "
                "folder; change --out"
            )
    for photo in sorted(photos):
        if photo.exists() and photo.name not in earlier:
            raise InputError(
                f"{photo}: found a file that is not in {SOURCES_FILE}, so was not made here, "
                "expected none of this name; change --out"
            )
    if arguments.sheet and SHEET_FILE in map(_photo_name, paths):
        raise InputError(
            f"{paths[0].parent / SHEET_FILE}: found a layout with the name of the sheet; "
            "rename it, or leave out --sheet"
        )


def _read_sources(path: pathlib.Path) -> dict[str, list[dict]]:
    """Those of photos made earlier, to which new ones are added."""
    try:
        sources = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        sources = None
    if not isinstance(sources, dict):
        raise InputError(
            f"{path}: found no sources of photos, expected what synthesize.py wrote; "
            "move the folder, or change --out"
        )
    return sources


def _add_sources(
    path: pathlib.Path, names: list[str], sources: dict[str, list[dict] | None]
) -> None:
    """Replaces those of the names by `sources`; another command may be adding its own meanwhile."""
    from sims_jax.atomic import locked, write_json

    with locked(path):
        others = {name: some for name, some in _read_sources(path).items() if name not in names}
        write_json(path, others | sources)


def _read_pair(path: pathlib.Path, instances: pathlib.Path | None, labels) -> tuple:
    """A layout and its instance ids, None if it has none."""
    from sims_jax.images import read_instances
    from sims_jax.labels import read_layout

    layout = read_layout(path, labels)
    if instances is None:
        return layout, None
    ids = read_instances(instances)
    if ids.shape != layout.shape:
        raise InputError(
            f"{instances}: found {ids.shape[0]}x{ids.shape[1]} pixels, expected the "
            f"{layout.shape[0]}x{layout.shape[1]} of {path}; give one instance id a pixel"
        )
    return layout, ids


def _read_reference(path: pathlib.Path | None) -> tuple:
    """The photo whose light is taken, and what `sources.json` says of it."""
    from sims_jax.images import decode_photo, read_bytes
    from sims_jax.model import check_reference

    if path is None:
        return None, None
    data = read_bytes(path)
    photo = decode_photo(data, path)
    check_reference(photo, path)
    return photo, {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _to_json(source, reference: dict | None) -> dict:
    """A segment of the bank's, and the photo whose light it was brought into."""
    light = reference if source.photo_id else None
    return dataclasses.asdict(source) | {"affine": source.affine.tolist(), "reference": light}


def _abreast(rows: list[list]) -> list[list]:
    """Several rows side by side."""
    starts = range(0, len(rows), SHEET_COLUMNS)
    return [[*itertools.chain(*rows[i : i + SHEET_COLUMNS])] for i in starts]


def _shrink(picture):
    import numpy as np
    from PIL import Image

    from sims_jax.ops.sheet import to_uint8

    height, width = picture.shape[:2]
    size = (SHEET_PICTURE_PX, max(1, round(SHEET_PICTURE_PX * height / width)))
    return np.asarray(Image.fromarray(to_uint8(picture)).resize(size, Image.Resampling.LANCZOS))
