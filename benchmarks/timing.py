"""Times of calls that are to be compared."""

import math
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
    times = repeat_in_turn(calls, rounds)
    return {name: statistics.median(some) for name, some in times.items()}


def repeat_in_turn(
    calls: dict[str, Callable], rounds: int, budget_s: float = math.inf
) -> dict[str, list[float]]:
    """Milliseconds of each call, all of them in turn; the first round is not counted.

    Args:
      rounds: that are counted.
      budget_s: of each call, the first round included. A call that would go beyond it is left out
        of further rounds; of each call one round is counted in any case.
    """
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            some = times[name]
            if len(some) < 2 or sum(some) + some[-1] <= budget_s:
                some.append(time_once(call))
    return {name: [1e3 * seconds for seconds in some[1:]] for name, some in times.items()}
