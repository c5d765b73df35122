"""Worker threads: in order, only so many, none is lost by who gives up, and tools find in them what is usual."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import threading
import time
import weakref

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread, to_thread

from poolkit import Cancellation, DeadlineExceeded, PoolKit
from poolkit.core.deadline import NEVER, Deadline
from poolkit.hosts.mcp import Pools
from poolkit.hosts.mcp.pools import threads_for
from poolkit.hosts.mcp.threads import IDLE, Threads

from ..core.support import eventually
from .mcp_support import happens, run


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
        begun = [anyio.Event() for _ in range(self._count)]
        for each in begun:
            self._group.start_soon(call, self._threads, functools.partial(self._hold, each))
        for each in begun:
            await each.wait()
        return self._over

    def _hold(self, begun):
        from_thread.run_sync(begun.set)
        self._over.wait(20)

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
            assert threads.waiting == 5
            over.set()
        assert threads.busy == 0

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
        assert threads.busy == 0

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
            assert threads.waiting == 0
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
        assert threads.busy == 0
        assert await call(threads, lambda: "served") == "served"

    run(main)


def test_one_that_is_cancelled_as_it_waits_goes_at_once(caplog):
    async def main():
        threads = Threads(1)
        async with Occupied(threads, 1):
            with anyio.move_on_after(0.01):
                await call(threads, lambda: None)
            assert threads.waiting == 0

    run(main)
    assert "runs on" not in caplog.text


def test_one_in_a_hurry_is_told_before_those_that_came_before_it():
    async def main():
        threads = Threads(1)
        async with Occupied(threads, 1) as over, anyio.create_task_group() as group:
            group.start_soon(lambda: call(threads, lambda: None, until=Deadline.after(40)))
            await settle()
            with anyio.fail_after(10), pytest.raises(DeadlineExceeded):
                await call(threads, lambda: None, until=Deadline.after(0.05))
            over.set()

    run(main)


def test_of_many_that_wait_each_is_told_at_its_own_deadline():
    async def main():
        threads = Threads(1)
        told = {}

        async def wait(seconds):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await call(threads, lambda: None, until=Deadline.after(seconds))
            told[seconds] = time.monotonic() - began

        async with Occupied(threads, 1), anyio.create_task_group() as group:
            for seconds in (0.3, 0.1, 0.2):
                group.start_soon(wait, seconds)
        for seconds, took in told.items():
            assert seconds <= took < seconds + 5
        assert list(told) == [0.1, 0.2, 0.3]

    run(main)


def test_one_that_runs_is_not_told_that_there_was_no_thread():
    async def main():
        threads = Threads(1)
        began, go_on = threading.Event(), threading.Event()

        def slow():
            began.set()
            assert go_on.wait(20)
            return "done"

        result = []
        async with anyio.create_task_group() as group:

            async def take():
                result.append(await call(threads, slow, until=Deadline.after(0.1)))

            group.start_soon(take)
            await to_thread.run_sync(began.wait, 20)
            with pytest.raises(DeadlineExceeded):  # the timer did ring meanwhile
                await call(threads, lambda: None, until=Deadline.after(0.1))
            go_on.set()
        assert result == ["done"]

    run(main)


# -- what a tool finds in its thread -----------------------------------------------------------------------


def test_a_call_has_the_context_variables_of_its_task_and_no_others():
    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        threads = Threads(1)

        async def ask(value):
            variable.set(value)
            assert await call(threads, variable.get) == value
            await call(threads, lambda: variable.set("changed"))
            assert variable.get() == value

        async with anyio.create_task_group() as group:
            for value in ("one", "two"):
                group.start_soon(ask, value)
        assert await call(threads, variable.get) == "none"

    run(main)


def test_what_a_call_raises_is_raised_and_not_kept():
    class Mine(Exception):
        pass

    async def main():
        threads = Threads(1)

        def fail():
            raise Mine

        with pytest.raises(Mine) as told:
            await call(threads, fail)
        gone = weakref.ref(told.value)
        del told
        await call(threads, lambda: None)
        assert gone() is None  # without a collection: there was no cycle

    run(main)


def test_nothing_is_kept_of_a_call_that_is_over():
    class Thing:
        pass

    variable = contextvars.ContextVar("variable")
    kept = []

    def work():
        result = Thing()
        kept.extend(map(weakref.ref, (variable.get(), result)))
        return result

    async def main():
        threads = Threads(1)

        async def ask():
            variable.set(Thing())
            await call(threads, work)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
        await happens(lambda: not any(each() for each in kept))
        assert threads._alive == 1

    run(main)
    assert len(kept) == 2


def test_a_call_reaches_the_event_loop_as_from_any_thread_of_anyio():
    async def double(number):
        await anyio.lowlevel.checkpoint()
        return 2 * number

    def work():
        from_thread.check_cancelled()
        return from_thread.run(double, 21), from_thread.run_sync(threading.get_ident)

    async def main():
        threads = Threads(1)
        for _ in range(3):
            assert await call(threads, work) == (42, threading.get_ident())

    run(main)


def test_a_call_may_run_an_event_loop_of_its_own():
    async def inner():
        await anyio.lowlevel.checkpoint()
        return "inner"

    async def main():
        return await call(Threads(1), lambda: anyio.run(inner))

    assert run(main) == "inner"


@pytest.mark.parametrize("how", ["waits in the loop", "looks"])
def test_a_call_in_a_thread_hears_of_its_cancellation_and_the_next_does_not(how):
    ended = []

    async def sleep(begun):
        begun.set()
        await anyio.sleep(30)

    def work(begun):
        try:
            if how == "waits in the loop":
                from_thread.run(sleep, begun)
            else:
                from_thread.run_sync(begun.set)
                while True:
                    from_thread.check_cancelled()
                    time.sleep(0.001)
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            ended.append(threading.get_ident())
            raise

    async def main():
        threads = Threads(1)
        for number in range(1, 4):
            begun = anyio.Event()
            began = time.monotonic()
            async with anyio.create_task_group() as group:
                group.start_soon(call, threads, lambda begun=begun: work(begun))
                await begun.wait()
                group.cancel_scope.cancel()
            assert time.monotonic() - began < 4  # its grace would have been 5 seconds
            assert len(ended) == number
            assert threads.busy == 0
            assert await call(threads, lambda: from_thread.run(anyio.sleep, 0) or "served") == (
                "served"
            )

    run(main)


# -- threads come and go -----------------------------------------------------------------------------------


def workers():
    """Return the threads of anyio that run poolkit's calls, or did."""
    return {each for each in threading.enumerate() if "AnyIO" in each.name}


def test_there_are_no_more_threads_than_calls():
    before = workers()

    async def main():
        threads = Threads(10)
        for _ in range(30):
            await call(threads, lambda: None)
        assert len(workers() - before) == 1
        async with Occupied(threads, 4):
            assert len(workers() - before) == 4

    run(main)
    ended = time.monotonic()
    eventually(lambda: not workers() - before)
    assert time.monotonic() - ended < IDLE / 2  # the loop's end was theirs


def test_nothing_is_kept_of_an_event_loop_that_is_over():
    loops = []
    pools = Pools(PoolKit(http={}, watch=None), threads=3, deadline=20)

    async def main():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await pools.bounded(lambda: None)()

    for _ in range(2):
        run(main)
    gc.collect()
    eventually(lambda: not any(loop() for loop in loops))


def test_threads_that_are_dismissed_end_and_others_come():
    async def main():
        threads = Threads(3)
        async with Occupied(threads, 3) as over:
            waiting = []
            async with anyio.create_task_group() as group:

                async def wait():
                    waiting.append(await call(threads, lambda: "served"))

                for _ in range(5):
                    group.start_soon(wait)
                await settle()
                threads.dismiss()
                over.set()
            assert waiting == ["served"] * 5
        await happens(lambda: threads._alive == 0)
        assert await call(threads, lambda: "served") == "served"
        assert threads._alive == 1

    run(main)


def test_as_many_come_as_have_left_at_once():
    met = threading.Barrier(2)

    async def main():
        threads = Threads(2)
        async with Occupied(threads, 2):
            pass
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(call, threads, lambda: met.wait(20))
            threads.dismiss()  # both leave, and the event loop hears of both when the calls are there

            async def hold_up():
                eventually(lambda: len(threads._reports) == 2)

            group.start_soon(hold_up)

    run(main)


def test_a_thread_without_calls_ends_by_itself(monkeypatch):
    monkeypatch.setattr("poolkit.hosts.mcp.threads.IDLE", 0.0001)

    async def main():
        threads = Threads(2)
        for _ in range(200):  # some of them as the thread leaves
            assert await call(threads, lambda: "served") == "served"
        await happens(lambda: threads._alive == 0)

    run(main)


def test_the_end_of_a_lifespan_is_that_of_its_threads_and_settles_not_how_many():
    pools = Pools(PoolKit(http={"max_size": 60}, watch=None), deadline=20)

    async def main():
        async with pools.lifespan():
            pass  # without a call
        async with pools.lifespan():
            await pools.bounded(lambda: None)()
            threads = pools.threads
            assert threads.most == 70
        ended = time.monotonic()
        await happens(lambda: threads._alive == 0)
        assert time.monotonic() - ended < IDLE / 2

    run(main)


def test_where_no_thread_can_be_started_calls_are_told_at_once(monkeypatch, caplog):
    def start(self):
        raise RuntimeError("can't start new thread")

    async def main():
        threads = Threads(2)
        with monkeypatch.context() as patched:
            patched.setattr("anyio._backends._asyncio.WorkerThread.start", start)
            with pytest.raises(DeadlineExceeded, match="can't start new thread"):
                await call(threads, lambda: None)
        assert await call(threads, lambda: "served") == "served"

    run(main)
    assert "no worker thread could be started" in caplog.text


def test_calls_are_served_and_cancelled_on_trio_too():
    ended = threading.Event()

    def wait(begun):
        from_thread.run_sync(begun.set)
        try:
            while True:
                from_thread.check_cancelled()
                time.sleep(0.001)
        finally:
            ended.set()

    async def main():
        threads = Threads(2)
        with anyio.fail_after(20):
            begun = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(call, threads, lambda: wait(begun))
                await begun.wait()
                group.cancel_scope.cancel()
            assert ended.is_set()
            async with Occupied(threads, 2):
                with pytest.raises(DeadlineExceeded):
                    await call(threads, lambda: None, until=Deadline.after(0.05))
            return await call(threads, lambda: "served", until=Deadline.after(20))

    assert anyio.run(main, backend="trio") == "served"


# -- how many ----------------------------------------------------------------------------------------------


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
