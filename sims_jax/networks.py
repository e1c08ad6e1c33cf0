"""What a trained model is made of: its networks' sizes, its canvas, and their parameters."""

import dataclasses
from typing import Any

from flax import struct
from ml_collections import ConfigDict

from sims_jax.bank.choose import MOST_WEIGHT
from sims_jax.bank.segments import MOST_ASPECT
from sims_jax.canvas.compose import CanvasConfig
from sims_jax.config import check_numbers, make
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.nets.densifier import DensifierConfig
from sims_jax.nets.ordering import OrderingConfig
from sims_jax.nets.synthesis import SynthesisConfig
from sims_jax.nets.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """How segments are cut and chosen, and static maxima and chunks of inference.

    Args:
      candidates: K, rows retrieved for each segment, one of which is used and some fill it; in
        training, too.
      light_weight: how much it counts that their photos have one light (`sims_jax.bank.choose`), 0
        to 16. 0: each segment's best row is used, as in the paper.
      max_pairs: M, overlapping pairs the ordering network is asked about; the largest overlaps win.
        0: it is not asked, and the prior orders all.
      chunk: segments, or pairs, that a network sees at once; empty chunks cost nothing.
      max_aspect: of one thing; wider ones without an instance id, cars in a row, are cut before
        retrieval (`sims_jax.bank.segments`). 0: none is, as in the paper and in workdirs whose
        config does not say.
      cut_empty: what the pieces leave empty of things is cut off from them, and searched for again
        (`sims_jax.retrieval`). Not in the paper, nor in workdirs whose config does not say.
    """

    candidates: int
    light_weight: float
    max_pairs: int
    chunk: int
    max_aspect: float = 0.0
    cut_empty: bool = False

    def __post_init__(self):
        check_numbers(self, candidates=1, max_pairs=0, chunk=1)
        check_numbers(self, most=MOST_ASPECT, max_aspect=0)
        check_numbers(self, most=MOST_WEIGHT, light_weight=0)


@dataclasses.dataclass(frozen=True)
class Networks:
    """Everything static about a model: its label space, its networks' sizes, its canvas."""

    labels: LabelSpace
    transformer: TransformerConfig
    ordering: OrderingConfig
    densifier: DensifierConfig
    synthesis: SynthesisConfig
    canvas: CanvasConfig
    pipeline: PipelineConfig

    def __post_init__(self):
        layers, candidates = self.canvas.layers, self.pipeline.candidates
        if layers > candidates:
            raise InputError(
                f"config.canvas.layers: found {layers}, expected no more than "
                f"config.pipeline.candidates, {candidates}; change either"
            )


@struct.dataclass
class Params:
    """The four networks' parameters, with the description of what they are parameters of.

    The densifier's, for coarse layouts alone, are None where it was not trained.
    """

    transformer: Any
    ordering: Any
    densifier: Any
    synthesis: Any
    networks: Networks = struct.field(pytree_node=False)


def make_networks(config: ConfigDict, labels: LabelSpace) -> Networks:
    """What a config says of the networks and the canvas."""
    return Networks(
        labels=labels,
        transformer=make(TransformerConfig, config.transformer.net, "config.transformer.net"),
        ordering=make(OrderingConfig, config.ordering.net, "config.ordering.net"),
        densifier=make(DensifierConfig, config.densifier.net, "config.densifier.net"),
        synthesis=make(SynthesisConfig, config.synthesis.net, "config.synthesis.net"),
        canvas=make(CanvasConfig, config.canvas, "config.canvas"),
        pipeline=make(PipelineConfig, config.pipeline, "config.pipeline"),
    )
