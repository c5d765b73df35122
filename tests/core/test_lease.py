"""Leases, and the book of who holds what."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from time import perf_counter

import pytest

from poolkit.core.lease import Lease, LeaseBook

from .support import LONG, Task, together


class Connection:
    pass


def here():
    """Return the line that this is called from."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def lease_here(connection, book=None):
    lease = Lease(connection, 0.0, sys._getframe(1))
    if book is not None:
        book.add(lease)
    return lease


def test_a_holder_is_named_by_thread_and_line():
    connection = Connection()
    lease, line = lease_here(connection), here()

    holder = lease.holder()

    assert holder.thread is threading.current_thread()
    assert holder.thread_name == threading.current_thread().name
    name = "test_a_holder_is_named_by_thread_and_line"
    assert holder.call_site == f"{__file__}:{line} in {name}"
    assert holder.describe().startswith(f"thread {holder.thread_name!r} for 0.")
    assert holder.call_site in holder.describe()


def test_the_line_is_the_one_of_the_call_and_not_where_the_thread_went_on():
    connection = Connection()
    leases = []
    lines = []
    for _ in range(2):
        leases.append(lease_here(connection))
        lines.append(here() - 1)
    leases.append(lease_here(connection))
    lines.append(here() - 1)

    sites = [lease.holder().call_site.split(" in ")[0] for lease in leases]

    assert sites == [f"{__file__}:{line}" for line in lines]


def test_held_for_is_the_time_since():
    connection = Connection()
    before = perf_counter()
    lease = lease_here(connection)
    after = perf_counter()

    held = lease.holder().held_for

    assert held <= perf_counter() - before
    assert perf_counter() - after >= 0
    assert lease.holder().held_for >= held


def test_a_lease_does_not_keep_its_connection():
    connection = Connection()
    lease = lease_here(connection)
    assert lease.resource is connection

    del connection
    gc.collect()

    assert lease.resource is None


def test_each_lease_is_struck_out_once():
    book = LeaseBook()
    connection = Connection()
    lease, other = lease_here(connection, book), lease_here(connection, book)

    assert len(book) == 2
    assert book.strike(lease)
    assert not book.strike(lease)
    assert len(book) == 1
    assert book.strike(other)
    assert book.holders() == []


def test_what_was_never_entered_is_not_struck_out():
    assert not LeaseBook().strike(lease_here(Connection()))


def test_of_many_threads_exactly_one_strikes_a_lease_out():
    book = LeaseBook()
    connection = Connection()
    leases = [lease_here(connection, book) for _ in range(500)]

    struck = together(8, lambda _: [book.strike(lease) for lease in leases])

    assert [sum(column) for column in zip(*struck, strict=True)] == [1] * 500
    assert len(book) == 0


def test_holders_are_listed_the_longest_first():
    book = LeaseBook()
    connection = Connection()
    lines = []
    lease_here(connection, book)
    lines.append(here() - 1)
    lease_here(connection, book)
    lines.append(here() - 1)

    holders = book.holders()

    assert holders[0].held_for >= holders[1].held_for
    assert [holder.call_site.split(":")[-1].split(" ")[0] for holder in holders] == [
        str(line) for line in lines
    ]


def test_the_book_is_read_while_others_write_in_it():
    book = LeaseBook()
    connection = Connection()
    stop = threading.Event()

    def write():
        while not stop.is_set():
            lease = lease_here(connection, book)
            assert book.strike(lease)

    writers = [Task(write) for _ in range(4)]
    try:
        for _ in range(200):
            assert len(book.holders()) <= 4
            assert book.orphans() == []
    finally:
        stop.set()
    for writer in writers:
        writer.result()
    assert len(book) == 0


def test_orphans_are_the_leases_whose_thread_has_ended():
    book = LeaseBook()
    connection = Connection()
    mine = lease_here(connection, book)
    task = Task(lease_here, connection, book)
    theirs = task.result()

    assert book.orphans() == [theirs]
    assert mine not in book.orphans()


@pytest.fixture
def busy_holder():
    """Give the book and a thread that holds a connection and waits, and what function it waits in."""
    book = LeaseBook()
    connection = Connection()
    holding = threading.Event()
    done = threading.Event()

    def slow_work():
        holding.set()
        done.wait(LONG)

    def hold():
        lease_here(connection, book)
        slow_work()

    task = Task(hold, name="the-culprit")
    assert holding.wait(LONG)
    yield book, task, done
    done.set()
    task.result()


def test_the_stack_of_a_holder_shows_where_its_thread_is_now(busy_holder):
    book, _, _ = busy_holder
    (holder,) = book.holders()

    stack = holder.stack()

    assert holder.thread_name == "the-culprit"
    assert "in slow_work" in stack
    assert "done.wait(LONG)" in stack
    assert stack.index("in hold") < stack.index("in slow_work")


def test_now_at_names_the_holders_own_code_and_not_a_library(busy_holder):
    book, _, _ = busy_holder
    (holder,) = book.holders()

    assert holder.now_at.startswith(f"{__file__}:")
    assert "slow_work" in holder.now_at
    assert holder.now_at in holder.describe()


def test_a_thread_that_has_ended_is_nowhere(busy_holder):
    book, task, done = busy_holder
    (before,) = book.holders()
    done.set()
    task.result()
    (after,) = book.holders()

    assert "ended" in after.now_at
    assert after.stack() == before.stack() == ""
    assert "ended" not in before.now_at  # it tells of the moment it was asked


def test_a_lease_on_its_way_to_another_thread_is_no_orphan_though_the_first_one_has_ended():
    book: LeaseBook[Connection] = LeaseBook()
    connection = Connection()
    lease = Task(lambda: Lease(connection, 0.0, sys._getframe())).result()
    book.add(lease)
    assert book.orphans() == [lease]

    lease.passing = True
    assert book.orphans() == []

    lease.pass_to(threading.current_thread(), sys._getframe())
    assert book.orphans() == []
    assert not lease.passing
    assert lease.holder().thread is threading.current_thread()
    assert f"in {sys._getframe().f_code.co_name}" in lease.holder().call_site


class Passer(threading.Thread):
    """A thread that passes its lease on and ends at the very moment at which somebody looks whether it has ended."""

    def __init__(self, looks, step):
        super().__init__()
        self._looks = looks
        self._step = step

    def is_alive(self):
        self._looks -= 1
        if self._looks == 0:
            self._step()
        return False


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize("arrives", [False, True], ids=["on its way", "arrived"])
def test_a_lease_that_is_passed_on_while_one_looks_is_no_orphan(looks, arrives):
    book: LeaseBook[Connection] = LeaseBook()
    connection = Connection()
    lease = lease_here(connection, book)

    def pass_on():
        lease.passing = True
        if arrives:
            lease.pass_to(threading.current_thread(), sys._getframe())

    lease.thread = lease.user = Passer(looks, pass_on)

    assert book.orphans() == []
