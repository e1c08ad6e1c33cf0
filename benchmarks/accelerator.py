"""How well an accelerator is used: training f, from layout to photo, and retrieval.

    python -m benchmarks.accelerator --json=FILE [--rows=1000000] [--parts step photo retrieval]

`step`: f's training step (simulation, f, Φ, loss, update) of `configs/cityscapes.py`, the paper's
widths at 256x512, batch BATCH, in bfloat16 and in float32, on drawn scenes. `mfu`: the step's
floating-point operations, as XLA counts them before it optimises, a second, over the measured rate
of a bfloat16 matrix product. `peak_gib` beside `predicted_gib`, what `--dry_run` tells: measured as
the most memory in use since the process began (of a CPU, the whole process's).

`photo`: `configs/camvid.py` at 256x512 and 512x1024, with f at the paper's widths, untrained, one
layout in a call: `ours_ms` of `model.synthesize`, everything included, `program_ms` of the compiled
program alone, and its parts.

`retrieval`: a bank of `--rows` rows at grid 64x128, of crops of drawn scenes. `queries_per_s`:
segments of BATCH_LAYOUTS layouts in one call. `copy_share`: the bytes of the masks that these
segments would have to be compared with, one by one, a second, over the measured bandwidth of a
copy, which reads and writes; `layout_copy_share`: the bytes of all rows of one layout's classes,
each read once, in the time of a call with this layout alone. `mismatches`: rows and scores that
differ from those of this machine's CPU.

The fairest objection: retrieval reads few of these bytes, for it rules most rows out by less.
"""

import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import configs.camvid
import configs.cityscapes
from benchmarks.crops import NUM_SCENES, crop, draw_layouts, make_spec, make_store
from benchmarks.synthesize import invent_model, make_parts
from benchmarks.timing import time_in_turn
from sims_jax import pipeline
from sims_jax.atomic import write_json
from sims_jax.bank.device import rows_to_device
from sims_jax.bank.match import match
from sims_jax.commands import OneLineParser, exit_with_one_line, to_file
from sims_jax.labels import CITYSCAPES, SCENES
from sims_jax.processes import peak_memory
from sims_jax.training.batches import iterate_batches
from sims_jax.training.dry_run import draw_store, invent_tasks, peak_bytes
from sims_jax.training.loop import make_optimizer
from sims_jax.training.parallel import create_state, make_train_step, place_batch
from sims_jax.training.settings import read_settings

PARTS = ("step", "photo", "retrieval")
ROUNDS, STEPS = 10, 10  # timed: calls of each, steps of one round
BATCH = 8  # examples a step
SIZES = ((256, 512), (512, 1024))
GRID, BATCH_LAYOUTS, CANDIDATES = (64, 128), 32, 10
CHECKED = 4  # layouts that the CPU is asked for, too
MATRIX = 8192  # side
COPY_BYTES = 2**30


def main() -> None:
    parser = OneLineParser(
        prog="python -m benchmarks.accelerator", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", required=True, type=to_file)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the bank of `retrieval`")
    parser.add_argument("--parts", default=PARTS, choices=PARTS, nargs="+", help="default: all")
    arguments = parser.parse_args()
    measures = {
        "step": measure_steps,
        "photo": measure_photos,
        "retrieval": lambda: measure_retrieval(arguments.rows),
    }
    device = jax.devices()[0]
    figures = {"device": device.device_kind, "jax": jax.__version__}
    for part in arguments.parts:
        figures[part] = measures[part]()
        print(json.dumps({part: figures[part]}, indent=2), flush=True)
        write_json(arguments.json, figures)


def measure_rates() -> dict[str, float]:
    """What the device does at best: a bfloat16 matrix product, and a copy."""
    a = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), jnp.bfloat16)
    words = jax.random.bits(jax.random.key(1), (COPY_BYTES // 4,), jnp.uint32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda words: words + jnp.uint32(1))
    calls = {"product": lambda: product(a), "copy": lambda: copy(words)}
    ms = {name: time_queued(call) for name, call in calls.items()}
    return {
        "matmul_bf16_tflops": 2 * MATRIX**3 / ms["product"] / 1e9,
        "copy_gb_s": 2 * COPY_BYTES / ms["copy"] / 1e6,
    }


def time_queued(call: Callable) -> float:
    """Median milliseconds of a call, of which STEPS are given to the device one after the other."""

    def some() -> None:
        jax.block_until_ready([call() for _ in range(STEPS)][-1])

    return time_in_turn({"call": some}, ROUNDS)["call"] / STEPS


# --- training -------------------------------------------------------------------------------


def measure_steps() -> dict[str, dict]:
    """f's step in bfloat16, whose memory is measured, then in float32."""
    figures = {precision: measure_step(precision) for precision in ("bfloat16", "float32")}
    rates = measure_rates()
    for found in figures.values():
        found["mfu"] = found["tflops"] / rates["matmul_bf16_tflops"]
    return figures | rates


def measure_step(precision: str) -> dict[str, float]:
    config = configs.cityscapes.get_config()
    config.synthesis.train.update(batch_size=BATCH, precision=precision)
    settings, devices = read_settings(config), jax.devices()[:1]
    train = settings.train["synthesis"]
    with tempfile.TemporaryDirectory() as folder:
        store = draw_store(settings, CITYSCAPES, pathlib.Path(folder))
        task = invent_tasks(config, store, store)["synthesis"]
    optimizer, key = make_optimizer(train), jax.random.key(0)
    state = create_state(task.init, optimizer, key, devices)
    step = make_train_step(task.loss, optimizer, train.ema_decay, key, devices)
    batch = next(iterate_batches(task, seed=0, batch_size=BATCH, first_step=0))
    placed = place_batch(batch, devices)
    began = time.perf_counter()
    lowered = step.lower(state, *placed)
    compiled = lowered.compile()
    compile_s = time.perf_counter() - began

    def run() -> jax.Array:
        nonlocal state
        state, metrics = step(state, *placed)
        return metrics["loss"]

    ms = time_queued(run)
    flops = lowered.cost_analysis()["flops"]
    return {
        "batch": BATCH,
        "step_ms": ms,
        "examples_per_s": 1e3 * BATCH / ms,
        "tflop_a_step": flops / 1e12,
        "tflops": flops / ms / 1e9,
        "compile_s": compile_s,
        "peak_gib": peak_memory(devices) / 2**30,
        "predicted_gib": peak_bytes(compiled) / 2**30,
    }


# --- from layout to photo -------------------------------------------------------------------


def measure_photos() -> dict[str, dict]:
    return {"{}x{}".format(*size): measure_photo(size) for size in SIZES}


def measure_photo(size: tuple[int, int]) -> dict[str, float]:
    config, paper = configs.camvid.get_config(), configs.cityscapes.get_config()
    if size != SIZES[0]:
        paper = configs.cityscapes.get_config("512")
    config.bank.image_size = size
    config.synthesis.net = paper.synthesis.net
    with tempfile.TemporaryDirectory() as folder:
        model, layouts = invent_model(config, pathlib.Path(folder))
    layouts = np.stack(layouts[:1])
    program = functools.partial(
        pipeline.synthesize, model.params, model.bank, jnp.asarray(layouts), adherence="layout"
    )
    calls = {
        "ours": lambda: model.synthesize(layouts),
        "program": lambda: jax.block_until_ready(program()),
    } | make_parts(model, jnp.asarray(layouts))
    del calls["paper"]  # as f is
    times = time_in_turn(calls, ROUNDS, warm=1)
    return {
        "ours_ms": times["ours"],
        "program_ms": times["program"],
        "match_ms": times["match"],
        "canvas_ms": times["canvas"] - times["match"],
        "paint_ms": times["paint"],
    }


# --- retrieval ------------------------------------------------------------------------------


def measure_retrieval(count: int) -> dict[str, float]:
    spec = make_spec(SCENES, GRID, GRID)
    rng = np.random.default_rng(0)
    store = make_store(draw_layouts("train", NUM_SCENES, GRID), count, spec, rng)
    others = draw_layouts("val", BATCH_LAYOUTS, GRID)
    layouts = np.stack([crop(one, 1.0, GRID, rng) for one in others])
    began = time.perf_counter()
    rows = rows_to_device(store, jax.devices()[:1])
    put_s = time.perf_counter() - began
    run = jax.jit(functools.partial(match, candidates=CANDIDATES))
    asked = {"batch": jnp.asarray(layouts), "layout": jnp.asarray(layouts[:1])}
    found = {name: jax.device_get(run(rows, some)) for name, some in asked.items()}
    ms = {name: time_queued(lambda some=some: run(rows, some)) for name, some in asked.items()}
    rates = measure_rates()
    class_id = found["batch"].segments.class_id
    rows_of_class = np.bincount(store.row_class, minlength=spec.labels.num_classes)
    pairs = rows_of_class[class_id[class_id >= 0]].sum()
    of_layout = found["layout"].segments.class_id
    read = rows_of_class[np.unique(of_layout[of_layout >= 0])].sum()
    bytes_per_row = sum(x.nbytes for x in jax.tree.leaves(rows)) / len(store.row_photo)
    mask_bytes, copy = rows.mask[0, 0].nbytes, rates["copy_gb_s"]
    with jax.default_device(jax.devices("cpu")[0]):
        rows = jax.tree.map(np.asarray, rows)
        few = layouts[:CHECKED]
        slow = jax.device_get(run(rows, few))
    same = jax.tree.map(lambda a, b: (a[:CHECKED] != b).sum(), found["batch"], slow)
    return {
        "rows": len(store.row_photo),
        "bytes_per_row": bytes_per_row,
        "put_s": put_s,
        "segments": int((class_id >= 0).sum()),
        "batch_ms": ms["batch"],
        "layout_ms": ms["layout"],
        "queries_per_s": 1e3 * int((class_id >= 0).sum()) / ms["batch"],
        "pairs_per_s": 1e3 * pairs / ms["batch"],
        "copy_share": 1e3 * pairs / ms["batch"] * mask_bytes / 1e9 / copy,
        "layout_copy_share": read * bytes_per_row / ms["layout"] / 1e6 / copy,
        "mismatches": int(same.row.sum() + same.score.sum()),
    } | rates


if __name__ == "__main__":
    exit_with_one_line(main)
