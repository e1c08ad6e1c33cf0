"""A function over chunks of many items: memory of one chunk, no work for those that need none."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def map_chunks(
    function: Callable, arguments: tuple[Any, ...], needed: Bool[Array, "n"], chunk: int
) -> Any:
    """`function` over chunks of the leading axis; chunks in which nothing is needed give zeros.

    Memory is that of one chunk. Under `vmap` the skipping becomes a selection: right, but no gain.
    """
    count = needed.shape[0]
    padding = -count % chunk

    def split(x):
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, chunk, *x.shape[1:])

    function = jax.jit(function)  # traced once, for its shapes and for what it does
    chunks = jax.tree.map(split, tuple(arguments))

    def leave(*arguments):
        # Only shapes and types are used, so the compiler leaves the function's work out. They could
        # be asked for by `jax.eval_shape`, which has no arrays for what checks its fields.
        return jax.tree.map(jnp.zeros_like, function(*arguments))

    def run(inputs):
        some, arguments = inputs
        return jax.lax.cond(some.any(), function, leave, *arguments)

    results = jax.lax.map(run, (split(needed), chunks))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], results)
