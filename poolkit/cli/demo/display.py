"""Tell what is going on while it goes on: bars on a terminal, lines anywhere else.

Both write to standard error, which leaves standard output to the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Protocol, TextIO

Progress = Callable[[int], None]
"""Says how many of a step's requests are over."""

_LINE_EVERY = 5.0


class Display(Protocol):
    """Where the steps of a demo are shown."""

    def step(self, name: str, *, total: int | None = None) -> AbstractContextManager[Progress]:
        """Show a step from its start to its end; of *total* requests, if it has any."""


@contextmanager
def display(stream: TextIO | None = None) -> Iterator[Display]:
    """Give the display that suits *stream* (standard error)."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream)
        return
    with Bars(stream) as bars:
        yield bars


class Lines:
    """A line at a step's start, one every five seconds, and one at its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def step(self, name: str, *, total: int | None = None) -> Iterator[Progress]:
        began = said_at = monotonic()
        self._say(f"{name} ..." if total is None else f"{name}: {total:,} requests ...")

        def progress(over: int) -> None:
            nonlocal said_at
            if monotonic() - said_at >= _LINE_EVERY:
                said_at = monotonic()
                self._say(f"{name}: {over:,} of {total:,} requests")

        yield progress
        self._say(f"{name}: done in {monotonic() - began:.1f} s")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bars:
    """A bar for each step; those that are over stay."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        # Each refresh costs the requests some time: four a second are enough for an eye.
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(file=stream),
            refresh_per_second=4,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, name: str, *, total: int | None = None) -> Iterator[Progress]:
        task = self._progress.add_task(name, total=total)
        yield lambda over: self._progress.update(task, completed=over)
        self._progress.update(task, total=total or 1, completed=total or 1)
