"""How long a layout takes to become a photo, beside a SPADE generator in PyTorch.

    python -m benchmarks.synthesize --json=FILE [--workdir=runs/camvid]        (extra `bench`)

At 256x512 and at 120x160, one layout and eight in a call: the networks of
`configs/camvid.py:small` as initialised, with a bank of drawn scenes. With `--workdir` the trained
model there instead, at its own size, on its own layouts. Times do not depend on what networks have
learned.

`ours_ms`: the median of one call of `model.synthesize`, everything included. `parts_ms`, each a
program of its own: `match` (components and retrieval), `canvas` (choice, the search for what is
cut off, alignment, order, composition), `paint` (the synthesis network), and `host`, what of the
call is left. `peer_ms`: the forward pass of SPADE's generator (`benchmarks.spade`; checked: 92.6 M
parameters, 281 GMAC at 256x512, to 1 %), on as many threads, channels_last, in float32, all calls
in turn; `peer_bf16_ms`: under bfloat16 autocast.
`ratio_peer`: peer / ours, float32. `paper_width_ms`: the synthesis network at the paper's widths
(SIMS, 55.7 M parameters), to be read in place of `paint`. `compile_s`: the first call less the
median; `cached_compile_s`: the same when the programs are kept from before (README.md), as at a
second start. `rounds`: how many times of each call the median is of: ROUNDS, or as many as fit into
BUDGET_S, and one at least. On top are the figures of the first size and one layout; all of them are
in `sizes`. Without torch there is no peer, and `peer_missing` says so.

The fairest objection: SPADE needs no bank, and was made to be good, not small; how good photos are
is said by `python -m sims_jax.evaluate`, not here.
"""

import functools
import json
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

import sims_jax
from benchmarks.timing import repeat_in_turn, time_once
from configs.camvid import get_config
from sims_jax import pipeline
from sims_jax.atomic import write_json
from sims_jax.bank.match import match
from sims_jax.commands import OneLineParser, exit_with_one_line, to_file, to_path
from sims_jax.labels import SCENES, read_layout
from sims_jax.model import Model, assemble
from sims_jax.nets.layers import one_hot_layout
from sims_jax.nets.synthesis import Synthesis, SynthesisConfig
from sims_jax.programs import shorten_start
from sims_jax.training.dry_run import draw_store, invent_tasks
from sims_jax.training.settings import STAGES, read_settings

ROUNDS, BUDGET_S = 3, 60.0  # of each call; a longer one has fewer rounds
SIZES = ((256, 512), (120, 160))
BATCHES = (1, 8)
PARAMETERS, MACS, MACS_SIZE = 92.6e6, 281e9, (256, 512)  # SPADE's, published
TOLERANCE = 0.01


def main() -> None:
    parser = OneLineParser(
        prog="python -m benchmarks.synthesize", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", required=True, type=to_file)
    parser.add_argument("--workdir", type=to_path, help="of train.py; else scenes are drawn")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed, of a call that is short")
    arguments = parser.parse_args()
    sizes = {}
    shorten_start()  # as synthesize.py does
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/programs")
        for size in (None,) if arguments.workdir else SIZES:
            if arguments.workdir:
                model, layouts = open_model(arguments.workdir)
            else:
                config = get_config("small")
                config.bank.image_size = size
                model, layouts = invent_model(config, pathlib.Path(folder) / f"{size[0]}x{size[1]}")
            height, width = model.spec.image_size
            for batch in BATCHES:
                name = f"{height}x{width}, batch {batch}"
                print(f"{name} ...", flush=True)
                some = np.stack([layouts[i % len(layouts)] for i in range(batch)])
                sizes[name] = measure(model, some, arguments.rounds)
    figures = next(iter(sizes.values())) | {
        "sizes": sizes,
        "threads": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    write_json(arguments.json, figures)
    print(json.dumps(figures, indent=2))


def open_model(workdir: pathlib.Path) -> tuple[Model, list[np.ndarray]]:
    """A trained model, and the layouts in its workdir."""
    model = sims_jax.load(workdir)
    paths = sorted((workdir / "layouts").glob("*.png"))
    return model, [read_layout(path, model.labels) for path in paths]


def invent_model(config: ConfigDict, folder: pathlib.Path) -> tuple[Model, list[np.ndarray]]:
    """A model that has learned nothing, with a bank of a few scenes, and their layouts."""
    store = draw_store(read_settings(config), SCENES, folder)
    tasks = invent_tasks(config, store, store)
    params = {
        name: jax.jit(tasks[name].init)(jax.random.key(0))
        for name in STAGES
        if name not in ("bank", "features")
    }
    return assemble(config, store, params), list(store.layout)


def measure(model: Model, layouts: np.ndarray, rounds: int) -> dict:
    """All figures of a model at its size, for a call with these layouts."""
    first_s = time_once(lambda: model.synthesize(layouts))
    jax.clear_caches()  # what is kept on disk stays
    second_s = time_once(lambda: model.synthesize(layouts))
    ours = {"ours": lambda: model.synthesize(layouts)}
    peers, missing = make_peers(layouts.shape)
    found = repeat_in_turn(ours | make_parts(model, layouts) | peers, rounds, BUDGET_S)
    times = {name: statistics.median(some) for name, some in found.items()}
    parts = {
        "match": times["match"],
        "canvas": times["canvas"] - times["match"],
        "paint": times["paint"],
        "host": times["ours"] - times["canvas"] - times["paint"],
    }
    figures = {
        "ours_ms": times["ours"],
        "parts_ms": parts,
        "paper_width_ms": times["paper"],
        "compile_s": first_s - times["ours"] / 1e3,
        "cached_compile_s": second_s - times["ours"] / 1e3,
        "rounds": {name: len(some) for name, some in found.items()},
        "segments_in_bank": int((np.asarray(model.bank.rows.row) >= 0).sum()),
    }
    if missing:
        return figures | {"peer_missing": missing}
    return figures | {
        "peer_ms": times["peer"],
        "peer_bf16_ms": times["peer_bf16"],
        "ratio_peer": times["peer"] / times["ours"],
    }


def make_parts(model: Model, layouts: np.ndarray) -> dict[str, Callable]:
    """Calls of the pipeline's parts, `canvas` with what comes before it."""
    rows, networks = model.bank.rows, model.params.networks
    options = {
        "candidates": networks.pipeline.candidates,
        "max_aspect": networks.pipeline.max_aspect,
    }
    first_match = jax.jit(functools.partial(match, **options))
    # Of a program, what leads to no result is not computed.
    canvas = jax.jit(lambda *arguments: pipeline.synthesize(*arguments)[0].canvas)
    paint = jax.jit(pipeline.paint)
    made = canvas(model.params, model.bank, layouts)
    classes = model.labels.num_classes
    paper = Synthesis(SynthesisConfig(), classes)
    inputs = one_hot_layout(made.layout, classes), made.rgb, made.mask
    weights = jax.jit(paper.init)(jax.random.key(0), *(x[:1, :16, :16] for x in inputs))
    paint_paper = jax.jit(paper.apply)
    return {
        "match": lambda: jax.block_until_ready(first_match(rows, layouts)),
        "canvas": lambda: jax.block_until_ready(canvas(model.params, model.bank, layouts)),
        "paint": lambda: jax.block_until_ready(paint(model.params, made)),
        "paper": lambda: jax.block_until_ready(paint_paper(weights, *inputs)),
    }


def make_peers(shape: tuple[int, int, int]) -> tuple[dict[str, Callable], str]:
    """SPADE's forward pass in float32 and in bfloat16; or none, and why.

    Raises:
      SystemExit: the generator is not the published one.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return {}, "torch: not installed; pip install -e '.[bench]'"
    from benchmarks import spade

    torch.set_num_threads(os.cpu_count())
    generator = spade.make_generator()
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    for found, published in ((parameters, PARAMETERS), (spade.count_macs(*MACS_SIZE), MACS)):
        if abs(found / published - 1) > TOLERANCE:
            raise SystemExit(f"spade: found {found:.3g}, expected {published:.3g} as published")
    batch, height, width = shape
    layout = torch.zeros(batch, spade.CHANNELS, height, width)
    layout[:, 0] = 1.0
    layout = layout.to(memory_format=torch.channels_last)

    def run(bfloat16: bool) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            generator(layout)

    return {"peer": lambda: run(False), "peer_bf16": lambda: run(True)}, ""


if __name__ == "__main__":
    exit_with_one_line(main)
