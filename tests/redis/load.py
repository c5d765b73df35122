"""Threads that count up keys of their own, and from whose notes it can be told what was lost, doubled or crossed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import NamedTuple

from poolkit import OutcomeUnknown, RedisPool
from tests.core.support import Task, eventually

APART = 1_000_000
"""Between the numbers at which the counters begin, so that each number says whose it is."""


class Answer(NamedTuple):
    """What a thread was told, between two moments on the monotonic clock."""

    began: float
    ended: float
    value: int
    unknown: int  # how many of its increments may or may not have taken effect, by then


class Counter:
    """A key that only one thread counts up."""

    def __init__(self, key: str, start: int) -> None:
        self.key = key
        self.start = start
        self.told: list[Answer] = [Answer(0.0, 0.0, start, 0)]
        self.unknown = 0

    def count(self, cache: RedisPool) -> None:
        """Add one, and note what was told."""
        began = monotonic()
        try:
            value = cache.incr(self.key)
        except OutcomeUnknown:
            self.unknown += 1
            raise
        self.told.append(Answer(began, monotonic(), value, self.unknown))

    def lost(self, final: int) -> list[Answer]:
        """Return the acknowledged increments that are not in *final*, the value of the key in the end.

        Only their thread writes the key, so what it is told goes up by one, and by as many more as are
        unknown. Where it goes down, another server has taken over, which lacks what was told before.
        Everything else is an increment that ran twice, or the answer to somebody else.
        """
        missing: list[Answer] = []
        ends = Answer(0.0, 0.0, final + 1, self.unknown)
        for at, after in enumerate([*self.told[1:], ends]):
            before = self.told[at]
            rise = after.value - before.value
            assert rise <= 1 + after.unknown - before.unknown, (self.key, before, after)
            assert self.start < after.value <= self.start + APART, (self.key, before, after)
            if rise < 1:
                missing += [told for told in self.told[: at + 1] if told.value >= after.value]
        return missing


class Load:
    """Threads that use a pool as fast as they can for the length of a block, each with keys of its own.

    In a round each counts up all of its keys, and writes and reads something of its own beside each of
    them, in one pipeline. :attr:`problems` is what no caller should have seen: any error but
    :class:`~poolkit.OutcomeUnknown`, and whatever is not the answer to one's own question.
    """

    def __init__(self, cache: RedisPool, keys: Sequence[Sequence[str]]) -> None:
        self._cache = cache
        self.threads = [
            [Counter(key, APART * (number * len(mine) + at)) for at, key in enumerate(mine)]
            for number, mine in enumerate(keys)
        ]
        self.problems: list[object] = []
        self._rounds: list[list[float]] = [[] for _ in self.threads]
        self._stop = threading.Event()
        self._tasks: list[Task] = []

    def __enter__(self) -> Load:
        self._cache.mset({counter.key: counter.start for counter in self.counters})
        self._tasks = [Task(self._work, number) for number in range(len(self.threads))]
        self.healthy_since(monotonic())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for task in self._tasks:
            task.result()

    @property
    def counters(self) -> list[Counter]:
        """All keys of all threads."""
        return [counter for mine in self.threads for counter in mine]

    def healthy_since(self, moment: float) -> float:
        """Wait until each thread has completed a round after *moment*; return how long after it that was."""

        def all_have() -> bool:
            threading.Event().wait(0.005)
            return all(rounds and rounds[-1] > moment for rounds in self._rounds)

        eventually(all_have)
        return max(next(at for at in rounds if at > moment) - moment for rounds in self._rounds)

    def told(self) -> dict[str, int]:
        """Return the number that was told last of each key."""
        return {counter.key: counter.told[-1].value for counter in self.counters}

    def lost(self) -> list[tuple[str, Answer]]:
        """Return the acknowledged increments that are gone, each with its key. For when the block has ended."""
        return [
            (counter.key, answer)
            for counter in self.counters
            for answer in counter.lost(int(self._cache.get(counter.key) or 0))
        ]

    def _work(self, number: int) -> None:
        mine = self.threads[number]
        while not self._stop.is_set():
            try:
                for counter in mine:
                    counter.count(self._cache)
                tag = f"{number} {len(mine[0].told)}"
                commands = [
                    command
                    for counter in mine
                    for command in (
                        ("SET", f"{counter.key} tag", tag),
                        ("GET", f"{counter.key} tag"),
                    )
                ]
                answers = self._cache.pipeline(commands)
                if answers != ["OK", tag] * len(mine):
                    self.problems.append((tag, answers))
            except OutcomeUnknown:
                continue
            except Exception as error:
                self.problems.append(error)
                self._stop.wait(0.01)
                continue
            self._rounds[number].append(monotonic())
