"""The one background thread: it calls things later, and is there only while something is planned."""

from __future__ import annotations

import gc
import logging
import textwrap
import threading
import weakref
from time import monotonic

import pytest

from poolkit.core import housekeeper as housekeeper_module
from poolkit.core.housekeeper import Housekeeper, housekeeper

from .support import LONG, eventually, python, together


@pytest.fixture
def keeper():
    """Give a housekeeper of one's own."""
    return Housekeeper()


class Bell:
    """Notes when and in which thread it was rung."""

    def __init__(self, fail=None):
        self.rings = []
        self.threads = set()
        self.rung = threading.Event()
        self.fail = fail

    def ring(self):
        self.rings.append(monotonic())
        self.threads.add(threading.current_thread())
        self.rung.set()
        if self.fail is not None:
            raise self.fail

    def wait(self, times=1):
        eventually(lambda: len(self.rings) >= times)


def assert_ends(thread):
    thread.join(LONG)
    assert not thread.is_alive()


def test_what_is_planned_is_called_once_and_not_too_early(keeper):
    bell, other = Bell(), Bell()
    before = monotonic()
    keeper.after(0.05, bell.ring)
    keeper.after(0.10, other.ring)

    other.wait()

    assert len(bell.rings) == 1
    assert bell.rings[0] - before >= 0.05


def test_calls_come_in_the_order_in_which_they_are_due(keeper, monkeypatch):
    order = []
    done = Bell()
    with monkeypatch.context() as patch:
        now = monotonic()
        patch.setattr(housekeeper_module, "monotonic", lambda: now)  # no time passes meanwhile
        keeper.after(0.03, lambda: order.append("third"))
        keeper.after(0.01, lambda: order.append("first"))
        keeper.after(0.02, lambda: order.append("second"))
        keeper.after(0.04, done.ring)

    done.wait()

    assert order == ["first", "second", "third"]


def test_an_earlier_timer_is_not_held_up_by_a_later_one(keeper):
    late, early = Bell(), Bell()
    timer = keeper.after(10 * LONG, late.ring)
    keeper.after(0.0, early.ring)

    early.wait()

    assert not late.rings
    timer.cancel()


def test_periodic_calls_go_on_until_they_are_cancelled(keeper):
    bell = Bell()
    timer = keeper.every(0.01, bell.ring)
    bell.wait(times=4)
    (thread,) = bell.threads

    timer.cancel()
    timer.cancel()

    assert_ends(thread)
    rings = len(bell.rings)
    after = Bell()
    keeper.after(0.05, after.ring)
    after.wait()
    assert len(bell.rings) == rings


def test_a_timer_may_cancel_itself(keeper):
    bell = Bell()
    timers = []
    ready = threading.Event()

    def once():
        assert ready.wait(LONG)
        bell.ring()
        timers[0].cancel()

    timers.append(keeper.every(0.001, once))
    ready.set()
    bell.wait()
    assert_ends(next(iter(bell.threads)))
    assert len(bell.rings) == 1


def test_periods_are_jittered_by_a_tenth(keeper):
    # Not timed, since a busy machine is late: only what it plans counts.
    bell = Bell()
    before = monotonic()
    timer = keeper.every(0.1, bell.ring)
    bell.wait()
    timer.cancel()
    assert bell.rings[0] - before >= 0.09


def test_the_thread_ends_with_the_last_timer(keeper):
    bell, last = Bell(), Bell()
    keeper.after(0.05, last.ring)
    keeper.after(0.0, bell.ring)

    bell.wait()
    last.wait()

    assert bell.threads == last.threads
    assert_ends(next(iter(bell.threads)))


def test_cancelling_the_last_timer_ends_the_thread(keeper):
    bell = Bell()
    timer = keeper.after(10 * LONG, bell.ring)
    keeper.after(0.0, bell.ring)
    bell.wait()
    (thread,) = bell.threads
    assert thread.is_alive()

    timer.cancel()
    keeper.join(LONG)

    assert_ends(thread)
    assert len(bell.rings) == 1


def test_a_new_thread_comes_after_the_last_one_ended(keeper):
    for _ in range(20):
        bell = Bell()
        keeper.after(0.0, bell.ring)
        bell.wait()  # the thread may be about to end when the next timer is planned
    (thread,) = bell.threads
    assert_ends(thread)
    bell = Bell()
    keeper.after(0.0, bell.ring)
    bell.wait()
    assert bell.threads != {thread}


def test_join_does_not_wait_for_what_is_planned(keeper):
    bell = Bell()
    timer = keeper.after(10 * LONG, bell.ring)

    before = monotonic()
    keeper.join(LONG)

    assert monotonic() - before < LONG / 2
    timer.cancel()


def test_join_from_its_own_thread_does_not_hang(keeper):
    bell = Bell()

    def join():
        keeper.join(LONG)
        bell.ring()

    keeper.after(0.0, join)
    bell.wait()


def test_the_thread_never_keeps_the_interpreter_alive(keeper):
    bell = Bell()
    keeper.after(0.0, bell.ring)
    bell.wait()
    (thread,) = bell.threads
    assert thread.daemon
    assert thread.name == "poolkit-housekeeper"


@pytest.mark.parametrize("fault", [ValueError("my fault"), SystemExit(1), KeyboardInterrupt()])
def test_a_task_that_raises_is_logged_and_harms_no_other(keeper, caplog, fault):
    failing, healthy = Bell(fault), Bell()
    timers = [keeper.every(0.005, failing.ring), keeper.every(0.005, healthy.ring)]

    failing.wait(times=3)
    rings = len(healthy.rings)
    healthy.wait(times=rings + 2)

    for timer in timers:
        timer.cancel()
    keeper.join(LONG)
    assert caplog.records[0].name == "poolkit"
    assert caplog.records[0].exc_info[1] is fault


def test_a_thread_that_can_not_start_is_started_by_the_next_timer(keeper, monkeypatch):
    bell = Bell()

    def no_threads(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_threads)
        with pytest.raises(RuntimeError):
            keeper.after(0.0, lambda: None)
    keeper.after(0.0, bell.ring)

    bell.wait()


def test_the_owner_of_a_bound_method_is_not_kept_alive(keeper, caplog):
    caplog.set_level(logging.DEBUG, logger="poolkit")
    bell, other = Bell(), Bell()
    timer = keeper.every(0.01, bell.ring)
    bell.wait()
    (thread,) = bell.threads
    gone = weakref.ref(bell)

    del bell
    gc.collect()

    eventually(lambda: gone() is None)
    keeper.after(0.05, other.ring)
    other.wait()
    assert timer.cancelled
    assert_ends(thread)
    assert not caplog.records


def test_timers_planned_by_many_threads_are_all_called(keeper):
    bells = [Bell() for _ in range(200)]

    def plan(number):
        for bell in bells[number::20]:
            keeper.after(0.0, bell.ring)

    together(20, plan)

    for bell in bells:
        bell.wait()
    assert all(len(bell.rings) == 1 for bell in bells)


def test_a_process_has_one():
    assert housekeeper() is housekeeper()


def test_a_forked_child_has_an_empty_one_of_its_own():
    python(
        textwrap.dedent(
            """
            import os, threading
            from poolkit.core.housekeeper import housekeeper

            parents, rung = [], threading.Event()

            def parent_task():
                parents.append(os.getpid())
                rung.set()

            before = housekeeper()
            timer = before.every(0.01, parent_task)
            assert rung.wait(30)
            pid = os.fork()
            if pid == 0:
                parents.clear()
                done = threading.Event()
                ok = housekeeper() is not before
                housekeeper().after(0.1, lambda: done.set())
                ok = done.wait(30) and ok and parents == []
                os._exit(0 if ok else 1)
            assert os.waitpid(pid, 0)[1] == 0
            rung.clear()
            assert rung.wait(30)
            assert housekeeper() is before
            timer.cancel()
            """
        )
    )
