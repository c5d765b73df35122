"""Opened on first use, once, in whichever process; closed once, and for good."""

from __future__ import annotations

import textwrap
import threading

import pytest

from poolkit import Deadline, PoolClosed
from poolkit.core.deadline import NEVER
from poolkit.core.lifecycle import Lifecycle

from .support import LONG, Task, eventually, python, together


class Engine:
    """Stands for what a pool runs on."""

    def __init__(self):
        self.stopped = []
        self.held = []
        self.abandoned = 0
        self.stopping = threading.Event()
        self.may_stop = threading.Event()
        self.may_stop.set()

    def stop(self, deadline):
        self.stopping.set()
        assert self.may_stop.wait(LONG)
        self.stopped.append(deadline)
        return self.held

    def abandon(self):
        self.abandoned += 1


class Starter:
    """Starts engines, and keeps them."""

    def __init__(self):
        self.engines = []

    def __call__(self):
        self.engines.append(Engine())
        return self.engines[-1]


def test_nothing_runs_before_the_first_use():
    start = Starter()
    lifecycle = Lifecycle("db", start)

    assert lifecycle.state == "new"
    assert lifecycle.running is None
    assert start.engines == []


def test_open_starts_once_and_returns_the_same():
    start = Starter()
    lifecycle = Lifecycle("db", start)

    running = lifecycle.open()

    assert lifecycle.open() is running is lifecycle.running
    assert lifecycle.state == "open"
    assert len(start.engines) == 1
    lifecycle.close(NEVER)


def test_twenty_threads_that_open_at_once_open_once():
    for _ in range(20):
        start = Starter()
        arrived = []

        def slow_start(start=start, arrived=arrived):
            eventually(lambda: len(arrived) == 20)  # so that nobody comes late
            return start()

        lifecycle = Lifecycle("db", slow_start)

        def work(number, lifecycle=lifecycle, arrived=arrived):
            arrived.append(number)
            return lifecycle.open()

        opened = together(20, work)

        assert len(start.engines) == 1
        assert set(map(id, opened)) == {id(start.engines[0])}
        lifecycle.close(NEVER)


def test_a_start_that_fails_leaves_it_new_and_is_tried_again():
    results = [OSError("no"), Engine()]

    def start():
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    lifecycle = Lifecycle("db", start)
    with pytest.raises(OSError, match="no"):
        lifecycle.open()
    assert lifecycle.state == "new"
    assert isinstance(lifecycle.open(), Engine)
    lifecycle.close(NEVER)


def test_close_stops_once_with_the_deadline_it_was_given():
    start = Starter()
    lifecycle = Lifecycle("db", start)
    lifecycle.open()
    limit = Deadline.after(5)

    lifecycle.close(limit)
    lifecycle.close(Deadline.after(7))

    assert start.engines[0].stopped == [limit]
    assert lifecycle.state == "closed"
    assert lifecycle.running is None


def test_it_tells_once_what_has_opened_and_who_held_what_has_closed():
    start = Starter()
    told = []
    lifecycle = Lifecycle(
        "db",
        start,
        opened=lambda engine: told.append(("opened", engine)),
        closed=lambda engine, held: told.append(("closed", engine, held)),
    )
    engine = lifecycle.open()
    engine.held = ["somebody"]
    lifecycle.open()
    lifecycle.close(NEVER)
    lifecycle.close(NEVER)

    assert told == [("opened", engine), ("closed", engine, ["somebody"])]


def test_closed_stays_closed():
    start = Starter()
    lifecycle = Lifecycle("db", start)
    lifecycle.open()
    lifecycle.close(NEVER)

    for _ in range(2):
        with pytest.raises(PoolClosed, match="pool 'db' is closed; make a new one"):
            lifecycle.open()
    assert len(start.engines) == 1


def test_one_that_was_never_opened_can_be_closed():
    start = Starter()
    lifecycle = Lifecycle("db", start)
    lifecycle.close(NEVER)

    assert start.engines == []
    with pytest.raises(PoolClosed):
        lifecycle.open()


def test_many_threads_that_close_at_once_stop_once():
    start = Starter()
    lifecycle = Lifecycle("db", start)
    lifecycle.open()

    together(20, lambda _: lifecycle.close(NEVER))

    assert len(start.engines[0].stopped) == 1


def test_a_second_closer_waits_for_the_first():
    start = Starter()
    lifecycle = Lifecycle("db", start)
    engine = lifecycle.open()
    engine.may_stop.clear()
    first = Task(lifecycle.close, NEVER)
    assert engine.stopping.wait(LONG)
    stopped_when_second_returned = []

    def close_too():
        lifecycle.close(NEVER)
        stopped_when_second_returned.append(len(engine.stopped))

    second = Task(close_too)
    engine.may_stop.set()

    first.result()
    second.result()
    assert stopped_when_second_returned == [1]


def test_a_call_while_another_thread_closes_is_refused_at_once():
    start = Starter()
    lifecycle = Lifecycle("db", start)
    engine = lifecycle.open()
    engine.may_stop.clear()
    closer = Task(lifecycle.close, NEVER)
    assert engine.stopping.wait(LONG)

    assert isinstance(Task(lifecycle.open).end(LONG / 3), PoolClosed)
    assert lifecycle.state == "closed"

    engine.may_stop.set()
    closer.result()


def test_opening_and_closing_at_once_never_leaves_anything_running():
    for _ in range(30):
        start = Starter()
        lifecycle = Lifecycle("db", start)

        def work(number, lifecycle=lifecycle):
            try:
                return lifecycle.close(NEVER) if number % 4 == 0 else lifecycle.open()
            except PoolClosed:
                return None

        together(8, work)

        assert lifecycle.running is None
        assert len(start.engines) <= 1
        assert all(len(engine.stopped) == 1 for engine in start.engines)


FORKING = """
import os, sys, threading
from poolkit import PoolClosed
from poolkit.core.deadline import NEVER
from poolkit.core.lifecycle import Lifecycle

class Engine:
    def __init__(self):
        self.pid, self.stopped, self.abandoned = os.getpid(), 0, 0
        engines.append(self)
    def stop(self, deadline): self.stopped += 1
    def abandon(self): self.abandoned += 1

engines = []

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print("child:", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
"""


def forking(script):
    return python(FORKING + textwrap.dedent(script))


def test_a_forked_child_opens_its_own_and_leaves_the_parents_alone():
    forking(
        """
        lifecycle = Lifecycle("db", Engine)
        parents = lifecycle.open()

        def child():
            assert lifecycle.state == "new"
            assert (parents.abandoned, parents.stopped) == (1, 0)
            mine = lifecycle.open()
            assert mine is not parents and mine.pid == os.getpid() != parents.pid
            lifecycle.close(NEVER)
            assert (mine.stopped, mine.abandoned) == (1, 0)
            assert (parents.stopped, parents.abandoned) == (0, 1)

        in_child(child)
        assert lifecycle.running is parents
        assert (parents.stopped, parents.abandoned, len(engines)) == (0, 0, 1)
        in_child(child)
        """
    )


def test_a_pool_closed_before_the_fork_is_closed_in_the_child():
    forking(
        """
        lifecycle = Lifecycle("db", Engine)
        lifecycle.open()
        lifecycle.close(NEVER)

        def child():
            assert lifecycle.state == "closed"
            assert engines[0].abandoned == 0
            try:
                lifecycle.open()
            except PoolClosed:
                return
            raise AssertionError("it opened")

        in_child(child)
        """
    )


def test_a_pool_not_opened_before_the_fork_opens_in_both():
    forking(
        """
        lifecycle = Lifecycle("db", Engine)

        def child():
            assert lifecycle.open().pid == os.getpid()

        in_child(child)
        assert engines == []
        assert lifecycle.open().pid == os.getpid()
        """
    )


def test_a_fork_while_another_thread_is_opening_leaves_the_child_free_to_open():
    forking(
        """
        opening, go_on = threading.Event(), threading.Event()

        def start():
            if not opening.is_set():
                opening.set()
                assert go_on.wait(30)
            return Engine()

        lifecycle = Lifecycle("db", start)
        thread = threading.Thread(target=lifecycle.open)
        thread.start()
        assert opening.wait(30)

        def child():
            assert lifecycle.open().pid == os.getpid()

        in_child(child)
        go_on.set()
        thread.join(30)
        assert lifecycle.running.pid == os.getpid()
        """
    )


def test_a_grandchild_opens_its_own_too():
    forking(
        """
        lifecycle = Lifecycle("db", Engine)
        lifecycle.open()

        def grandchild():
            assert lifecycle.open().pid == os.getpid()

        def child():
            lifecycle.open()
            in_child(grandchild)

        in_child(child)
        """
    )


def test_what_nobody_closed_is_stopped_when_the_interpreter_exits():
    printed = python(
        textwrap.dedent(
            """
            from poolkit.core.lifecycle import Lifecycle

            class Engine:
                def stop(self, deadline):
                    print("stopped within", 0 < deadline.remaining() <= 0.5)
                def abandon(self): ...

            lifecycle = Lifecycle("db", Engine)
            lifecycle.open()
            """
        )
    )
    assert printed == "stopped within True\n"


def test_one_that_was_dropped_is_not_kept():
    import gc
    import weakref

    lifecycle = Lifecycle("db", Starter())
    lifecycle.open()
    gone = weakref.ref(lifecycle)
    del lifecycle
    gc.collect()
    eventually(lambda: gone() is None)
