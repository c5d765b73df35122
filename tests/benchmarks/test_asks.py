"""What contenders are asked is checked, shared out among threads, and never asked twice at once of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from benchmarks.asks import Ask, WrongAnswer, asking, checked, spread


def test_a_turn_asks_for_its_keys_in_order_again_and_again() -> None:
    asked: list[str] = []

    def ask(key: str) -> str:
        asked.append(key)
        return key.upper()

    turn = checked(ask, [("a", "A"), ("b", "B")])
    for _ in range(3):
        turn()
    assert asked == ["a", "b", "a"]


def test_a_wrong_answer_is_an_error() -> None:
    turn = checked(lambda key: key, [("a", "A")])
    with pytest.raises(WrongAnswer, match="asked for 'A', got 'a'"):
        turn()


def test_threads_have_keys_of_their_own() -> None:
    asked: list[tuple[int, int]] = []

    @contextmanager
    def asks(threads: int) -> Iterator[Sequence[Ask]]:
        yield [lambda key, index=index: asked.append((index, key)) for index in range(threads)]

    with asking(asks, [(key, None) for key in range(4)], 2) as turns:
        for turn in [*turns, *turns]:
            turn()
    assert asked == [(0, 0), (1, 1), (0, 2), (1, 3)]


def test_more_threads_than_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer keys than threads"):
        checked(str, [])


def test_as_many_calls_as_threads_are_given_as_they_are() -> None:
    calls = [str, int]
    assert spread(calls, 2) == calls
    assert spread(calls, 1) == [str]


def test_threads_that_share_a_call_take_turns_on_it() -> None:
    busy = threading.Lock()
    overlaps: list[int] = []

    def call(number: int) -> int:
        if not busy.acquire(blocking=False):
            overlaps.append(number)
            return number
        threading.Event().wait(0.001)
        busy.release()
        return number

    calls = spread([call], 8)
    threads = [threading.Thread(target=one, args=(n,)) for n, one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    assert calls[0](7) == 7
