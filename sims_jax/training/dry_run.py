"""What training would take: every network's step compiled for these devices, and none made.

Photos are drawn, for a program depends on their size and their classes, and not on what they show;
what a step needs of the stages before it is invented: Φ, donors and their alignment.
"""

import dataclasses
import functools
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from sims_jax.bank.build import build_bank
from sims_jax.bank.store import Store, open_bank
from sims_jax.data.scenes import draw_scene
from sims_jax.data.source import dataset_labels
from sims_jax.labels import VOID, LabelSpace
from sims_jax.nets.vgg import VGG, VGGConfig, VGGSegmenter
from sims_jax.training.batches import iterate_batches
from sims_jax.training.loop import Task, TrainConfig, make_optimizer
from sims_jax.training.parallel import create_state, make_train_step, shard_batch
from sims_jax.training.run import make_task
from sims_jax.training.settings import STAGES, Settings, check_batches, read_settings
from sims_jax.training.tasks.features import COMPARED, Features
from sims_jax.training.tasks.synthesis import DonorTable

SCENES = 4
MOST_MOVED = 0.1  # standard deviation of an invented alignment, from the identity


@dataclasses.dataclass(frozen=True)
class StageCost:
    """What one network's training takes, on each device, by the compiler's own figures.

    `flops` of a step: of a loop's body only once, but of that over microbatches (and so of the
    optimizer, too) as often as it runs. `peak_bytes`: arguments, results and what lies
    in between, while a step runs.
    """

    stage: str
    parameters: int
    flops: float
    peak_bytes: int
    compile_s: float

    def __str__(self) -> str:
        return (
            f"{self.stage:12} {self.parameters:>13,} parameters {self.flops / 1e9:>10.1f} GFLOP a "
            f"step {self.peak_bytes / 2**30:>7.2f} GiB a device, compiled in {self.compile_s:.0f} s"
        )


def dry_run(config: ConfigDict) -> Iterator[StageCost]:
    """Compiles the config's stages, one after the other.

    Raises:
      InputError: something in the config or the list of the data's files cannot be used.
    """
    settings = read_settings(config)
    labels = dataset_labels(config.data)
    check_batches(settings, config.stages, jax.device_count())
    with tempfile.TemporaryDirectory() as folder:
        store = draw_store(settings, labels, pathlib.Path(folder))
        tasks = invent_tasks(config, store, store)
    for stage in STAGES[1:]:
        if stage in config.stages and not (stage == "features" and config.features.weights):
            yield _compile(stage, tasks[stage], settings.train[stage])


def draw_store(settings: Settings, labels: LabelSpace, folder: pathlib.Path) -> Store:
    """A bank of a few scenes at the config's size, in classes of `labels`."""
    spec = settings.bank.spec(labels)
    scenes = [draw_scene(0, index, "train", spec.image_size) for index in range(SCENES)]
    for scene in scenes:
        for name in ("layout", "coarse"):
            ids = scene[name]
            scene[name] = np.where(ids == VOID, ids, ids % np.uint8(labels.num_classes))
    return open_bank(build_bank(scenes, spec, folder / "bank", source_name="scenes", licence=""))


def invent_tasks(config: ConfigDict, store: Store, heldout: Store) -> dict[str, Task]:
    """The tasks of all networks, by name, without any network that is trained."""
    settings = read_settings(config)
    vgg = VGGConfig() if config.features.weights else settings.vgg

    def prepare() -> tuple[Features, DonorTable, DonorTable]:
        weights = dict.fromkeys(COMPARED, 1.0)
        classes = 0 if config.features.weights else store.spec.labels.num_classes
        features = Features(vgg, classes, _init_features(vgg, classes), weights)
        size = settings.bank.donors, config.canvas.layers
        donors = _invent_donors(store, store, size)
        return features, donors, _invent_donors(heldout, store, size)

    return {
        stage: make_task(stage, config, settings, store, heldout, prepare) for stage in STAGES[1:]
    }


@functools.cache
def _init_features(config: VGGConfig, num_classes: int):
    network = VGGSegmenter(config, num_classes) if num_classes else VGG(config)
    return jax.jit(network.init)(jax.random.key(0), np.zeros((1, 48, 64, 3), np.float32))


def _invent_donors(queries: Store, store: Store, size: tuple[int, int]) -> DonorTable:
    """For each row K x L rows of its class, never retrieved, moved a little."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(store.row_class == class_id) for class_id in queries.row_class]
    none = np.full(size, -1)
    some = [rng.choice(of_class, size) if of_class.size else none for of_class in rows]
    affine = np.eye(2, 3) + rng.normal(0, MOST_MOVED, (len(some), *size, 2, 3))
    return DonorTable(np.array(some, int).reshape(-1, *size), affine.astype(np.float32))


def _compile(stage: str, task: Task, config: TrainConfig) -> StageCost:
    devices, optimizer = jax.devices(), make_optimizer(config)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: create_state(task.init, optimizer, key, devices))
    step = make_train_step(
        task.loss, optimizer, config.ema_decay, key, devices, accumulation=config.accumulation
    )
    batch = next(iterate_batches(task, seed=0, batch_size=config.batch_size, first_step=0))
    began = time.monotonic()
    compiled = step.lower(state, *shard_batch(batch, jax.local_devices())).compile()
    return StageCost(
        stage=stage,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        flops=compiled.cost_analysis()["flops"] * config.accumulation,
        peak_bytes=peak_bytes(compiled),
        compile_s=time.monotonic() - began,
    )


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Of a device's memory, while a compiled program runs, by the compiler's own figures."""
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return size - memory.alias_size_in_bytes + memory.temp_size_in_bytes
