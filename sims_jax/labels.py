"""The label space: class ids, their names and colours, and layouts as PNG files.

A layout is uint8 [H, W]: the class id of every pixel, or 255 for void. On disk it is a PNG of
8-bit greyscale (the values are ids), of palette or of RGB (the colours are classes), or a .npy of
ids. Anything else is refused: lossy files change ids, alpha and 16 bits have no agreed meaning.
"""

import dataclasses
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from sims_jax.errors import InputError
from sims_jax.images import Path, decode_image, decode_npy, read_bytes, read_png_header

VOID = 255
NUMPY_SUFFIX = ".npy"
LAYOUT_SUFFIXES = (".png", NUMPY_SUFFIX)

Color = tuple[int, int, int]

_LAYOUT_MODES = {("L", 8), ("RGB", 8), ("P", 1), ("P", 2), ("P", 4), ("P", 8)}
_NUM_SHOWN = 5  # of a list of mistakes, in a message
_COLOR_BITS = 8  # of a channel
_LAST_LABEL_ID = 33  # of Cityscapes' labelIds, of which its 19 classes are a part


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """A closed set of classes; a class's id is its position.

    Args:
      name: short name, for messages.
      classes: class names.
      palette: one RGB colour a class, all different.
      thin: classes too thin to separate what lies behind them (poles, signs).
      planar: the ground, which lies behind everything that stands on it.
      context: classes without a shape of their own (sky, trees); they are never cut into instances.
      void_ids: ids that files use for void besides 255.

    Raises:
      InputError: a name or colour is used twice, a named class does not exist, an id is out of
        range.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    thin: tuple[str, ...] = ()
    planar: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    void_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        where = f"label space {self.name}"
        if not 0 < len(self.classes) <= VOID:
            raise InputError(f"{where}: found {len(self.classes)} classes, expected 1 to {VOID}")
        if len(self.palette) != len(self.classes):
            raise InputError(
                f"{where}: found {len(self.palette)} colours for {len(self.classes)} classes, "
                "expected one a class"
            )
        for what, values in (("name", self.classes), ("colour", self.palette)):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise InputError(f"{where}: {what} {twice[0]} is used twice; make all different")
        if wild := [c for c in self.palette if len(c) != 3 or not all(0 <= v < 256 for v in c)]:
            raise InputError(f"{where}: found colour {wild[0]}, expected three values 0 to 255")
        for group in ("thin", "planar", "context"):
            if unknown := [name for name in getattr(self, group) if name not in self.classes]:
                raise InputError(
                    f"{where}: {group} names {_show(unknown)}, which is no class; "
                    f"expected some of {', '.join(self.classes)}"
                )
        if wrong := [i for i in self.void_ids if not len(self.classes) <= i <= VOID]:
            raise InputError(
                f"{where}: found void ids {_show(wrong)}, expected ids that are no class, "
                f"{len(self.classes)} to {VOID}"
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def void_color(self) -> Color:
        """Black, or where a class is black the darkest grey that no class has."""
        return next((v, v, v) for v in range(256) if (v, v, v) not in self.palette)

    def ids(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Ids of the named classes."""
        return tuple(self.classes.index(name) for name in names)


def read_layout(path: Path, labels: LabelSpace) -> UInt8[np.ndarray, "H W"]:
    """Reads a PNG or .npy as class ids of `labels`, void as 255.

    npy  whole numbers of any type are ids, as in L.
    L    values are ids; 255 and `labels.void_ids` are void.
    P    by index where the palette is a grey ramp (colour i is (i, i, i)), else by colour.
    RGB  by colour; `labels.void_color` (black, if no class is) is void.

    Raises:
      InputError: the file cannot be read, is of another kind, or holds an id or a colour that
        `labels` does not know.
    """
    data = read_bytes(path)
    if pathlib.Path(path).suffix.lower() == NUMPY_SUFFIX:
        return _ids_of_values(path, decode_npy(path, data), labels)
    mode = _check_layout_header(path, data)
    image = decode_image(path, data, "a PNG layout")
    if "transparency" in image.info:
        raise InputError(
            f"{path}: found a PNG with transparency, expected an opaque layout; "
            "remove the transparency"
        )
    pixels = np.asarray(image)
    if mode == "RGB":
        return _ids_of_colors(path, pixels, labels)
    if mode == "L":
        return _ids_of_values(path, pixels, labels)
    return _ids_of_indices(path, pixels, image.getpalette("RGB"), labels)


def read_coded_layout(path: Path, codes: tuple[int, ...]) -> UInt8[np.ndarray, "H W"]:
    """Reads a greyscale PNG whose values are a dataset's own codes as class ids, void as 255.

    Args:
      codes: the class id of each value from 0 on, VOID for those that are no class.

    Raises:
      InputError: the file cannot be read, is of another kind, or holds another value.
    """
    data = read_bytes(path)
    if (mode := _check_layout_header(path, data)) != "L":
        raise InputError(
            f"{path}: found a PNG of mode {mode}, expected mode L, the dataset's own values; "
            "restore the original file"
        )
    values = np.asarray(decode_image(path, data, "a PNG layout"))
    if (unknown := np.unique(values[values >= len(codes)])).size:
        raise InputError(
            f"{path}: found values {_show(unknown)}, expected 0 to {len(codes) - 1} as the dataset "
            "is published (or are these class ids already?); restore the original file"
        )
    return np.array(codes, np.uint8)[values]


def write_layout(path: Path, layout: Integer[np.ndarray, "H W"], labels: LabelSpace) -> None:
    """Writes a layout as a PNG whose palette is the label space's, void black.

    Raises:
      InputError: the layout holds an id that `labels` does not know.
    """
    layout = _ids_of_values(path, np.asarray(layout), labels)
    image = Image.fromarray(layout)
    image.putpalette(_color_table(labels).tobytes(), "RGB")
    image.save(path, format="PNG")


def colorize(layout: Integer[np.ndarray, "H W"], labels: LabelSpace) -> UInt8[np.ndarray, "H W 3"]:
    """The layout in the colours of `labels`, void black.

    Raises:
      InputError: the layout holds an id that `labels` does not know.
    """
    return _color_table(labels)[_ids_of_values("layout", np.asarray(layout), labels)]


def spread_colors(count: int) -> tuple[Color, ...]:
    """Colours for classes that have none of their own: all different, none black.

    Colour i is made of the bits of i + 1: bits 0, 3, 6 are the highest of red, 1, 4, 7 those of
    green, 2, 5 of blue, as in Pascal VOC (Everingham et al. 2010).
    """
    colors = []
    for index in range(1, count + 1):
        bits = [index >> place & 1 for place in range(3 * _COLOR_BITS)]
        red, green, blue = (
            sum(bit << (_COLOR_BITS - 1 - n) for n, bit in enumerate(bits[channel::3]))
            for channel in range(3)
        )
        colors.append((red, green, blue))
    return tuple(colors)


def _show(values: Iterable[object]) -> str:
    values = list(values)
    more = f" and {len(values) - _NUM_SHOWN} more" if len(values) > _NUM_SHOWN else ""
    return ", ".join(str(value) for value in values[:_NUM_SHOWN]) + more


def _check_layout_header(path: Path, data: bytes) -> str:
    mode, depth = read_png_header(path, data, "a PNG layout")
    if (mode, depth) not in _LAYOUT_MODES:
        raise InputError(
            f"{path}: found a PNG of mode {mode} with {depth} bits a channel, expected a layout "
            "of mode L (8 bits), P or RGB (8 bits); convert it without changing ids or colours"
        )
    return mode


def _ids_of_values(
    where: Path, values: Integer[np.ndarray, "H W"], labels: LabelSpace
) -> UInt8[np.ndarray, "H W"]:
    void = np.isin(values, (VOID, *labels.void_ids))
    unknown = np.unique(values[~void & ((values < 0) | (values >= labels.num_classes))])
    if unknown.size:
        advice = f"map them to these, or to {VOID} (a labels.json may name them as void_ids)"
        if labels.classes == CITYSCAPES.classes and unknown.max() <= _LAST_LABEL_ID:
            advice = (
                "these look like Cityscapes' labelIds: convert them to trainIds, or read the "
                "dataset with config.data.name = cityscapes"
            )
        raise InputError(
            f"{where}: found ids {_show(unknown)}, expected 0 to {labels.num_classes - 1} "
            f"({_show(labels.classes)}), or {_show((*labels.void_ids, VOID))} for void; {advice}"
        )
    return np.where(void, VOID, values).astype(np.uint8)


def _ids_of_colors(
    where: Path, colors: UInt8[np.ndarray, "*S 3"], labels: LabelSpace
) -> UInt8[np.ndarray, "*S"]:
    known = _color_codes(np.array((*labels.palette, labels.void_color), np.uint8))
    ids = np.array((*range(labels.num_classes), VOID), np.uint8)
    order = np.argsort(known)
    codes = _color_codes(colors)
    place = order[np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)]
    if (unknown := np.unique(codes[known[place] != codes])).size:
        shown = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in unknown]
        drawn = (
            f"{color} {name}" for name, color in zip(labels.classes, labels.palette, strict=True)
        )
        raise InputError(
            f"{where}: found colours {_show(shown)}, expected those of the classes "
            f"({_show(drawn)}), or {labels.void_color} for void; draw with these, without smoothing"
        )
    return ids[place]


def _color_codes(colors: UInt8[np.ndarray, "*S 3"]) -> np.ndarray:
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _ids_of_indices(
    path: Path, indices: UInt8[np.ndarray, "H W"], palette: list[int], labels: LabelSpace
) -> UInt8[np.ndarray, "H W"]:
    colors = np.array(palette, np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    if used[-1] >= len(colors):
        raise InputError(
            f"{path}: found index {used[-1]} in a palette of {len(colors)} colours, expected every "
            "index to have a colour; write the layout anew"
        )
    is_ramp = np.array_equal(colors, np.repeat(np.arange(len(colors))[:, None], 3, axis=1))
    if is_ramp and len(colors) > 1:
        return _ids_of_values(path, indices, labels)
    ids = _ids_of_colors(path, colors[used], labels)
    # Black alone is a palette's only colour and the start of a grey ramp.
    if is_ramp and ids[0] != 0:
        raise InputError(
            f"{path}: found a palette of black alone, which may mean void or id 0; "
            "write the layout as RGB or greyscale"
        )
    for value in np.unique(ids[ids != VOID]):
        if (ids == value).sum() > 1:
            raise InputError(
                f"{path}: found indices {_show(used[ids == value])} of one colour "
                f"{labels.palette[value]}, expected one index a colour; write the layout as RGB"
            )
    void = used[ids == VOID]
    if len(void) > 1 and not set(void.tolist()) <= {VOID, *labels.void_ids}:
        raise InputError(
            f"{path}: found indices {_show(void)} of the void colour {labels.void_color}, expected "
            "one; write the layout as RGB if all of them are void"
        )
    table = np.full(256, VOID, np.uint8)
    table[used] = ids
    return table[indices]


def _color_table(labels: LabelSpace) -> UInt8[np.ndarray, "256 3"]:
    table = np.tile(np.array(labels.void_color, np.uint8), (256, 1))
    table[: labels.num_classes] = labels.palette
    return table


# SegNet's classes and colours (Badrinarayanan et al. 2017), in the order of its annotations.
# fmt: off
CAMVID = LabelSpace(
    name="camvid",
    classes=(
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    thin=("pole", "sign"),
    planar=("road", "pavement"),
    context=("sky", "building", "road", "pavement", "tree", "fence"),
    void_ids=(11,),
)

# The procedural streets of data/scenes.py; colours follow Cityscapes where a class is in both.
SCENES = LabelSpace(
    name="scenes",
    classes=(
        "sky", "road", "pavement", "building", "tree",
        "pole", "sign", "car", "pedestrian", "fence",
    ),
    palette=(
        (70, 130, 180), (128, 64, 128), (244, 35, 232), (70, 70, 70), (107, 142, 35),
        (153, 153, 153), (220, 220, 0), (0, 0, 142), (220, 20, 60), (190, 153, 153),
    ),
    thin=("pole", "sign"),
    planar=("road", "pavement"),
    context=("sky", "road", "pavement", "building", "tree"),
)

# The 19 trainIds of Cityscapes (Cordts et al. 2016) and its official colours.
CITYSCAPES = LabelSpace(
    name="cityscapes",
    classes=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
        "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car",
        "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
        (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    thin=("pole", "traffic light", "traffic sign"),
    planar=("road", "sidewalk", "terrain"),
    context=("road", "sidewalk", "building", "wall", "fence", "vegetation", "terrain", "sky"),
)
# fmt: on
