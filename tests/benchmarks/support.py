"""What the tests of the benchmarks share: rounds that never ran, and what they would have shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.crew import Contender, Round, Turn
from benchmarks.harness import Cell, Results

MACHINE = {
    "cpu": "an abacus",
    "cores": "1",
    "memory": "a slate",
    "kernel": "a clerk",
    "python": "CPython",
}


def a_round(*turns: int, seconds: float = 1.0, p99: float = 0.001) -> Round:
    return Round(
        seconds=seconds,
        turns=turns,
        p50=p99 / 2,
        p99=p99,
        longest=p99,
        cpu_seconds=0.5,
        rss_bytes=50_000_000,
        stolen=0.0,
    )


def a_contender(name: str, *, ours: bool = False, floor: bool = False) -> Contender:
    @contextmanager
    def opened(threads: int) -> Iterator[Sequence[Turn]]:
        yield [lambda: None] * threads

    return Contender(name, opened, ours, floor)


def a_cell(contender: Contender, *rounds: Round | None, threads: int = 2) -> Cell:
    return Cell(contender=contender, threads=threads, rounds=list(rounds))


def results(*cells: Cell) -> Results:
    return Results(cells)
