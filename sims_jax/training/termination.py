"""SIGTERM: what a scheduler sends before it takes a machine back."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGTERM_STATUS = 128 + signal.SIGTERM  # 143, as a shell tells of what died of it


class Terminated(Exception):
    """SIGTERM has come, and all is saved."""


@contextlib.contextmanager
def watch_for_sigterm() -> Iterator[Callable[[], bool]]:
    """Tells whether SIGTERM has come, instead of dying of it.

    Python hands signals to its main thread; in others nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
