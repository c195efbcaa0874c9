"""Progress of long work: a bar with an ETA on a terminal, an occasional plain line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LOG_PERIOD_S = 10.0


class Progress:
    """Count ``total`` units of work and show the numbers that matter beside the bar.

    >>> with Progress("count", total=2, quiet=True) as bar:
    ...     bar.update(1, loss=0.5)
    ...     bar.update(1, loss=0.25)
    >>> bar.done
    2
    """

    def __init__(self, title: str, total: int, unit: str = "", done: int = 0, quiet: bool = False) -> None:
        """Start at ``done`` of ``total`` (a resumed run); ``quiet`` shows nothing."""
        self.title, self.total, self.unit, self.done, self._first = title, total, unit, done, done
        self._shown = ""
        self._rich: RichProgress | None = None
        self._quiet = quiet
        self._started = self._last_line = time.monotonic()
        if not quiet and sys.stderr.isatty():
            self._rich = RichProgress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
                TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[shown]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._rich.add_task(title, total=total, completed=done, shown="")

    def update(self, n: int = 1, **shown: float) -> None:
        """Advance by ``n`` units and show the numbers given by name."""
        self.done += n
        if shown:
            self._shown = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, shown=self._shown)
        elif not self._quiet and (time.monotonic() - self._last_line > LOG_PERIOD_S or self.done == self.total):
            self._last_line = time.monotonic()
            self._print_line()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self._quiet:
            return
        if self._rich is not None:
            self._rich.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def _print_line(self) -> None:
        elapsed = time.monotonic() - self._started
        fresh = self.done - self._first
        eta = (self.total - self.done) * elapsed / fresh if fresh else float("nan")
        line = (
            f"{self.title}: {self.done}/{self.total} {self.unit}  {elapsed:.0f}s elapsed, eta {eta:.0f}s  {self._shown}"
        )
        print(line.rstrip(), file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
