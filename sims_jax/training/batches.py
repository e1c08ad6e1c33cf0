"""Batches: a task's examples, shuffled, drawn at random, and read ahead. The same for every run.

The n-th batch of a seed is always the same one, on any number of devices or processes, so that a
resumed run goes on exactly. Randomness is drawn by the example's position in the whole stream,
before the stream is divided among processes.
"""

from collections.abc import Iterator

import grain
import jax
import numpy as np

READ_THREADS = 2
READ_AHEAD = 4  # batches


def iterate_batches(
    task, *, seed: int, batch_size: int, first_step: int
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """(this process's share of the batch, its examples' positions in it), endlessly.

    Args:
      task: has `count` examples, `example(index, rng)` and a `name`.
      seed: of the order and of the draws.
      batch_size: of all processes together.
      first_step: where to begin; a run that has done n steps goes on at n.
    """
    processes, process = jax.process_count(), jax.process_index()
    stream = (
        grain.MapDataset.source(range(task.count))
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(lambda index, rng: task.example(index, rng))[process::processes]
        .batch(
            batch_size // processes,
            drop_remainder=True,
            batch_fn=lambda examples: jax.tree.map(lambda *x: np.stack(x), *examples),
        )
    )
    position = np.arange(process, batch_size, processes, dtype=np.int32)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_AHEAD)
    for batch in stream[first_step:].to_iter_dataset(options):
        yield batch, position
