"""os.fork() with an open pool: parent and child both work, and neither touches the other's sockets."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from poolkit import PoolClosed, PostgresPool, deadline
from tests.core.support import Task
from tests.forks import LIMIT_OF_A_CHILD, Child

from .observing import (
    Watch,
    assert_whole,
    at,
    our_threads,
    together,
    unique,
    until,
    warm_up,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

MakePool = Callable[..., PostgresPool]


def tagged(pool: PostgresPool, who: str, turns: int = 100) -> int:
    """Ask for tagged answers from eight threads, and make sure that each gets its own."""

    def work(number: int) -> None:
        for turn in range(turns):
            tag = f"{who}-{number}-{turn}"
            assert pool.query("select %s", [tag]) == [(tag,)]

    outcomes = together(8, work)
    assert outcomes == [None] * 8, outcomes
    return turns * 8


@pytest.fixture
def name() -> str:
    return unique()


@pytest.fixture
def pool(conninfo: str, name: str, make_pool: MakePool) -> PostgresPool:
    pool = make_pool(
        at(conninfo, application_name=name), min_size=3, max_size=4, acquire_timeout=15
    )
    warm_up(pool, 4)
    return pool


def test_parent_and_child_use_it_at_once(pool: PostgresPool, name: str, watch: Watch) -> None:
    parents = watch.backends(name)

    children = [Child(lambda n=n: tagged(pool, f"child-{n}")) for n in range(2)]  # type: ignore[misc]
    assert tagged(pool, "parent") == 800

    assert [child.outcome() for child in children] == [800, 800]
    until(lambda: watch.backends(name) == parents)
    assert_whole(pool, 4)


def test_the_childs_end_leaves_the_parents_backends_alone(
    pool: PostgresPool, name: str, watch: Watch
) -> None:
    parents = watch.backends(name)

    def use_and_close() -> Any:
        before = pool.query("select pg_backend_pid()")[0][0]
        pool.close()
        with pytest.raises(PoolClosed):
            pool.query("select 1")
        return before

    assert Child(use_and_close).outcome() not in parents
    assert Child(lambda: None).outcome() is None
    until(lambda: watch.backends(name) == parents)
    assert warm_up(pool, 4) == parents


def test_the_parents_end_leaves_the_childs_alone(
    conninfo: str, make_pool: MakePool, name: str, watch: Watch
) -> None:
    pool = make_pool(at(conninfo, application_name=name), min_size=2, max_size=2)
    warm_up(pool, 2)
    parents = watch.backends(name)
    told, tell = os.pipe()

    def outlive() -> Any:
        os.close(tell)
        first = pool.query("select pg_backend_pid()")
        os.read(told, 1)  # the parent's pool is closed now
        return first == pool.query("select pg_backend_pid()")

    child = Child(outlive)
    until(lambda: watch.backends(name) - parents)
    pool.close()
    until(lambda: not watch.backends(name) & parents)
    os.write(tell, b"x")
    os.close(tell)

    assert child.outcome() is True
    os.close(told)


def test_counters_and_leases_of_the_child_are_its_own(pool: PostgresPool) -> None:
    with pool.connection():

        def look() -> Any:
            fresh = (pool.stats().leases, pool.stats().in_use, len(pool.leases()))
            pool.query("select 1")
            return fresh, pool.stats().leases, pool.stats().in_use

        assert Child(look).outcome() == ((0, 0, 0), 1, 0)
        assert pool.stats().in_use == 1


def test_a_fork_inside_a_block_leaves_the_block_to_the_parent(
    pool: PostgresPool, name: str, watch: Watch
) -> None:
    table = unique("t")
    watch.ask(f"create table {table} (tag text)")
    insert: Any = f"insert into {table} values (%s)"
    parents = watch.backends(name)
    children = []

    for block in (pool.connection, pool.transaction):
        with block() as conn:
            conn.execute(insert, ["before"])

            def leave_the_block() -> Any:
                return pool.query("select 1")

            child = Child(leave_the_block)
            conn.execute(insert, ["after"])
        assert child.outcome() == [(1,)]

        # Here the child itself leaves the block, in the ways there are.
        for way in (None, RuntimeError, SystemExit):
            pid = os.fork()
            if pid == 0:
                end_child(lambda: leave(block(), way, pool))  # noqa: B023
            children.append(pid)

    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    until(lambda: watch.backends(name) == parents)
    assert watch.ask(f"select tag, count(*) from {table} group by tag order by tag") == [
        ("after", 2),
        ("before", 2),
    ]
    assert_whole(pool, 4)


def end_child(work: Callable[[], Any]) -> None:
    """Do *work* and end this process, which is a child, with a status that tells whether it went well."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT_OF_A_CHILD)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def leave(block: Any, way: type[BaseException] | None, pool: PostgresPool) -> None:
    """In a child: leave a block of its own by *way*, and go on working."""
    try:
        with block as conn:
            conn.execute("select 1")
            if way is not None:
                raise way
    except (RuntimeError, SystemExit):
        pass
    assert pool.query("select 2") == [(2,)]
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("kind", ["connection", "transaction", "stream"])
def test_a_child_that_leaves_the_parents_block_disturbs_nothing(
    pool: PostgresPool, name: str, watch: Watch, kind: str
) -> None:
    table = unique("t")
    watch.ask(f"create table {table} (tag text)")
    insert: Any = f"insert into {table} values ('x')"
    parents = watch.backends(name)

    def block() -> Any:
        if kind == "stream":
            yield from pool.stream("select generate_series(1, 100)", size=10)
        else:
            with getattr(pool, kind)() as conn:
                conn.execute(insert)
                yield conn
                conn.execute(insert)

    for way in ("end", "throw", "drop"):
        body = block()
        next(body)

        def leave_it(body: Any = body, way: str = way) -> Any:
            if way == "drop":
                body.close()
            elif way == "throw":
                with pytest.raises(ZeroDivisionError):
                    body.throw(ZeroDivisionError())
            return pool.query("select 1")

        assert Child(leave_it).outcome() == [(1,)]
        rest = list(body)  # the parent goes on as if nothing had been
        assert len(rest) == (99 if kind == "stream" else 0)

    if kind != "stream":
        assert watch.ask(f"select count(*) from {table}") == [(6,)]
    until(lambda: watch.backends(name) == parents)
    assert_whole(pool, 4)


def test_forks_while_threads_hold_and_wait_and_hammer(
    pool: PostgresPool, name: str, watch: Watch
) -> None:
    over = threading.Event()

    def hammer(number: int) -> int:
        turns = 0
        while not over.is_set():
            tag = f"{number}-{turns}"
            if turns % 5:
                assert pool.query("select %s", [tag]) == [(tag,)]
            else:
                with pool.transaction() as conn:
                    assert conn.execute("select %s", [tag]).fetchone() == (tag,)
            turns += 1
        return turns

    def hold() -> None:
        with pool.connection():
            over.wait(60)

    holder = Task(hold)
    threads = [Task(hammer, n) for n in range(12)]
    until(lambda: pool.stats().waiting >= 3)
    try:
        for number in range(12):
            child = Child(lambda n=number: (tagged(pool, f"child-{n}", 5), pool.close()))  # type: ignore[misc]
            assert child.outcome() == (40, None)
    finally:
        over.set()
    turns = [thread.outcome() for thread in threads]

    assert all(isinstance(number, int) and number for number in turns), turns
    assert holder.outcome() is None
    until(lambda: len(watch.backends(name)) <= 4)
    assert_whole(pool, 4)


def test_a_fork_while_the_pool_is_opening(conninfo: str, make_pool: MakePool) -> None:
    for _ in range(5):
        pool = make_pool(conninfo, min_size=4, max_size=4)
        pool.open()
        child = Child(lambda pool=pool: tagged(pool, "child", 3))  # type: ignore[misc]
        assert tagged(pool, "parent", 3) == 24
        assert child.outcome() == 24
        pool.close()


def test_a_pool_closed_before_the_fork_stays_closed(pool: PostgresPool) -> None:
    pool.close()

    def use() -> str:
        try:
            pool.query("select 1")
        except PoolClosed:
            return "closed"
        return "open"

    assert Child(use).outcome() == "closed"


def test_a_pool_that_was_not_open_yet_opens_in_each(
    conninfo: str, make_pool: MakePool, name: str, watch: Watch
) -> None:
    pool = make_pool(at(conninfo, application_name=name), min_size=1)
    child = Child(lambda: tagged(pool, "child", 5))
    assert tagged(pool, "parent", 5) == 40
    assert child.outcome() == 40


def test_a_grandchild_works_too(pool: PostgresPool, name: str, watch: Watch) -> None:
    parents = watch.backends(name)

    def beget() -> Any:
        pool.query("select 1")
        grandchild = Child(lambda: tagged(pool, "grandchild", 5))
        return tagged(pool, "child", 5), grandchild.outcome()

    assert Child(beget).outcome() == (40, 40)
    until(lambda: watch.backends(name) == parents)


def test_deadlines_and_the_housekeeper_work_in_the_child(pool: PostgresPool) -> None:
    def look() -> Any:
        from poolkit import DeadlineExceeded

        with pytest.raises(DeadlineExceeded), deadline(0.2):
            pool.query("select pg_sleep(10)")
        threads = our_threads()
        pool.close()
        until(lambda: not our_threads(), within=2)
        return any("housekeeper" in thread for thread in threads)

    assert Child(look).outcome() is True
