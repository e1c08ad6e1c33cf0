"""Files of a dataset, listed and paired by name. Nothing is read yet.

Functions that take `refuse` call it with every fault they meet and, if it returns, go on without
the file.
"""

import pathlib
import re
from collections.abc import Mapping

from sims_jax.errors import InputError, Refuse, refuse_at_once
from sims_jax.labels import NUMPY_SUFFIX
from sims_jax.words import counted

_SUFFIXES = (".png", ".jpg", ".jpeg")
_OTHER_IMAGES = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp")  # that people have
_STEM = re.compile(r"(?P<video>.+?)_f?(?P<frame>\d+)")
_NUM_SHOWN = 3  # of a list of names, in a message

Files = dict[str, pathlib.Path]  # by name


# What names of photos end in, and their ids do not: Cityscapes'.
PHOTO_TAIL = "_leftImg8bit"


def photo_id_of(file: str) -> str:
    """The id under which a bank has the photo of a file, if it has it."""
    return pathlib.Path(file).stem.removesuffix(PHOTO_TAIL)


def list_images(
    folder: pathlib.Path,
    *,
    tail: str = "",
    nested: bool = False,
    suffixes: tuple[str, ...] = _SUFFIXES,
    refuse: Refuse = refuse_at_once,
) -> Files:
    """The PNG and JPEG files of a folder by name, sorted; hidden ones left out.

    Args:
      suffixes: of the files that are listed, in small letters.
      tail: what the names end in; other files are left out, and the name is what is before it.
      nested: the files lie one folder deeper.

    Raises:
      InputError: there is no such folder, or (through `refuse`) two files have one name, or one is
        an image of another format.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected images in it; check the path")
    images: Files = {}
    for path in sorted(folder.glob("*/*") if nested else folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or not path.stem.endswith(tail):
            continue
        if suffix not in suffixes:
            if suffix in (*_SUFFIXES, *_OTHER_IMAGES):
                message = f"{path}: found a {suffix} file, expected a PNG; save it as one"
                refuse(InputError(message, [path]))
            continue
        name = path.stem.removesuffix(tail)
        if any(map(_is_surrogate, name)):
            shown = str(path).encode(errors="backslashreplace").decode()
            refuse(InputError(f"{shown}: found a name that is no UTF-8; rename it", [path]))
            continue
        if name in images:
            message = f"{path}: found also {images[name].name}, expected one file a name"
            refuse(InputError(f"{message}; remove one", [path, images[name]]))
        images[name] = path
    return images


def pair_files(
    photos: pathlib.Path,
    maps: pathlib.Path,
    *,
    photo_tail: str = "",
    map_tail: str = "",
    nested: bool = False,
    refuse: Refuse = refuse_at_once,
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Pairs the images of two folders by name, in sorted order; for tails see `list_images`.

    Maps may be .npy files, too.

    Raises:
      InputError: a folder is missing or is empty, or (through `refuse`) a file has no partner in
        the other.
    """
    left = list_images(photos, tail=photo_tail, nested=nested, refuse=refuse)
    suffixes = (*_SUFFIXES, NUMPY_SUFFIX)
    right = list_images(maps, tail=map_tail, nested=nested, suffixes=suffixes, refuse=refuse)
    alone = [path for name, path in left.items() if name not in right]
    orphans = [path for name, path in right.items() if name not in left]
    if alone or orphans:
        message = (
            f"{photos}: found {_count(alone)} without a partner in {maps}, and {_count(orphans)} "
            "there without a partner here, expected equal names; rename or remove them"
        )
        refuse(InputError(message, [*alone, *orphans]))
    if not left:
        ending = f"{photo_tail}.png or .jpg"
        raise InputError(f"{photos}: found no image, expected {ending} files; add some")
    return {name: (left[name], right[name]) for name in left if name in right}


def add_partners(
    files: Mapping[str, tuple[pathlib.Path, pathlib.Path]],
    maps: pathlib.Path,
    *,
    tail: str = "",
    nested: bool = False,
    refuse: Refuse = refuse_at_once,
) -> Files:
    """The further maps of pairs by their names; of a folder that is not there, none.

    Raises:
      InputError: through `refuse`, a pair has no map while others have, or a map has no pair.
    """
    found = list_images(maps, tail=tail, nested=nested, refuse=refuse) if maps.is_dir() else {}
    if not found and tail:  # A folder of several kinds of files, of which this is none.
        return {}
    if maps.is_dir():
        missing = [photo for name, (photo, _) in files.items() if name not in found]
        extra = [path for name, path in found.items() if name not in files]
        if missing or extra:
            message = (
                f"{maps}: found {_count(missing)} without a partner here, and {_count(extra)} here "
                "without a photo, expected one for every photo; complete or remove them"
            )
            refuse(InputError(message, [*missing, *extra]))
    return {name: path for name, path in found.items() if name in files}


def parse_frames(photos: Files, refuse: Refuse = refuse_at_once) -> dict[str, tuple[str, int]]:
    """Video and frame of every file named VIDEO_FRAME or VIDEO_fFRAME.

    Raises:
      InputError: through `refuse`, a name is another.
    """
    frames = {}
    for name, path in photos.items():
        if match := _STEM.fullmatch(name):
            frames[name] = (match["video"], int(match["frame"]))
            continue
        message = f"{path}: found the name {name}, expected VIDEO_FRAME as in 0001TP_006690"
        refuse(InputError(f"{message}; rename it", [path]))
    return frames


def _is_surrogate(letter: str) -> bool:
    """Whether it stands for a byte that is no text."""
    return "\ud800" <= letter <= "\udfff"


def _count(paths: list[pathlib.Path]) -> str:
    names = [path.name for path in paths]
    more = ", ..." if len(names) > _NUM_SHOWN else ""
    shown = f" ({', '.join(names[:_NUM_SHOWN])}{more})" if names else ""
    return f"{counted(len(names), 'file')}{shown}"
