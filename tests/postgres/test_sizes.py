"""How many connections there are, and that those there are work: resize, check, drain, lifetimes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from poolkit import PoolTimeout, PostgresPool
from poolkit.embedded import PostgresServer
from tests.core.support import Task

from .observing import Watch, assert_whole, at, unique, until, warm_up

MakePool = Callable[..., PostgresPool]


@pytest.fixture
def name() -> str:
    return unique("pool")


@pytest.fixture
def named(conninfo: str, name: str) -> str:
    """Give a conninfo whose connections can be found on the server."""
    return at(conninfo, application_name=name)


def test_opens_min_size_connections_and_never_more_than_max_size(
    named: str, name: str, make_pool: MakePool, watch: Watch
) -> None:
    db = make_pool(named, min_size=2, max_size=4)
    assert watch.backends(name) == set()
    db.open()
    until(lambda: len(watch.backends(name)) == 2)
    warm_up(db, 4)
    assert len(watch.backends(name)) == 4
    assert db.stats().size == 4
    with pytest.raises(threading.BrokenBarrierError):
        overfill(db, 5)
    assert len(watch.backends(name)) == 4


def overfill(db: PostgresPool, count: int) -> None:
    """Try to hold *count* connections at once; raise BrokenBarrierError as that can't be."""
    all_there = threading.Barrier(count)

    def hold() -> None:
        with db.connection():
            all_there.wait(0.3)

    threads = [Task(hold) for _ in range(count)]
    for thread in threads:
        if isinstance(error := thread.outcome(), threading.BrokenBarrierError):
            raise error


def test_resize_up_lets_those_who_wait_go_on(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=20)
    with db.connection():
        waiter = Task(lambda: db.query("select 1"))
        until(lambda: db.stats().waiting == 1)
        db.resize(min_size=1, max_size=2)
        assert waiter.outcome() == [(1,)]
    assert db.stats().max_size == 2
    assert_whole(db, 2)


def test_resize_down_holds_for_new_borrowers_at_once(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=2, max_size=2, acquire_timeout=1.0)
    warm_up(db, 2)
    with db.connection():
        db.resize(min_size=1, max_size=1)
        with pytest.raises(PoolTimeout):
            db.query("select 1")
    assert db.query("select 1") == [(1,)]
    assert db.stats().max_size == 1
    db.resize(min_size=1, max_size=3)
    assert_whole(db, 3)


def test_resize_opens_what_the_new_minimum_wants(
    named: str, name: str, make_pool: MakePool, watch: Watch
) -> None:
    db = make_pool(named, min_size=1, max_size=5)
    db.resize(min_size=4, max_size=5)
    until(lambda: len(watch.backends(name)) == 4)


def test_drain_replaces_idle_connections_now_and_lent_ones_when_they_come_back(
    named: str, name: str, make_pool: MakePool, watch: Watch
) -> None:
    db = make_pool(named, min_size=3, max_size=3)
    before = warm_up(db, 3)
    with db.connection() as conn:
        lent = conn.info.backend_pid
        db.drain()
        until(lambda: watch.backends(name) & before == {lent})
        assert conn.execute("select 1").fetchall() == [(1,)]
    until(lambda: not watch.backends(name) & before)
    assert_whole(db, 3)


def test_check_replaces_what_is_dead_before_anyone_borrows_it(
    named: str, name: str, make_pool: MakePool, watch: Watch
) -> None:
    db = make_pool(named, min_size=3, max_size=3)
    before = warm_up(db, 3)
    until(lambda: db.stats().in_use == 0)
    watch.terminate(set(list(before)[:2]))
    db.check()
    until(lambda: len(watch.backends(name)) == 3)
    assert db.stats().closed >= 2
    assert len(watch.backends(name) & before) <= 1
    errors = [error for error in (try_query(db) for _ in range(6)) if error is not None]
    assert errors == []


def try_query(db: PostgresPool) -> Exception | None:
    try:
        db.query("select 1")
    except Exception as error:
        return error
    return None


def test_check_leaves_healthy_connections_alone(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=3, max_size=3)
    before = warm_up(db, 3)
    until(lambda: db.stats().in_use == 0)
    db.check()
    assert warm_up(db, 3) == before


def test_idle_connection_is_replaced_after_its_lifetime(
    named: str, name: str, make_pool: MakePool, watch: Watch
) -> None:
    db = make_pool(named, min_size=1, max_size=1, max_lifetime=0.3)
    (before,) = warm_up(db, 1)
    until(lambda: watch.backends(name) - {before})
    until(lambda: before not in watch.backends(name))
    assert db.query("select 1") == [(1,)]


def test_health_check_is_true_when_the_server_answers(db: PostgresPool) -> None:
    assert db.health_check() is True


def test_health_check_is_false_and_does_not_raise_when_it_does_not(
    own_postgres: Callable[..., PostgresServer], make_pool: MakePool
) -> None:
    server = own_postgres()
    db = make_pool(server.conninfo, min_size=1, max_size=1)
    assert db.health_check() is True
    server.stop("immediate")
    assert db.health_check() is False
    server.start()
    until(db.health_check)


def test_health_check_is_false_when_the_pool_is_exhausted_or_closed(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.1)
    with db.connection():
        assert db.health_check() is False
    assert db.health_check() is True
    db.close()
    assert db.health_check() is False
