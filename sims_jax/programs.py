"""Short starts of commands: compiled programs are kept on disk, and read back at the next start.

That is JAX's persistent compilation cache. A program is found again by all that it depends on: the
computation, the versions of JAX and XLA, their flags, the devices and what their processor can do.
So it gives the same bits as one compiled anew, and the folder may be shared or deleted at any time.
"""

import gc
import os
import pathlib

FOLDER_VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # read by JAX when it is imported
_PLACE = "sims_jax/xla"  # in the user's folder of caches
# New objects after which the interpreter looks for garbage. Tracing makes many, hardly any of which
# point at each other in circles, but it looks for these much more often by default.
_GARBAGE_AFTER = 20_000


def shorten_start() -> None:
    """Keeps programs, and traces them in less time.

    For commands, before they import JAX; the library leaves both choices to whoever imports it.
    Programs are kept in `~/.cache/sims_jax/xla`, or where JAX_COMPILATION_CACHE_DIR says. Where the
    folder cannot be written, nothing is kept: that is no error.
    """
    gc.set_threshold(_GARBAGE_AFTER)
    if FOLDER_VARIABLE in os.environ:
        return
    try:
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = caches / _PLACE
        # A program is run as it is read, so nobody else may write one.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that cannot be written, or that nobody knows
        return
    if os.access(folder, os.W_OK):
        os.environ[FOLDER_VARIABLE] = str(folder)
