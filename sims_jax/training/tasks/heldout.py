"""Scoring on held-out examples: which ones, in which batches."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

BATCH = 16


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spaced: the same ones every time."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def map_examples(function: Callable, examples: Sequence) -> dict[str, np.ndarray]:
    """`function(batch, position)` over all examples, in batches; results per example.

    The last batch is filled up with its first example, so that `function` compiles once.
    """
    results = []
    for start in range(0, len(examples), BATCH):
        some = list(examples[start : start + BATCH])
        filled = some + some[:1] * (BATCH - len(some))
        batch = jax.tree.map(lambda *x: np.stack(x), *filled)
        position = np.arange(start, start + BATCH, dtype=np.int32)
        result = jax.device_get(function(batch, position))
        results.append(jax.tree.map(lambda x, n=len(some): x[:n], result))
    return jax.tree.map(lambda *x: np.concatenate(x), *results)


def average_over(function: Callable, examples: Sequence) -> dict[str, float]:
    """Means of what `function(batch, position)` gives for each example."""
    return {name: float(x.mean()) for name, x in map_examples(function, examples).items()}
