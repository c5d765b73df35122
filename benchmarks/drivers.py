"""The drivers' connections and the pools over them, as ways to ask the same of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg_pool
import redis

from benchmarks.asks import Ask

WAIT = 30.0

Connects = Callable[[], AbstractContextManager[Ask]]


@contextmanager
def per_thread(connect: Connects, threads: int) -> Iterator[Sequence[Ask]]:
    with ExitStack() as kept:
        yield [kept.enter_context(connect()) for _ in range(threads)]


@contextmanager
def per_request(connect: Connects, threads: int) -> Iterator[Sequence[Ask]]:
    def ask(key: Any) -> Any:
        with connect() as asked:
            return asked(key)

    yield [ask] * threads


@contextmanager
def postgres_connection(conninfo: str, sql: str) -> Iterator[Ask]:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        yield lambda value: conn.execute(sql, [value]).fetchall()


@contextmanager
def redis_connection(url: str) -> Iterator[Ask]:
    with redis.Redis.from_url(url, decode_responses=True, single_connection_client=True) as client:
        yield client.get


@contextmanager
def http_connection(base: str) -> Iterator[Ask]:
    address = urlsplit(base)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=WAIT)

    def ask(url: str) -> bytes:
        connection.request("GET", url[len(base) :])
        return connection.getresponse().read()

    with closing(connection):
        yield ask


@contextmanager
def postgres_pool(
    conninfo: str, sql: str, settings: Mapping[str, Any], threads: int
) -> Iterator[Sequence[Ask]]:
    from poolkit import PostgresPool

    with PostgresPool(conninfo, acquire_timeout=WAIT, **settings) as db:
        yield [lambda value: db.query(sql, [value])] * threads


@contextmanager
def driver_pool(conninfo: str, sql: str, size: int, threads: int) -> Iterator[Sequence[Ask]]:
    with psycopg_pool.ConnectionPool(
        conninfo, min_size=size, max_size=size, timeout=WAIT, kwargs={"autocommit": True}
    ) as pool:
        pool.wait(WAIT)

        def ask(value: int) -> Any:
            with pool.connection() as conn:
                return conn.execute(sql, [value]).fetchall()

        yield [ask] * threads


@contextmanager
def redis_pool(url: str, settings: Mapping[str, Any], threads: int) -> Iterator[Sequence[Ask]]:
    from poolkit import RedisPool

    with RedisPool(url, acquire_timeout=WAIT, **settings) as cache:
        yield [cache.get] * threads


@contextmanager
def blocking_pool(url: str, size: int, threads: int) -> Iterator[Sequence[Ask]]:
    pool = redis.BlockingConnectionPool.from_url(
        url, max_connections=size, timeout=WAIT, decode_responses=True
    )
    with closing(pool):
        yield [redis.Redis(connection_pool=pool).get] * threads


@contextmanager
def http_pool(settings: Mapping[str, Any], threads: int) -> Iterator[Sequence[Ask]]:
    from poolkit import HttpPool

    with HttpPool(acquire_timeout=WAIT, **settings) as http:
        yield [lambda url: http.get(url).data] * threads
