"""Turns that ask something and check the answer: what every bench of a server needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Any

from benchmarks.crew import Turn

Ask = Callable[[Any], Any]  # a key's value
Asks = Callable[[int], AbstractContextManager[Sequence[Ask]]]  # one for each of so many threads
Expected = Sequence[tuple[Any, Any]]  # keys, and what to answer


class WrongAnswer(Exception):
    """A contender gave something else than what was asked for."""


@contextmanager
def asking(asks: Asks, expected: Expected, threads: int) -> Iterator[Sequence[Turn]]:
    """Yield turns that each ask for a thread's next key, and check what comes back."""
    with asks(threads) as opened:
        yield [checked(ask, expected[index::threads]) for index, ask in enumerate(opened)]


def checked(ask: Ask, expected: Expected) -> Turn:
    """Return a turn that asks for the keys in order, again and again."""
    if not expected:
        raise ValueError("there are fewer keys than threads")
    upcoming = cycle(expected)

    def turn() -> None:
        key, answer = next(upcoming)
        if (found := ask(key)) != answer:
            raise WrongAnswer(f"asked for {answer!r}, got {found!r}")

    return turn


def spread(calls: Sequence[Callable[..., Any]], threads: int) -> list[Callable[..., Any]]:
    """Return a call for each thread; more threads than calls share them, by index and under a lock."""
    if threads <= len(calls):
        return list(calls[:threads])
    guarded = [_guarded(call) for call in calls]
    return [guarded[index % len(guarded)] for index in range(threads)]


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def guarded(*words: Any) -> Any:
        with lock:
            return call(*words)

    return guarded
