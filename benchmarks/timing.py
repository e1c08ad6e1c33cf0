"""Times of calls that are to be compared."""

import math
import statistics
import time
from collections.abc import Callable


def time_once(call: Callable, warm: int = 0) -> float:
    """Seconds of a call, which waits for its own results, after `warm` calls that do not count."""
    for _ in range(warm):
        call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def time_in_turn(calls: dict[str, Callable], rounds: int, warm: int = 0) -> dict[str, float]:
    """Median milliseconds of each call, all of them in turn; the first round is not counted.

    Args:
      warm: calls of its own that go before each timed one, which then does not pay for what the
        others left: their data in the caches, a core that has gone to sleep.
    """
    times = repeat_in_turn(calls, rounds, warm=warm)
    return {name: statistics.median(some) for name, some in times.items()}


def repeat_in_turn(
    calls: dict[str, Callable], rounds: int, budget_s: float = math.inf, warm: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of each call, all of them in turn; the first round is not counted.

    Args:
      rounds: that are counted.
      budget_s: of each call, the first round included. A call that would go beyond it is left out
        of further rounds; of each call one round is counted in any case.
      warm: as in `time_in_turn`.
    """
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            some = times[name]
            if len(some) < 2 or sum(some) + some[-1] <= budget_s:
                some.append(time_once(call, warm))
    return {name: [1e3 * seconds for seconds in some[1:]] for name, some in times.items()}
