"""Progress with an ETA: one rewritten line on a terminal, a plain line now and then elsewhere."""

import sys

from tqdm import tqdm

TERMINAL_EVERY_S = 0.2
PLAIN_EVERY_S = 20.0
SILENT_S = 1.0  # what takes less shows nothing
BAR_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"


class _PlainLines:
    """Standard error, where the rewriting of a line becomes a new line."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


class _Bar(tqdm):
    """Its ETA is that of what comes after the first update, which compiles and is shown at once."""

    _begun = False

    def update(self, n: float = 1) -> bool | None:
        if self._begun or self.disable or self.n + n >= self.total:
            return super().update(n)
        self._begun = True
        self.n = self.initial = self.last_print_n = self.n + n
        self.last_print_t = self._time()
        shown = self.last_print_t >= self.start_t + self.delay
        if shown:
            self.refresh()
        return shown


def progress(name: str, total: int, done: int = 0, shown: bool = True) -> tqdm:
    """A tqdm bar, used as a context manager: call `update()`, and `set_postfix_str` for a note.

    Of several processes at the same work one shows it.
    """
    terminal = sys.stderr.isatty()
    return _Bar(
        desc=name,
        total=total,
        initial=done,
        file=sys.stderr if terminal else _PlainLines(),
        mininterval=TERMINAL_EVERY_S if terminal else PLAIN_EVERY_S,
        bar_format=BAR_FORMAT,
        maxinterval=PLAIN_EVERY_S,
        delay=SILENT_S,
        disable=not shown,
    )
