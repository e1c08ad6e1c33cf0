"""Batches on their way to the devices: one ahead, and who waits for whom."""

import threading
import time

import jax
import numpy as np
import pytest

from sims_jax.training.batches import Feed
from sims_jax.training.parallel import AXIS, place_batch

PAUSE_S = 0.05
STEPS = 5


def share_of_waiting(reading_s, step_s):
    """Of STEPS steps of some seconds, each of which needs a batch that takes some to read."""

    def read():
        while True:
            time.sleep(reading_s)
            yield 0

    with Feed(read(), lambda batch: batch) as feed:
        feed.take(None)
        feed.wait_share()
        for _ in range(STEPS):
            time.sleep(step_s)
            feed.take(None)
        return feed.wait_share()


def test_the_share_of_waiting_is_that_of_the_slower_reader():
    assert share_of_waiting(reading_s=0, step_s=PAUSE_S) < 0.1
    assert share_of_waiting(reading_s=PAUSE_S, step_s=0) > 0.8
    assert share_of_waiting(reading_s=2 * PAUSE_S, step_s=PAUSE_S) == pytest.approx(0.5, abs=0.2)


def test_no_device_waits_while_its_step_runs():
    """Reading takes as long as the step: the host waits for both, the device for neither."""

    class Running:
        def block_until_ready(self):
            time.sleep(2 * PAUSE_S)
            return self

    with Feed(iter(lambda: time.sleep(PAUSE_S), 0), lambda batch: batch) as feed:
        feed.take(None)
        feed.wait_share()
        feed.take(Running())
        assert feed.wait_share() < 0.1


def test_the_next_batch_is_placed_while_a_step_runs():
    placed = threading.Semaphore(0)
    devices = jax.devices()[:4]

    def place(batch):
        result = place_batch(batch, devices)
        placed.release()
        return result

    batches = ({"x": np.full((8, 3), n, np.float32)} for n in range(2))
    with Feed(batches, place) as feed:
        first = feed.take(None)["x"]
        assert all(placed.acquire(timeout=10) for _ in range(2))  # the second, unasked
        assert first.shape == (4, 2, 3) and first.sharding.spec == jax.sharding.PartitionSpec(AXIS)
        np.testing.assert_array_equal(feed.take(None)["x"], 1)
        with pytest.raises(StopIteration):  # what reading raises is raised here
            feed.take(None)
