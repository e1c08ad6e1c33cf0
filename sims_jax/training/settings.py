"""What a config says, read whole before anything is begun: a mistake is found at once."""

import dataclasses

from ml_collections import ConfigDict

from sims_jax.canvas.simulate import SimulationConfig
from sims_jax.config import OF_NOW, check_numbers, check_size, make, unknown_key
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.nets.vgg import MIN_SIZE_PX, VGGConfig
from sims_jax.networks import make_networks
from sims_jax.training.loop import TrainConfig
from sims_jax.training.tasks.synthesis import LossConfig
from sims_jax.training.tasks.transformer import DisturbanceConfig
from sims_jax.types import BankSpec
from sims_jax.words import counted

STAGES = ("bank", "features", "transformer", "ordering", "densifier", "synthesis")
MOST_SMOOTHING = 0.25  # of the frame's height, beyond which no outline is left
MOST_SEGMENTS = 2**15 - 1  # of a layout: a bank keeps each pixel's in 16 bits
LOSS_KEYS = tuple(field.name for field in dataclasses.fields(LossConfig))
# The keys of a config, and of the parts that are no dataclass themselves.
KEYS = {
    "config": ("seed", *OF_NOW, "data", "canvas", "simulation", "pipeline", *STAGES),
    "config.features": ("weights", "width_multiplier", "train"),
    "config.transformer": ("net", "disturbance", "train"),
    "config.ordering": ("net", "train"),
    "config.densifier": ("net", "train"),
    "config.synthesis": ("net", *LOSS_KEYS, "init_from", "train"),
}


@dataclasses.dataclass(frozen=True)
class BankConfig:
    """What is stored of photos, and how donors are found.

    Args:
      image_size: (H, W).   grid: (h, w), of retrieval.
      max_segments: of a layout.   min_area_frac: of the frame; smaller components are no segments.
      smoothing_frac: of the frame's height; how far ragged outlines between context classes are
        smoothed before a layout is split.
      donors: K, kept for each row with those that fill what they leave empty.
      near_frames: positions in a video within which frames count as near-copies.
    """

    image_size: tuple[int, int]
    grid: tuple[int, int]
    max_segments: int
    min_area_frac: float
    smoothing_frac: float
    donors: int
    near_frames: int

    def __post_init__(self):
        check_size(self, "image_size", MIN_SIZE_PX)
        check_size(self, "grid", 1)
        check_numbers(self, most=MOST_SEGMENTS, max_segments=1)
        check_numbers(self, donors=1, near_frames=0)
        check_numbers(self, most=MOST_SMOOTHING, smoothing_frac=0)

    def spec(self, labels: LabelSpace) -> BankSpec:
        segments = self.max_segments, self.min_area_frac, self.smoothing_frac
        return BankSpec(labels, self.image_size, self.grid, *segments)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A config's parts that training alone needs; the model's are `make_networks`'."""

    bank: BankConfig
    simulation: SimulationConfig
    disturbance: DisturbanceConfig
    losses: LossConfig
    vgg: VGGConfig  # of the trunk that is trained here
    train: dict[str, TrainConfig]


def read_settings(config: ConfigDict) -> Settings:
    """Reads and checks a config, what it says of the model's networks included.

    Raises:
      InputError: a key is unknown or missing, or a value cannot be.
    """
    for where, expected in KEYS.items():
        part = config if where == "config" else config[where.removeprefix("config.")]
        if unknown := sorted(set(part.keys()) - set(expected)):
            raise unknown_key(where, unknown[0], expected)
        if missing := sorted(set(expected) - set(part.keys())):
            raise InputError(
                f"{where}: found no {missing[0]!r}, expected the keys {', '.join(expected)}"
            )
    if not config.stages:
        raise InputError(f"config.stages: found none, expected some of {', '.join(STAGES)}")
    unknown = sorted(set(config.stages) - set(STAGES))
    if unknown:
        raise InputError(
            f"config.stages: found {unknown[0]!r}, expected some of {', '.join(STAGES)}"
        )
    bank = make(BankConfig, config.bank, "config.bank")
    weights = {key: config.synthesis[key] for key in LOSS_KEYS}
    losses = make(LossConfig, weights, "config.synthesis")
    if losses.consistency_weight and config.features.weights:
        raise InputError(
            f"config.synthesis.consistency_weight: found {losses.consistency_weight}, expected 0 "
            "with config.features.weights: published weights cannot name classes; change either"
        )
    candidates = make_networks(config, labels=None).pipeline.candidates  # and for its errors
    if bank.donors > candidates:
        raise InputError(
            f"config.bank.donors: found {bank.donors}, expected no more than "
            f"config.pipeline.candidates, {candidates}; change either"
        )
    disturbance = config.transformer.disturbance
    trunk = {"width_multiplier": config.features.width_multiplier}
    return Settings(
        bank=bank,
        simulation=make(SimulationConfig, config.simulation, "config.simulation"),
        disturbance=make(DisturbanceConfig, disturbance, "config.transformer.disturbance"),
        losses=losses,
        vgg=make(VGGConfig, trunk, "config.features"),
        train={
            stage: make(TrainConfig, config[stage].train, f"config.{stage}.train")
            for stage in STAGES[1:]
        },
    )


def check_batches(settings: Settings, stages: tuple[str, ...], devices: int) -> None:
    """Raises InputError unless the batch of every stage that will run can be divided.

    By the `devices`, and each device's share by the stage's accumulation.
    """
    for stage, train in settings.train.items():
        if stage in stages and train.batch_size % (devices * train.accumulation):
            times = f" times accumulation = {train.accumulation}" if train.accumulation > 1 else ""
            raise InputError(
                f"config.{stage}.train.batch_size: found {train.batch_size}, expected a multiple "
                f"of the {counted(devices, 'device')}{times}; change batch_size or accumulation"
            )


def describe_shares(settings: Settings, devices: int) -> str:
    """The examples a step that each device has, of every network."""
    shares = (f"{stage} {train.batch_size // devices}" for stage, train in settings.train.items())
    return f"examples a step on each: {', '.join(shares)}"
