"""Worker threads: in order, only so many, and none is lost by one who gives up waiting for it."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from poolkit import Cancellation, DeadlineExceeded, PoolKit
from poolkit.core.deadline import NEVER, Deadline
from poolkit.hosts.mcp.pools import threads_for
from poolkit.hosts.mcp.threads import Threads

from .mcp_support import run


async def call(threads, work, until=NEVER):
    """Run *work* in a thread."""
    return await threads.run(work, name="call", until=until, cancellation=Cancellation())


async def settle():
    """Let the other tasks go on, as far as they can."""
    await anyio.wait_all_tasks_blocked()


class Occupied:
    """Holds all threads but those that are free, until it is left."""

    def __init__(self, threads, count):
        self._threads = threads
        self._count = count
        self._over = threading.Event()

    async def __aenter__(self):
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        for _ in range(self._count):
            self._group.start_soon(call, self._threads, lambda: self._over.wait(20))
        while self._threads.limiter.borrowed_tokens < self._count:  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.001)
        return self._over

    async def __aexit__(self, *error):
        self._over.set()
        await self._group.__aexit__(*error)


def test_calls_get_a_thread_in_the_order_in_which_they_came():
    order = []

    async def main():
        threads = Threads(1)
        async with Occupied(threads, 1) as over, anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(call, threads, lambda number=number: order.append(number))
                await settle()
            assert threads.limiter.statistics().tasks_waiting == 5
            over.set()
        assert threads.limiter.borrowed_tokens == 0

    run(main)
    assert order == [0, 1, 2, 3, 4]


def test_only_so_many_run_at_a_time():
    peak = []
    running = []

    def work():
        running.append(None)
        peak.append(len(running))
        running.pop()

    async def main():
        threads = Threads(3)
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(call, threads, work)
        assert threads.limiter.borrowed_tokens == 0

    run(main)
    assert len(peak) == 60
    assert max(peak) <= 3


def test_one_that_waits_in_vain_is_told_so_and_forgotten():
    async def main():
        threads = Threads(1)
        async with Occupied(threads, 1):
            with pytest.raises(DeadlineExceeded) as told:
                await call(threads, lambda: None, until=Deadline.after(0.02))
            assert told.value.stage == "waiting"
            assert threads.limiter.statistics().tasks_waiting == 0
        assert await call(threads, lambda: "served", until=Deadline.after(20)) == "served"

    run(main)


def test_one_that_is_cancelled_as_it_waits_takes_no_thread_with_it():
    async def main():
        threads = Threads(1)
        async with Occupied(threads, 1) as over:
            waiting = asyncio.create_task(call(threads, lambda: None))
            await settle()
            over.set()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert threads.limiter.borrowed_tokens == 0
        assert await call(threads, lambda: "served") == "served"

    run(main)


@pytest.mark.parametrize(("sizes", "threads"), [((20, 20), 40), ((20, 60), 70), ((80, 60), 90)])
def test_there_are_as_many_as_the_largest_pool_has_connections_and_ten_but_forty_at_least(
    sizes, threads
):
    postgres, http = sizes
    kit = PoolKit(
        postgres={"conninfo": "postgresql://app@127.0.0.1/app", "max_size": postgres},
        http={"max_size": http},
    )
    assert threads_for(kit.pools.values()) == threads
