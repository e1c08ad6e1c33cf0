"""How long a layout takes to become a photo, with the model of a workdir.

    python -m benchmarks.synthesize --workdir=runs/quickstart --json=FILE

`ours_ms`: the median of one call, layout to photo, everything included; `canvas_ms`: the same up to
the canvas (components, retrieval, alignment, composition), the rest is the synthesis network;
`match_ms`: components and retrieval alone;
`compile_s`: the first call less the median. One layout at a time, on all devices of the process.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
import numpy as np

import sims_jax
from sims_jax import pipeline
from sims_jax.labels import read_layout

REPEATS = 20
CANDIDATES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--json", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    model = sims_jax.load(arguments.workdir)
    paths = sorted((arguments.workdir / "layouts").glob("*.png"))
    began = time.perf_counter()
    model.synthesize(paths[0])
    first_s = time.perf_counter() - began
    ours_ms = median_ms(lambda i: model.synthesize(paths[i % len(paths)]))
    paint = jax.jit(pipeline.paint)
    layouts = np.zeros((1, *model.spec.image_size), np.uint8)
    canvas = pipeline.synthesize(model.params, model.bank, layouts)[0].canvas
    paint_ms = median_ms(lambda i: jax.block_until_ready(paint(model.params, canvas)))
    retrieve = jax.jit(pipeline.match, static_argnames="candidates")
    some = [read_layout(path, model.labels)[None] for path in paths]
    match_ms = median_ms(
        lambda i: jax.block_until_ready(
            retrieve(model.bank.rows, some[i % len(some)], candidates=CANDIDATES)
        )
    )
    figures = {
        "ours_ms": ours_ms,
        "match_ms": match_ms,
        "canvas_ms": ours_ms - paint_ms,
        "compile_s": first_s - ours_ms / 1e3,
        "image_size": model.spec.image_size,
        "segments_in_bank": int((np.asarray(model.bank.rows.row) >= 0).sum()),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def median_ms(call) -> float:
    """Median milliseconds of `call(i)`, the first of which is not counted."""
    call(0)
    times = []
    for i in range(REPEATS):
        began = time.perf_counter()
        call(i)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


if __name__ == "__main__":
    main()
