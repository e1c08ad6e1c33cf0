"""Times of calls that are to be compared."""

import statistics
import time
from collections.abc import Callable


def time_once(call: Callable) -> float:
    """Seconds of a call, which waits for its own results."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def time_in_turn(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, all of them in turn; the first round is not counted."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(1e3 * time_once(call))
    return {name: statistics.median(some[1:]) for name, some in times.items()}
