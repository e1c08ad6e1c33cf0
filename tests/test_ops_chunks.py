"""Chunks: the function's results, zeros and no work where nothing is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims_jax.ops.chunks import map_chunks

NEEDED = jnp.array([True, False, True, False, False, False, False, False, True, True])


def double(x, y):
    """Of a chunk: a pair, one of whose parts may be left out."""
    return x * 2.0, {"sum": x + y[:, None], "none": None}


def inputs():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.random((10, 3)), jnp.float32), jnp.arange(10.0)


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 16])
def test_results_where_needed_and_zeros_in_chunks_that_are_not(chunk):
    x, y = inputs()
    found, parts = jax.jit(lambda x, y: map_chunks(double, (x, y), NEEDED, chunk))(x, y)
    run = np.add.reduceat(np.asarray(NEEDED, int), np.arange(0, 10, chunk)) > 0
    run = np.repeat(run, chunk)[:10]
    assert parts["none"] is None
    for one, whole in zip((found, parts["sum"]), (x * 2.0, x + y[:, None]), strict=True):
        np.testing.assert_array_equal(one, np.where(run[:, None], whole, 0.0))


def test_gradients_are_those_of_the_chunks_that_run():
    x, y = inputs()
    slope = jax.grad(lambda x: map_chunks(double, (x, y), NEEDED, 4)[0].sum())(x)
    np.testing.assert_array_equal(
        slope, np.repeat([2.0, 0.0, 2.0], (4, 4, 2))[:, None] * np.ones(3)
    )


def test_vmap_is_the_batch():
    x, y = inputs()
    some = jnp.stack([NEEDED, ~NEEDED])
    both = jax.vmap(lambda needed: map_chunks(double, (x, y), needed, 4)[0])(some)
    for needed, one in zip(some, both, strict=True):
        np.testing.assert_array_equal(one, map_chunks(double, (x, y), needed, 4)[0])


def test_a_chunk_that_is_not_needed_costs_nothing():
    """The function is compiled where chunks run, and left out where only its shapes are taken."""
    run = jax.jit(lambda x: map_chunks(jnp.sin, (x,), NEEDED, 4))
    assert run.lower(inputs()[0]).compile().as_text().count(" sine(") == 1
