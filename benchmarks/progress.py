"""Show how far a run has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Watcher(Protocol):
    """Told of each stage, and of each step within it."""

    def stage(self, title: str, steps: int) -> None: ...

    def step(self, doing: str) -> None: ...


class Silent:
    """Show nothing."""

    def stage(self, title: str, steps: int) -> None:
        pass

    def step(self, doing: str) -> None:
        pass


class Lines:
    """Print a line for each stage, and what ``progress`` says."""

    def __init__(self, console: Console, progress: Callable[[], str] = str) -> None:
        self._console = console
        self._progress = progress

    def stage(self, title: str, steps: int) -> None:
        said = " · ".join(filter(None, (f"… {title}: at most {steps} steps", self._progress())))
        self._console.print(said, highlight=False)

    def step(self, doing: str) -> None:
        pass


class Bar:
    """Draw a bar for the present stage, beside what ``progress`` says; a context manager."""

    def __init__(self, console: Console, progress: Callable[[], str] = str) -> None:
        self._progress = progress
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("[dim]{task.fields[doing]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[overall]}"),
        )
        # Four frames a second: the display must not take part in the race.
        self._bar = Progress(*columns, console=console, refresh_per_second=4, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, title: str, steps: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=steps, doing="", overall=self._progress())

    def step(self, doing: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, advance=1, doing=doing)
