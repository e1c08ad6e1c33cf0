"""Training f: our step beside PyTorch's, the same networks, weights, loss and work in one run.

    python -m benchmarks.train_step --json=FILE        (extra `bench`)

Networks, sizes and batch are those of `configs/camvid.py:small`, on drawn scenes; weights are as
initialised, canvases as training simulates them. A step is f, Φ of the photo made and of the real
one, the loss with all its terms, the gradient, clipping, Adam and the average of the parameters, in
float32.

`ours_examples_per_s`: the whole step as `train.py` runs it, which also simulates the canvases
(`simulate_ms` by itself); PyTorch is given them. `torch_examples_per_s`: channels_last, on as many
threads, eager or by `torch.compile`, whichever is faster (`torch_ms` has both, and the same under
bfloat16 autocast). `ratio_torch`: ours / PyTorch's, both float32; `ratio_torch_bf16`: ours in
float32 / PyTorch's in bfloat16. Medians of rounds in which each does a step in turn.

`max_abs_diff`: the largest difference of photos and logits; `max_rel_grad_diff`: over parameters,
the norm of the gradients' difference over the gradient's norm; both at the same weights, float32.
`flops_per_example`: by XLA's count of the whole step, beside PyTorch's count of convolutions alone;
`flop_share`: those a second over what this machine's float32 matrix product does (`matmul_gflops`,
the better of JAX's and PyTorch's). `loader_examples_per_s`: reading batches alone;
`input_wait_share`: the part of the time for which steps wait for them.

The fairest objection: PyTorch has kernels for bfloat16 on processors that can do it, and XLA on a
CPU has not; who trains there in half precision should look at `ratio_torch_bf16`.
"""

import dataclasses
import functools
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.timing import time_in_turn
from configs.camvid import get_config
from sims_jax.atomic import write_json
from sims_jax.commands import OneLineParser, exit_with_one_line, to_file
from sims_jax.labels import SCENES
from sims_jax.nets.layers import one_hot_layout
from sims_jax.rng import example_keys
from sims_jax.training.batches import Feed, iterate_batches
from sims_jax.training.dry_run import draw_store, invent_tasks
from sims_jax.training.loop import TrainConfig, make_optimizer
from sims_jax.training.parallel import create_state, make_train_step, place_batch
from sims_jax.training.settings import read_settings
from sims_jax.training.tasks.synthesis import SynthesisTask

try:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks import train_step_twin as twin
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise SystemExit("torch: not installed; pip install -e '.[bench]'") from error

ROUNDS = 12
LOADED_BATCHES = 200
WAITING_STEPS = 20
MATRIX, MATRIX_PRODUCTS = 2048, 8  # side, and how many are timed
TORCH = {  # name: (compiled, bfloat16)
    "eager": (False, False),
    "compiled": (True, False),
    "eager_bf16": (False, True),
    "compiled_bf16": (True, True),
}


def main() -> None:
    parser = OneLineParser(
        prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", required=True, type=to_file)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="that are timed")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        task, config = make_task(pathlib.Path(folder))
        figures = measure(task, config, arguments.rounds)
    write_json(arguments.json, figures)
    print(json.dumps(figures, indent=2))


def make_task(folder: pathlib.Path) -> tuple[SynthesisTask, TrainConfig]:
    """f's task on a bank of drawn scenes, with `configs/camvid.py:small`'s networks and sizes."""
    config = get_config("small")
    settings = read_settings(config)
    store = draw_store(settings, SCENES, folder)
    constant = dataclasses.replace(settings.train["synthesis"], schedule="constant")
    return invent_tasks(config, store, store)["synthesis"], constant


def measure(task: SynthesisTask, config: TrainConfig, rounds: int) -> dict:
    devices, size = jax.devices()[:1], config.batch_size
    optimizer, key = make_optimizer(config), jax.random.key(0)
    state = create_state(task.init, optimizer, key, devices)
    batch, position = next(iterate_batches(task, seed=0, batch_size=size, first_step=0))
    canvas_key = jax.random.key(1)
    keys = example_keys(canvas_key, state.step, position)
    simulate = jax.jit(lambda batch, keys: task.simulate(batch, keys, task.simulation))
    canvas, photo = jax.device_get(simulate(batch, keys))
    params, inputs = jax.device_get(state.params), torch_inputs(canvas, photo, batch["layout"])
    loss = make_twin(task, params)
    differences = compare(task, params, batch, keys, canvas, loss, inputs)
    with FlopCounterMode(display=False) as counter:
        loss(*inputs).backward()

    step = make_train_step(task.loss, optimizer, config.ema_decay, canvas_key, devices)
    place = functools.partial(place_batch, devices=devices)
    compiled = step.lower(state, *place((batch, position))).compile()
    flops = compiled.cost_analysis()["flops"] / size

    def run_ours(placed) -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = step(state, *placed)
        return metrics

    steps, failed = {"ours": lambda: jax.block_until_ready(run_ours(place((batch, position))))}, {}
    for name, (is_compiled, bfloat16) in TORCH.items():
        run = twin.make_step(
            make_twin(task, params),
            config.learning_rate,
            config.clip_norm,
            config.ema_decay,
            compiled=is_compiled,
            bfloat16=bfloat16,
        )
        try:
            run(inputs)
        except Exception as error:  # torch.compile wants a C++ compiler
            if not is_compiled:
                raise
            failed[name] = str(error).splitlines()[0]
            print(f"torch.compile falls out: {failed[name]}", flush=True)
            continue
        steps[name] = lambda run=run: run(inputs)
    simulated = lambda: jax.block_until_ready(simulate(batch, keys))  # noqa: E731
    times = time_in_turn(steps | {"simulate": simulated}, rounds)
    ours_ms, simulate_ms = times.pop("ours"), times.pop("simulate")
    torch_ms = min(ms for name, ms in times.items() if not TORCH[name][1])
    bf16_ms = min(ms for name, ms in times.items() if TORCH[name][1])
    matmul = measure_matmul()
    loader = measure_loader(task, size)
    per_s = {"ours": 1e3 * size / ours_ms, "torch": 1e3 * size / torch_ms}
    return {
        "ours_examples_per_s": per_s["ours"],
        "torch_examples_per_s": per_s["torch"],
        "ratio_torch": torch_ms / ours_ms,
        "ratio_torch_bf16": bf16_ms / ours_ms,
        **differences,
        "flops_per_example": flops,
        "torch_flops_per_example": counter.get_total_flops() / size,
        "flop_share": flops * per_s["ours"] / max(matmul.values()) / 1e9,
        "loader_examples_per_s": loader,
        "input_wait_share": measure_waiting(task, size, place, run_ours),
        "batch": size,
        "image_size": task.store.spec.image_size,
        "ours_ms": ours_ms,
        "simulate_ms": simulate_ms,
        "torch_ms": times,
        "torch_compile_failed": failed,
        "matmul_gflops": matmul,
        "threads": os.cpu_count(),
        "device": devices[0].device_kind,
        "jax": jax.__version__,
        "torch": torch.__version__,
    }


def torch_inputs(canvas, photo, labels) -> tuple[torch.Tensor, ...]:
    """(layout, canvas, mask, photo, labels) of the twin, from a simulated canvas and its truth."""
    return (
        torch.from_numpy(canvas.layout.astype(np.int64)),
        twin.to_nchw(canvas.rgb),
        twin.to_nchw(canvas.mask[..., None]),
        twin.to_nchw(photo),
        torch.from_numpy(labels.astype(np.int64)),
    )


def make_twin(task: SynthesisTask, params) -> twin.SynthesisLoss:
    """The task's loss in PyTorch, with our weights."""
    network = twin.Synthesis(task.config, task.labels.num_classes)
    features = twin.VGGSegmenter(task.features.config, task.features.num_classes)
    twin.copy_weights(network, params)
    twin.copy_weights(features, jax.device_get(task.features.params))
    return twin.SynthesisLoss(network, features, task.features.weights, task.losses)


def compare(task: SynthesisTask, params, batch, keys, canvas, loss, inputs) -> dict[str, float]:
    """How far the two are apart: photos and logits, and gradients."""

    @jax.jit
    def paint(params, canvas):
        onehot = one_hot_layout(canvas.layout, task.labels.num_classes)
        return task.network.apply(params, onehot, canvas.rgb, canvas.mask)

    output = paint(params, canvas)
    # The batch is an argument: as a constant, it would be computed with while compiling.
    mean_loss = lambda params, batch: task.loss(params, batch, keys)[0].mean()  # noqa: E731
    gradient = jax.jit(jax.grad(mean_loss))(params, batch)
    photo, logits = loss.network(*inputs[:3])
    loss(*inputs).backward()
    theirs = {name: param.grad.numpy() for name, param in loss.network.named_parameters()}
    loss.zero_grad()
    ours = twin.rename(jax.device_get(gradient))
    pairs = ((output.photo, photo), (output.segmentation_logits, logits))
    outputs = [np.abs(a - b.detach().permute(0, 2, 3, 1).numpy()).max() for a, b in pairs]
    gradients = [
        np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(ours[name]) for name in theirs
    ]
    return {"max_abs_diff": float(max(outputs)), "max_rel_grad_diff": float(max(gradients))}


def measure_matmul() -> dict[str, float]:
    """Billions of floating-point operations a second of a large float32 matrix product."""
    a = np.random.default_rng(0).normal(size=(MATRIX, MATRIX)).astype(np.float32)
    product, ours, theirs = jax.jit(lambda a: a @ a), jax.device_put(a), torch.from_numpy(a)
    calls = {
        "jax": lambda: jax.block_until_ready(product(ours)),
        "torch": lambda: theirs @ theirs,
    }
    times = time_in_turn(calls, MATRIX_PRODUCTS)
    return {name: 2 * MATRIX**3 / ms / 1e6 for name, ms in times.items()}


def measure_loader(task: SynthesisTask, batch_size: int) -> float:
    """Examples a second, with nothing else to do."""
    batches = iterate_batches(task, seed=0, batch_size=batch_size, first_step=0)
    next(batches)
    began = time.perf_counter()
    for _ in range(LOADED_BATCHES):
        next(batches)
    return LOADED_BATCHES * batch_size / (time.perf_counter() - began)


def measure_waiting(task: SynthesisTask, batch_size: int, place: Callable, step: Callable) -> float:
    """The share of time that steps wait for their batches, read and put as training does."""
    batches = iterate_batches(task, seed=0, batch_size=batch_size, first_step=0)
    with Feed(batches, place) as feed:
        running = step(feed.take(None))
        feed.wait_share()
        for _ in range(WAITING_STEPS):
            running = step(feed.take(running))
        jax.block_until_ready(running)
        return feed.wait_share()


if __name__ == "__main__":
    exit_with_one_line(main)
