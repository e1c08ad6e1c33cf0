"""The one error a user reads, and what is done with it: stop at the first, or collect them all."""

import pathlib
from collections.abc import Callable, Iterable


class InputError(Exception):
    """Something given by the user cannot be used; the message is the one line they read.

    It names the file (or key), what was found, what was expected and what to do. `files` are the
    files to look at, where they are known; a message names only the first of many.
    """

    def __init__(self, message: str, files: Iterable[pathlib.Path] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


# What is called with a fault: it raises it, or keeps it and lets its caller go on.
Refuse = Callable[[InputError], None]


def refuse_at_once(error: InputError) -> None:
    """Stops at the first fault."""
    raise error
