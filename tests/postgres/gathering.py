"""Statements made to gather: they are sent together, in a known order, however quick the machine is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from poolkit import PostgresPool
from poolkit.core.combining import Combiner
from tests.core.support import Task

from .observing import until

Work = Callable[[], Any]


def combiner_of(pool: PostgresPool) -> Combiner[Any, Any, Any]:
    """Return what combines the statements of *pool*, which has to be open."""
    running = pool._lifecycle.running
    assert running is not None
    combiner = running._combiner
    assert combiner is not None
    return combiner


def ready(pool: PostgresPool) -> None:
    """Make sure that *pool* has a connection: until then it does not know whether it may combine."""
    pool.open()
    running = pool._lifecycle.running
    assert running is not None
    if not running.supply.speaks_utf8:
        pool.query("select 1")


@contextmanager
def nobody_leads(pool: PostgresPool) -> Iterator[Combiner[Any, Any, Any]]:
    """Take all turns to lead, so that what is asked in the block gathers; it is sent at the end."""
    ready(pool)
    combiner = combiner_of(pool)
    turns: list[Any] = []

    def all_taken() -> bool:
        with combiner._lock:
            while (turn := combiner._grant_locked()) is not None:
                turns.append(turn)
        return combiner._leading == len(turns)

    until(all_taken)
    try:
        yield combiner
    finally:
        turns.pop().pass_on(clean=False)
        until(lambda: not combiner._queue)
        while turns:
            turns.pop().pass_on(clean=False)


def begin(pool: PostgresPool, *works: Work) -> list[Task]:
    """Have the statements of *works* sent together, in that order; the last one leads.

    Returns their threads, as soon as all have left the queue.
    """
    threads: list[Task] = []

    def gathered() -> bool:
        # A deadline may pass here: then its thread has left the queue, and ends.
        return len(combiner._queue) == sum(each.is_alive() for each in threads)

    with nobody_leads(pool) as combiner:
        # The first in the queue will lead, and sends its own last.
        for number, work in enumerate((works[-1], *works[:-1]), 1):
            threads.append(Task(work, name=f"gathered-{number}"))
            until(gathered, every=0.000_2)
    return [*threads[1:], threads[0]]


def combined(pool: PostgresPool, *works: Work) -> list[Any]:
    """Send *works* like :func:`begin`; return results and errors, in order.

    Makes sure that they were one batch; some may have been asked again in another one.
    """
    ready(pool)
    before = pool.stats()
    outcomes = [thread.outcome() for thread in begin(pool, *works)]
    after = pool.stats()
    assert after.batches > before.batches
    assert after.largest_batch >= len(works)
    assert after.in_use == after.waiting == 0
    return outcomes


def asking(pool: PostgresPool, text: Any, params: Any = None, **options: Any) -> Work:
    """Return the work of asking one query."""
    return lambda: pool.query(text, params, **options)
