"""Coarse to fine: a synthesis network begins with what a smaller one has learned.

Source: SIMS, Sec. 7: 512x1024 from 256x512, by one decoder scale more.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from sims_jax.bank.store import open_bank
from sims_jax.checkpoints import restore_finished
from sims_jax.errors import InputError
from sims_jax.labels import LabelSpace
from sims_jax.nets.synthesis import Synthesis, SynthesisConfig

HEADS = ("photo", "segmentation")  # read the finest scale, whose width may differ


def read_smaller(workdir: pathlib.Path, config: SynthesisConfig, labels: LabelSpace) -> Any:
    """The averaged parameters of a finished run's synthesis network, for one of `config`.

    Prints which are carried over and which are new.

    Raises:
      InputError: the run is not finished, knows other classes, or has a block that `config` lacks.
    """
    smaller = jax.device_get(restore_finished(workdir / "synthesis"))
    theirs = open_bank(workdir / "bank").spec.labels
    if theirs.classes != labels.classes:
        raise InputError(
            f"config.synthesis.init_from: found classes {', '.join(theirs.classes)} in {workdir}, "
            f"expected {', '.join(labels.classes)}; give a run on the same dataset"
        )
    size = (1, 16, 16)  # parameters do not depend on it
    onehot, rgb, mask = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((*size, labels.num_classes + 1), (*size, 3), size)
    )
    network = Synthesis(config, labels.num_classes)
    fine = _by_name(jax.eval_shape(network.init, jax.random.key(0), onehot, rgb, mask))
    there = _by_name(smaller)
    for name, leaf in there.items():
        if not _fits(name, leaf, fine) and _module(name) not in HEADS:
            expected = f"shape {fine[name].shape}" if name in fine else "no such block"
            raise InputError(
                f"config.synthesis.init_from: found {name} of shape {leaf.shape} in {workdir}, "
                f"expected {expected} as config.synthesis.net says; only scales at the end of "
                "decoder_widths may be added"
            )
    kept = {name: leaf for name, leaf in fine.items() if _fits(name, leaf, there)}
    partly = {_module(name) for name in kept}
    new = sorted({
        name.removeprefix("params/") if _module(name) in partly else _module(name)
        for name in fine
        if name not in kept
    })  # fmt: skip
    print(
        f"synthesis: {_millions(kept)} of {_millions(fine)} million parameters are carried over "
        f"from {workdir}; new: {', '.join(new) or 'none'}",
        flush=True,
    )
    return smaller


def carry_over(smaller: Any, fine: Any) -> Any:
    """`fine` with the parameters of `smaller` wherever names and shapes are the same."""
    there = _by_name(smaller)

    def choose(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.asarray(there[name]) if _fits(name, leaf, there) else leaf

    return jax.tree_util.tree_map_with_path(choose, fine)


def _fits(name: str, leaf, others: dict[str, Any]) -> bool:
    return name in others and others[name].shape == leaf.shape


def _by_name(params) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _module(name: str) -> str:
    """`decoder_0` of `params/decoder_0/conv_0/kernel`."""
    return name.split("/")[1]


def _millions(leaves: dict[str, Any]) -> str:
    return f"{sum(leaf.size for leaf in leaves.values()) / 1e6:.3g}"
