"""SIGTERM, which a scheduler sends before it takes a machine back, and Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Terminated(Exception):
    """A signal has come, and all is saved. `status`: as a shell tells of what died of it."""

    def __init__(self, message: str, by: signal.Signals = signal.SIGTERM):
        super().__init__(message)
        self.status = 128 + by


@contextlib.contextmanager
def watch_for_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Tells which of SIGTERM and SIGINT has come, instead of dying of it; a second SIGINT kills.

    Python hands signals to its main thread; in others nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[signal.Signals] = []

    def note(number: int, _) -> None:
        came.append(signal.Signals(number))
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    for one in before:
        signal.signal(one, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
