"""What pools tell of their servers and of what may still be spent on retries, for those who watch."""

from __future__ import annotations

import pytest

from poolkit import BackendUnavailable, HttpPool, PostgresPool, RedisPool, RetryPolicy
from poolkit.core.budget import RetryBudget
from poolkit.embedded import HttpServer

from ..core.support import Task, eventually


def test_a_pool_that_was_not_used_has_no_servers_and_no_budgets():
    pool = HttpPool()
    assert pool.servers() == []
    assert pool.retry_budgets() == {}


def test_a_server_is_exhausted_while_threads_wait_and_all_is_lent(conninfo):
    with PostgresPool(conninfo, name="db", min_size=0, max_size=1) as db:
        with db.connection():
            (held,) = db.servers()
            waiter = Task(db.query, "select 1")
            eventually(lambda: db.servers()[0].exhausted)
            (short,) = db.servers()
        waiter.result()

        assert (held.name, held.max_size, held.in_use, held.waiting) == ("db", 1, 1, 0)
        assert not held.exhausted
        assert short.waiting == 1
        assert short.cause is None
        eventually(lambda: not db.servers()[0].exhausted)


def test_a_server_that_can_not_be_reached_says_why_until_it_is_back(own_redis):
    server = own_redis()
    with RedisPool(server.url, offline_queue=False) as cache:
        cache.execute("PING")
        server.kill()
        with pytest.raises(BackendUnavailable):
            while True:  # the first may still be answered
                cache.execute("PING")
        assert cache.servers()[0].cause is not None
        server.start()
        eventually(lambda: cache.servers()[0].cause is None)


def test_retries_cost_tokens_of_the_host_that_needs_them_and_of_no_other():
    policy = RetryPolicy(attempts=2, base=0.0)
    with HttpServer() as one, HttpServer() as other, HttpPool(retry=policy) as http:
        http.get(f"{one}/json")
        http.get(f"{other}/status/503")
        spent, whole = sorted(http.retry_budgets().values())
        names = {server.name for server in http.servers()}

    assert whole == 1.0
    assert spent in (
        1 - RetryBudget.TRANSIENT / RetryBudget.CAPACITY,
        1 - RetryBudget.THROTTLED / RetryBudget.CAPACITY,
    )
    assert set(http.retry_budgets()) == names
