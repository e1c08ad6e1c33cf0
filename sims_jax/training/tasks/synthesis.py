"""The synthesis network's task: the photo behind a simulated canvas. Source: SIMS, Sec. 6."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from sims_jax.bank.photo import as_float
from sims_jax.bank.store import Store
from sims_jax.canvas.compose import CanvasConfig
from sims_jax.canvas.simulate import Donors, SimulationConfig, relight_both, simulate
from sims_jax.config import check_numbers
from sims_jax.labels import LabelSpace, colorize
from sims_jax.losses import cross_entropy
from sims_jax.nets.layers import one_hot_layout
from sims_jax.nets.synthesis import Synthesis, SynthesisConfig
from sims_jax.ops.bits import pack_bits_numpy
from sims_jax.ops.light import measure_light
from sims_jax.ops.sheet import contact_sheet
from sims_jax.rng import example_keys, stream_key
from sims_jax.training.smaller import carry_over
from sims_jax.training.tasks.features import Features
from sims_jax.training.tasks.heldout import average_over, map_examples, spread
from sims_jax.types import Canvas

SHEET_ROWS = 6
DRAWS = 4  # with these, simulated canvases of CamVid are as full as composed ones, class by class


@dataclasses.dataclass(frozen=True)
class DonorTable:
    """For each of a store's rows its K donors in the bank, best first, and their alignments.

    Along L, a canvas's layers: the donor, then the rows that fill what it leaves empty.
    """

    row: np.ndarray  # int32 [R, K, L], -1 where there is none
    affine: np.ndarray  # float32 [R, K, L, 2, 3], to the donor's frame


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What counts beside the perceptual loss.

    Args:
      segmentation_weight: of the cross-entropy of f's auxiliary head, which names classes.
      consistency_weight: of the cross-entropy of Φ, which is to find the layout in the photo. Only
        where Φ is trained with the bank: published weights cannot name its classes.
      texture_weight: of the distance of textures (`losses.local_deviations`).

    Differs: the paper asks no network to find the layout, and compares no textures. Source: the
    semantic consistency loss of Hoffman et al. 2018 (CyCADA), Sec. 3, where what is to be found is
    predicted, too; the texture matching loss of Sajjadi et al. 2017 (EnhanceNet), Sec. 4.2.3.
    """

    segmentation_weight: float
    consistency_weight: float
    texture_weight: float

    def __post_init__(self):
        check_numbers(self, segmentation_weight=0, consistency_weight=0, texture_weight=0)


@dataclasses.dataclass(frozen=True)
class SynthesisTask:
    """Examples are photos; their canvases are simulated on the device, new at every step.

    Args:
      features: Φ and its λ.
      store, donors: the bank, and its rows' donors in itself (other photos).
      smaller: parameters of a smaller network, which this one begins with where they fit.
      heldout, heldout_donors: photos outside the bank, and their rows' donors in the bank.
    """

    config: SynthesisConfig
    canvas: CanvasConfig
    simulation: SimulationConfig
    losses: LossConfig
    features: Features
    store: Store
    donors: DonorTable
    heldout: Store
    heldout_donors: DonorTable
    dtype: DTypeLike = jnp.float32  # of what the network computes
    smaller: Any = None
    name: str = "synthesis"

    @property
    def labels(self) -> LabelSpace:
        return self.store.spec.labels

    @property
    def count(self) -> int:
        return len(self.store.ids)

    @property
    def network(self) -> Synthesis:
        return Synthesis(self.config, self.labels.num_classes, self.dtype)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A photo, donors of its pieces, the first of each segment drawn, and another photo."""
        row = self.store.row_of[index]
        slot = draw_donors(rng, (self.donors.row[row, :, 0] >= 0).sum(axis=1))
        example = photo_example(self.store, self.store, self.donors, index, slot)
        return example | {"lit_as": self.store.photo[rng.integers(self.count)]}

    def init(self, key):
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None], self._heldout_example(0))
        keys = example_keys(key, jnp.int32(0), jnp.arange(1))
        inputs = self._inputs(self.simulate(batch, keys, self.simulation)[0])
        params = self.network.init(key, *inputs)
        return params if self.smaller is None else carry_over(self.smaller, params)

    def loss(self, params, batch, keys):
        """Perceptual loss of the photo plus what else `LossConfig` weighs."""
        canvas, truth = self.simulate(batch, keys, self.simulation)
        output = self.network.apply(params, *self._inputs(canvas))
        found = self.features.compare(output.photo, truth, self.dtype)
        segmentation = cross_entropy(output.segmentation_logits, batch["layout"])
        loss = found.distance + self.losses.segmentation_weight * segmentation
        metrics = {"perceptual": found.distance, "segmentation": segmentation} | found.by_layer
        if self.losses.consistency_weight:
            metrics["consistency"] = cross_entropy(found.logits, batch["layout"])
            loss += self.losses.consistency_weight * metrics["consistency"]
        if self.losses.texture_weight:
            metrics |= {"texture": found.texture} | found.by_texture
            loss += self.losses.texture_weight * found.texture
        return loss, metrics

    def simulate(self, batch, keys, simulation: SimulationConfig) -> tuple[Canvas, Array]:
        """Canvases of a batch and their true photos, one key an example.

        On a CPU one after the other: XLA would else fuse their making with what f does to them
        first, and make every pixel again for each class.
        """

        def one(example):
            key, lit_as, photo, component, layout, donors = example
            component = component.astype(jnp.int32)
            photo = as_float(photo)
            canvas = simulate(
                key, photo, component, layout, donors, simulation, self.canvas, self.labels
            )
            if not simulation.relight_share:
                return canvas, photo
            light = measure_light(as_float(lit_as))
            return relight_both(jax.random.fold_in(key, 1), canvas, photo, light, simulation)

        parts = ("lit_as", "photo", "component", "layout", "donors")
        examples = keys, *(batch[part] for part in parts)
        return jax.lax.platform_dependent(
            examples, cpu=functools.partial(jax.lax.map, one), default=jax.vmap(one)
        )

    def evaluate(self, params) -> dict[str, float]:
        """Perceptual losses, on held-out photos: of the network and of what it must beat.

        `val_loss`: the photo made of a full simulated canvas; `canvas_loss`: that canvas with its
        mean colour in the holes; `empty_loss`: the photo made of an empty canvas.
        """
        examples = [self._heldout_example(i) for i in range(len(self.heldout.ids))]
        return average_over(self._score, params, examples)

    def sheet(self, params) -> np.ndarray:
        """Rows of: layout | simulated canvas | photo | real."""
        examples = [self._heldout_example(i) for i in spread(len(self.heldout.ids), SHEET_ROWS)]
        drawn = map_examples(self._draw, params, examples)
        return contact_sheet(
            [
                [colorize(example["layout"], self.labels), canvas, photo, example["photo"]]
                for example, canvas, photo in zip(
                    examples, drawn["canvas"], drawn["photo"], strict=True
                )
            ],
            ["layout", "simulated canvas", "photo", "real"],
        )

    @property
    def _own_light(self) -> SimulationConfig:
        """Held-out photos keep theirs: what is made of them stands beside them."""
        return dataclasses.replace(self.simulation, relight_share=0.0)

    @functools.cached_property
    def _score(self):
        full = dataclasses.replace(self._own_light, missing_share=0.0, empty_share=0.0)
        empty = dataclasses.replace(self._own_light, empty_share=1.0)

        def score(params, batch, position):
            keys = example_keys(stream_key(0, "heldout canvas"), jnp.int32(0), position)
            canvas, truth = self.simulate(batch, keys, full)
            photos = {
                "val_loss": self._paint(params, canvas),
                "canvas_loss": fill_mean(canvas),
                "empty_loss": self._paint(params, self.simulate(batch, keys, empty)[0]),
            }
            return {
                name: self.features.compare(photo, truth, self.dtype).distance
                for name, photo in photos.items()
            }

        return jax.jit(score)

    @functools.cached_property
    def _draw(self):
        def draw(params, batch, position):
            keys = example_keys(stream_key(0, "sheet"), jnp.int32(0), position)
            canvas, _ = self.simulate(batch, keys, self._own_light)
            return {"canvas": canvas.rgb, "photo": self._paint(params, canvas)}

        return jax.jit(draw)

    def _paint(self, params, canvas: Canvas):
        return jnp.clip(self.network.apply(params, *self._inputs(canvas)).photo, 0.0, 1.0)

    def _inputs(self, canvas: Canvas):
        return one_hot_layout(canvas.layout, self.labels.num_classes), canvas.rgb, canvas.mask

    def _heldout_example(self, index: int):
        best = np.zeros(self.heldout.row_of.shape[1], dtype=int)
        example = photo_example(self.heldout, self.store, self.heldout_donors, index, best)
        return example | {"lit_as": example["photo"]}


def draw_donors(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """One of the `counts` donors of each of N segments: the best of DRAWS drawn at random.

    At inference one of the best is used. In training the others make for variety, but their shapes
    fit less well, so they must not be drawn as often.
    """
    return rng.integers(np.maximum(counts, 1), size=(DRAWS, len(counts))).min(axis=0)


def photo_example(
    queries: Store, bank: Store, table: DonorTable, index: int, slot: np.ndarray
) -> dict[str, Any]:
    """Photo `index` of `queries`, and for each of its N segments the donor in slot [N] of K."""
    layers = table.row.shape[-1]
    row = np.tile(queries.row_of[index], layers)
    place = row, np.tile(slot, layers), np.arange(layers).repeat(len(slot))
    donor = np.where(row >= 0, table.row[place], -1)
    masks = (bank.cut(some).reshape(len(some), -1) for some in np.split(donor, layers))
    return {
        "photo": queries.photo[index],
        "layout": queries.layout[index],
        "component": queries.component[index],
        "donors": Donors(
            own_mean=queries.row_color_mean[row],
            own_cov=queries.row_color_cov[row],
            mean=bank.row_color_mean[donor],
            cov=bank.row_color_cov[donor],
            mask=np.concatenate([pack_bits_numpy(some) for some in masks]),
            affine=table.affine[place],
            found=donor >= 0,
        ),
    }


def fill_mean(canvas: Canvas):
    """The canvas as a photo: its mean colour where it has no pixel."""
    mask = canvas.mask[..., None]
    total = jnp.maximum(mask.sum(axis=(1, 2), keepdims=True), 1.0)
    mean = (canvas.rgb * mask).sum(axis=(1, 2), keepdims=True) / total
    return canvas.rgb * mask + mean * (1 - mask)
