"""Scoring on held-out examples: which ones, in which batches."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

BATCH = 16


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spaced: the same ones every time."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def map_examples(score: Callable, params, examples: Sequence) -> dict[str, np.ndarray]:
    """`score(params, batch, position)` over all examples, in batches; results per example.

    The last batch is filled up with its first example, so that a jitted `score` compiles once.
    """
    results = []
    for start in range(0, len(examples), BATCH):
        some = list(examples[start : start + BATCH])
        filled = some + some[:1] * (BATCH - len(some))
        batch = jax.tree.map(lambda *x: np.stack(x), *filled)
        position = np.arange(start, start + BATCH, dtype=np.int32)
        result = jax.device_get(score(params, batch, position))
        results.append({name: x[: len(some)] for name, x in result.items()})
    return {name: np.concatenate([some[name] for some in results]) for name in results[0]}


def average_over(score: Callable, params, examples: Sequence) -> dict[str, float]:
    """Means of what `score(params, batch, position)` gives for each example."""
    return {name: float(x.mean()) for name, x in map_examples(score, params, examples).items()}
