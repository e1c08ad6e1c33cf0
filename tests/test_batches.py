"""Batches on their way to the devices: one ahead, and who waits for whom."""

import threading

import jax
import numpy as np
import pytest

from sims_jax.training import batches
from sims_jax.training.batches import Feed
from sims_jax.training.parallel import AXIS, place_batch

STEPS = 5


class Clock:
    """Goes on only where a step runs or the host waits for a batch, whose reading began with it."""

    def __init__(self, reading_s, step_s):
        self.now, self.step_s, self.longer_s = 0.0, step_s, max(reading_s - step_s, 0.0)
        self.step_ended, self.host_waits = False, threading.Semaphore(0)

    def monotonic(self):
        now = self.now
        if self.step_ended:
            self.step_ended = False
            self.host_waits.release()
        return now

    def block_until_ready(self):
        self.now += self.step_s
        self.step_ended = True
        return self

    def read(self):
        while True:
            assert self.host_waits.acquire(timeout=10)
            self.now += self.longer_s
            yield 0


@pytest.mark.parametrize(
    ("reading_s", "step_s", "share"), [(0, 1, 0), (1, 2, 0), (2, 2, 0), (1, 0, 1), (4, 3, 1 / 4)]
)
def test_the_share_of_waiting_is_that_of_the_slower_reader(reading_s, step_s, share, monkeypatch):
    """The host waits for the step, too; the devices only for what reading takes longer."""
    clock = Clock(reading_s, step_s)
    monkeypatch.setattr(batches, "time", clock)
    with Feed(clock.read(), lambda batch: batch) as feed:
        feed.take(running=clock)
        feed.wait_share()
        for _ in range(STEPS):
            feed.take(running=clock)
        found = feed.wait_share()
        clock.host_waits.release()  # the batch ahead
    assert found == pytest.approx(share)


def test_the_next_batch_is_placed_while_a_step_runs():
    placed = threading.Semaphore(0)
    devices = jax.devices()[:4]

    def place(batch):
        result = place_batch(batch, devices)
        placed.release()
        return result

    numbered = ({"x": np.full((8, 3), n, np.float32)} for n in range(2))
    with Feed(numbered, place) as feed:
        first = feed.take(None)["x"]
        assert all(placed.acquire(timeout=10) for _ in range(2))  # the second, unasked
        assert first.shape == (4, 2, 3) and first.sharding.spec == jax.sharding.PartitionSpec(AXIS)
        np.testing.assert_array_equal(feed.take(None)["x"], 1)
        with pytest.raises(StopIteration):  # what reading raises is raised here
            feed.take(None)
