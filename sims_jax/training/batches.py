"""Batches: a task's examples, shuffled, drawn at random, and read ahead. The same for every run.

The n-th batch of a seed is always the same one, on any number of devices or processes, so that a
resumed run goes on exactly. Randomness is drawn by the example's position in the whole stream,
before the stream is divided among processes.

While a step runs, the next batch is put on the devices (`Feed`).
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np

READ_THREADS = min(os.cpu_count() or 1, 16)  # one a core
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


class Feed:
    """Batches on the devices, one ahead of the step that runs. A context manager.

    Args:
      batches: endless, of this process.
      place: puts a batch on the devices; called, as `batches` is, in a thread of its own.
    """

    def __init__(self, batches: Iterator, place: Callable):
        self._batches, self._place = batches, place
        self._reader = ThreadPoolExecutor(1)
        self._next = self._reader.submit(self._read)
        self._began, self._waited_s = time.monotonic(), 0.0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._reader.shutdown(cancel_futures=True)

    def take(self, running: Any) -> Any:
        """The next batch, on the devices.

        Args:
          running: results of the step before; until they are there, no device waits for data.
        """
        if not self._next.done():
            jax.block_until_ready(running)
            began = time.monotonic()
            self._next.exception()
            self._waited_s += time.monotonic() - began
        batch = self._next.result()
        self._next = self._reader.submit(self._read)
        return batch

    def wait_share(self) -> float:
        """The share of the time since the last call in which the devices waited for data."""
        now = time.monotonic()
        share = self._waited_s / max(now - self._began, 1e-9)
        self._began, self._waited_s = now, 0.0
        return share

    def _read(self) -> Any:
        return self._place(next(self._batches))
