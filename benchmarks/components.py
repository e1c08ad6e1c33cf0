"""Components and boxes of a layout: ours under jit against `scipy.ndimage`, class by class.

    python -m benchmarks.components --size=256x512 --json=FILE [--layouts=FOLDER] [--void=ID]

`ours_ms`: roots, numbers, areas and boxes of all components, one jitted call; `scipy_ms`: `label`
and `find_objects` for every class present. Medians of pairs timed in turn. `mismatches`: how many
(class, area, box) only one of the two finds, over all layouts and serpentines.

The fairest objection: scipy knows one class at a time, so that many classes favour us and the two
of a serpentine favour it; and it has one thread, where XLA may use all cores.
"""

import collections
import json
import pathlib
import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np
import scipy
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

from sims_jax.commands import OneLineParser, exit_with_one_line, to_file, to_path, to_size
from sims_jax.data.scenes import draw_scene
from sims_jax.labels import VOID
from sims_jax.ops.components import component_boxes, label_components, rank_components

REPEATS = 40
NUM_SCENES = 12
MAX_COMPONENTS = 1024
EIGHT = np.ones((3, 3))


def main() -> None:
    parser = OneLineParser(
        prog="python -m benchmarks.components", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--size", required=True, type=to_size, help="HxW in pixels")
    parser.add_argument("--json", required=True, type=to_file)
    parser.add_argument("--layouts", type=to_path, help="PNGs of ids; else scenes are drawn")
    parser.add_argument("--void", type=int, default=VOID, help="id of unlabelled pixels")
    arguments = parser.parse_args()
    height, width = arguments.size
    if arguments.layouts:
        layouts = read_layouts(arguments.layouts, arguments.size, arguments.void)
    else:
        layouts = [draw_scene(0, i, "val", arguments.size)["layout"] for i in range(NUM_SCENES)]
    serpentines = [draw_serpentine(height, width), draw_serpentine(width, height).T.copy()]
    ours_ms, scipy_ms = time_pairs(layouts)
    serpentine_ours_ms, serpentine_scipy_ms = time_pairs(serpentines)
    figures = {
        "size": arguments.size,
        "ours_ms": ours_ms,
        "scipy_ms": scipy_ms,
        "ratio_scipy": scipy_ms / ours_ms,
        "serpentine_ours_ms": serpentine_ours_ms,
        "serpentine_scipy_ms": serpentine_scipy_ms,
        "mismatches": sum(count_mismatches(layout) for layout in [*layouts, *serpentines]),
        "layouts": len(layouts),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "scipy": scipy.__version__,
    }
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def read_layouts(
    folder: pathlib.Path, size: tuple[int, int], void: int
) -> list[UInt8[np.ndarray, "H W"]]:
    """The ids of a folder's PNGs, sampled nearest."""
    layouts = []
    for path in sorted(folder.glob("*.png")):
        image = Image.open(path)
        if image.mode not in ("L", "P"):
            raise SystemExit(f"{path}: found mode {image.mode}, expected ids (mode L or P)")
        ids = np.array(image.resize(size[::-1], Image.Resampling.NEAREST))
        ids[ids == void] = VOID
        layouts.append(ids)
    if not layouts:
        raise SystemExit(f"{folder}: found no PNG, expected layouts")
    return layouts


def draw_serpentine(height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    """A path one pixel wide, of class 1 on 0, that fills the frame with H / 2 turns."""
    path = np.zeros((height, width), np.uint8)
    path[::2] = 1
    path[1::4, -1] = 1
    path[3::4, 0] = 1
    return path


@jax.jit
def split_ours(layout):
    """Numbers, areas, roots and boxes of all components, and how many were too many."""
    roots = label_components(layout, layout != VOID)
    number, area_px, first, left_out = rank_components(roots, 1, MAX_COMPONENTS)
    return number, area_px, first, component_boxes(number, MAX_COMPONENTS), left_out


def split_scipy(layout: UInt8[np.ndarray, "H W"]) -> dict[int, tuple[np.ndarray, list]]:
    """Numbers and boxes of the components of each class."""
    split = {}
    for class_id in np.flatnonzero(np.bincount(layout.ravel(), minlength=VOID)[:VOID]):
        number, _ = ndimage.label(layout == class_id, EIGHT)
        split[int(class_id)] = number, ndimage.find_objects(number)
    return split


def time_pairs(layouts: Sequence[UInt8[np.ndarray, "H W"]]) -> tuple[float, float]:
    """Median milliseconds a layout of ours and of scipy's, timed in turn."""
    jax.block_until_ready(split_ours(layouts[0]))
    times = [], []
    for i in range(max(REPEATS, len(layouts))):
        layout = layouts[i % len(layouts)]
        for split, found in zip((split_ours, split_scipy), times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(split(layout))
            found.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[0]), statistics.median(times[1])


def count_mismatches(layout: UInt8[np.ndarray, "H W"]) -> int:
    """How many (class, area, box) are found by one of the two alone."""
    _, area_px, first, boxes, left_out = map(np.asarray, split_ours(layout))
    ours = collections.Counter(
        (int(layout.flat[root]), int(area), tuple(box.tolist()))
        for root, area, box in zip(first, area_px, boxes, strict=True)
        if area > 0
    )
    theirs = collections.Counter()
    for class_id, (number, slices) in split_scipy(layout).items():
        areas = np.bincount(number.ravel())[1:].tolist()
        for area, (y, x) in zip(areas, slices, strict=True):
            theirs[class_id, area, (y.start, x.start, y.stop, x.stop)] += 1
    return (ours - theirs).total() + (theirs - ours).total() + int(left_out)


if __name__ == "__main__":
    exit_with_one_line(main)
