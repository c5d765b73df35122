"""One statement a request, T threads on 20 connections: PostgresPool beside what people use today."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from itertools import count
from typing import Any

import psycopg
import psycopg_pool

from benchmarks import answers, memory
from benchmarks.answers import Answer
from benchmarks.asks import Ask, Asks, asking, spread
from benchmarks.crew import ASIDE, Contender, Turn
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import COST, LONGEST, P50, P99, SLOWEST_SHARE, Target

QUESTIONS = (
    "throughput_by_threads",
    "fairness",
    "slow_neighbours",
    "result_sets",
    "empty_block",
    "memory",
)
PACKAGES = ("psycopg", "psycopg-binary", "psycopg-pool", "SQLAlchemy", "psycopg2-binary")

SIZE = 20
ROWS = 10_000
WAIT = 30.0
MAX_CONNECTIONS = 700  # 500 threads without a pool take one each
SQL = "select v from kv where k = %s"
SLOW_SQL = "select pg_sleep(0.1)"
SLOW_EVERY = 100  # turns of a thread
ROWS_SQL = (
    "select k, v, k + 1, v || 'a', k + 2, v || 'b', k + 3, v || 'c', k + 4, v || 'd' "
    "from kv where k between %s and %s order by k"
)
ROWS_EACH = 100
THREADS = (1, 8, 50, 500)
FEW = 4  # connections

RAW = "raw psycopg, pinned"
NO_POOL = "no pool"
QUERY = "PostgresPool query"
QUERY_FEW = f"PostgresPool query, {FEW} connections"
LEASE = "PostgresPool combine=False"
BLOCK = "PostgresPool connection"
DEFAULT = "psycopg_pool default block"
AUTOCOMMIT = "psycopg_pool autocommit"
GETCONN = "psycopg_pool getconn + putconn"

FEW_NAME = f"query, {FEW} connections"

TARGETS = (
    Target(name="query", contender=QUERY, peer=DEFAULT, threads=1, at_least=2.0),
    Target(name="query", contender=QUERY, peer=AUTOCOMMIT, threads=1, at_least=1.0),
    Target(name="query", contender=QUERY, peer=LEASE, threads=1, at_least=0.97),
    Target(name="query", contender=QUERY, peer=DEFAULT, threads=50, at_least=4.0),
    Target(name="query", contender=QUERY, peer=AUTOCOMMIT, threads=50, at_least=3.0),
    Target(name=FEW_NAME, contender=QUERY_FEW, peer=DEFAULT, threads=500, at_least=6.0),
    Target(name=FEW_NAME, contender=QUERY_FEW, peer=AUTOCOMMIT, threads=500, at_least=3.0),
    Target(
        name=f"{FEW_NAME}, p99",
        contender=QUERY_FEW,
        peer=DEFAULT,
        measure=P99,
        threads=500,
        at_most=0.25,
    ),
    Target(
        name=f"{FEW_NAME}, longest request",
        contender=QUERY_FEW,
        measure=LONGEST,
        threads=500,
        at_most=100.0,
    ),
    Target(name="latency", contender=QUERY, peer=NO_POOL, measure=P50, threads=1, at_most=0.3),
    Target(name=FEW_NAME, contender=QUERY_FEW, peer=NO_POOL, threads=500, at_least=10.0),
    Target(
        name=f"{FEW_NAME}, p99 in ms",
        contender=QUERY_FEW,
        measure=P99,
        threads=500,
        at_most=100.0,
    ),
    Target(name="lease per statement", contender=LEASE, peer=AUTOCOMMIT, threads=50, at_least=2.5),
    Target(name="lease per statement", contender=LEASE, peer=AUTOCOMMIT, threads=500, at_least=1.2),
)
SLOW_TARGETS = (
    Target(
        name="p99 of reads among 1 % statements of 100 ms",
        contender=QUERY,
        peer=LEASE,
        measure=P99,
        threads=50,
        at_most=2.0,
    ),
)
RESULT_SET_TARGETS = (
    Target(name="100 rows of 10 columns", contender=QUERY, peer=LEASE, threads=50, at_least=1.0),
)
FAIRNESS_TARGETS = tuple(
    Target(
        name=f"slowest thread, {contender}",
        contender=contender,
        measure=SLOWEST_SHARE,
        threads=threads,
        at_least=at_least,
    )
    for contender, at_least in ((QUERY, 1 / 2), (LEASE, 1 / 3), (BLOCK, 1 / 3))
    for threads in (50, 500)
)
EMPTY_TARGETS = (
    Target(name="empty connection() block", contender=BLOCK, peer=DEFAULT, threads=1, at_least=1.0),
    # Shown, not bounded: psycopg_pool's own block, which knows of no holder, costs 3 µs more than these.
    Target(
        name="cost of a lease, over getconn + putconn",
        contender=BLOCK,
        peer=GETCONN,
        measure=COST,
        compare="difference",
        threads=1,
    ),
)
MEMORY_AT_MOST_MB = 5.0

EXPECTED = [(key, [(f"v{key}",)]) for key in random.Random(2).sample(range(1, ROWS + 1), ROWS)]

ROW_SETS = [(key, ROWS_EACH) for key, _ in EXPECTED if key <= ROWS - ROWS_EACH]


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start a server, race, and answer the wanted questions."""
    with _server() as conninfo:
        if {"throughput_by_threads", "fairness"} & set(wanted):
            yield from _lookups_answered(conninfo, plan, wanted, watcher)
        if "slow_neighbours" in wanted:
            yield _slow_neighbours_answered(conninfo, plan, watcher)
        if "result_sets" in wanted:
            yield _result_sets_answered(conninfo, plan, watcher)
        if "empty_block" in wanted:
            yield _empty_block_answered(conninfo, plan, watcher)
        if "memory" in wanted:
            yield _memory_answered(conninfo, plan, watcher)


def _lookups_answered(
    conninfo: str, plan: Plan, wanted: Collection[str], watcher: Watcher
) -> Iterator[Answer]:
    name = "postgres.throughput_by_threads"
    race = Race(name=name, contenders=lookups(conninfo), threads=THREADS, budget=200.0)
    results = race.run(plan, watcher)
    if "throughput_by_threads" in wanted:
        question = (
            f"PostgreSQL: how many key lookups a second, when threads share {SIZE} connections?"
        )
        yield answers.speed(name, question, results, AUTOCOMMIT, TARGETS)
    if "fairness" in wanted:
        question = (
            "PostgreSQL: for each request of the median thread, how many had the slowest thread?"
        )
        yield answers.fairness("postgres.fairness", question, results, (50, 500), FAIRNESS_TARGETS)


def _slow_neighbours_answered(conninfo: str, plan: Plan, watcher: Watcher) -> Answer:
    name = "postgres.slow_neighbours"
    contenders = [
        Contender(QUERY, partial(_mixed, {}, conninfo), ours=True),
        Contender(LEASE, partial(_mixed, {"combine": False}, conninfo), ours=True),
    ]
    race = Race(name=name, contenders=contenders, threads=(50,), budget=12.0)
    question = "PostgreSQL: how long do key lookups take when 1 % of the statements take 100 ms?"
    return answers.speed(name, question, race.run(plan, watcher), LEASE, SLOW_TARGETS)


def _result_sets_answered(conninfo: str, plan: Plan, watcher: Watcher) -> Answer:
    name = "postgres.result_sets"
    contenders = [
        Contender(QUERY, partial(asking, partial(_row_sets, {}, conninfo), ROW_SETS), ours=True),
        Contender(
            LEASE,
            partial(asking, partial(_row_sets, {"combine": False}, conninfo), ROW_SETS),
            ours=True,
        ),
        Contender(
            AUTOCOMMIT, partial(asking, partial(_row_set_blocks, conninfo), ROW_SETS), ours=False
        ),
    ]
    race = Race(name=name, contenders=contenders, threads=(50,), budget=12.0)
    question = f"PostgreSQL: how many answers a second, of {ROWS_EACH} rows of 10 columns each?"
    return answers.speed(name, question, race.run(plan, watcher), LEASE, RESULT_SET_TARGETS)


def _empty_block_answered(conninfo: str, plan: Plan, watcher: Watcher) -> Answer:
    name = "postgres.empty_block"
    race = Race(name=name, contenders=empty_blocks(conninfo), threads=(1,), budget=20.0, slices=4)
    question = "PostgreSQL: what does it cost to borrow a connection and give it back?"
    return answers.cost(name, question, race.run(plan, watcher), DEFAULT, EMPTY_TARGETS)


def _memory_answered(conninfo: str, plan: Plan, watcher: Watcher) -> Answer:
    return memory.answer(
        "postgres.memory",
        "PostgreSQL: does memory stay flat as leases are taken?",
        builds={
            BLOCK: partial(_leases, BLOCK, poolkit_pool, conninfo),
            AUTOCOMMIT: partial(_leases, AUTOCOMMIT, autocommit_pool, conninfo),
        },
        ours=BLOCK,
        last=100_000 if plan.quick else 1_000_000,
        at_most_mb=MEMORY_AT_MOST_MB,
        watcher=watcher,
    )


# The contenders ------------------------------------------------------------------------------------


def lookups(conninfo: str) -> list[Contender]:
    """Return every way to look one key up; ours beside the peers they are compared with."""
    ways: list[tuple[str, Asks, bool]] = [
        (RAW, partial(_raw, conninfo), False),
        ("psycopg2 ThreadedConnectionPool", partial(_psycopg2, conninfo), False),
        ("SQLAlchemy QueuePool", partial(_sqlalchemy, conninfo), False),
        (DEFAULT, partial(_blocks, default_pool, conninfo), False),
        (QUERY, partial(_queries, {}, conninfo), True),
        (AUTOCOMMIT, partial(_blocks, autocommit_pool, conninfo), False),
        (QUERY_FEW, partial(_queries, {"min_size": FEW, "max_size": FEW}, conninfo), True),
        (LEASE, partial(_queries, {"combine": False}, conninfo), True),
        (BLOCK, partial(_blocks, poolkit_pool, conninfo), True),
        (NO_POOL, partial(_no_pool, conninfo), False),
    ]
    return [
        Contender(name, partial(asking, asks, EXPECTED), ours, floor=name == RAW)
        for name, asks, ours in ways
    ]


def empty_blocks(conninfo: str) -> list[Contender]:
    """Return the ways to borrow a connection and give it back unused."""
    return [
        Contender(GETCONN, partial(_getconn_putconn, conninfo)),
        Contender(BLOCK, partial(_empty, poolkit_pool, conninfo), ours=True),
        Contender(DEFAULT, partial(_empty, default_pool, conninfo)),
        Contender(AUTOCOMMIT, partial(_empty, autocommit_pool, conninfo)),
    ]


@contextmanager
def poolkit_pool(conninfo: str, **options: Any) -> Iterator[Any]:
    """Yield a PostgresPool, all its connections made."""
    # Imported late: while it can't be, only its own contenders fail, and say why.
    from poolkit import PostgresPool

    sizes = {"min_size": SIZE, "max_size": SIZE}
    settings = {"max_waiting": 1000, "acquire_timeout": WAIT, **sizes, **options}
    with PostgresPool(conninfo, **settings) as pool:
        until = time.monotonic() + WAIT
        while pool.stats().size < pool.config.min_size and time.monotonic() < until:
            time.sleep(0.005)
        yield pool


@contextmanager
def default_pool(conninfo: str, **kwargs: Any) -> Iterator[Any]:
    """Yield a psycopg_pool, all its connections made."""
    with psycopg_pool.ConnectionPool(
        conninfo, min_size=SIZE, max_size=SIZE, timeout=WAIT, open=False, kwargs=kwargs
    ) as pool:
        pool.wait(WAIT)
        yield pool


def autocommit_pool(conninfo: str) -> AbstractContextManager[Any]:
    return default_pool(conninfo, autocommit=True)


@contextmanager
def _queries(options: dict[str, Any], conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    with poolkit_pool(conninfo, **options) as db:
        yield [lambda key: db.query(SQL, [key])] * threads


@contextmanager
def _mixed(options: dict[str, Any], conninfo: str, threads: int) -> Iterator[Sequence[Turn]]:
    """Every hundredth turn of a thread is a slow statement, and is not counted itself."""
    with poolkit_pool(conninfo, **options) as db:

        def turn_of(numbers: Iterator[int]) -> Turn:
            def turn() -> object:
                number = next(numbers)
                if number % SLOW_EVERY == 0:
                    db.query(SLOW_SQL)
                    return ASIDE
                return db.query(SQL, [number % ROWS + 1])

            return turn

        yield [turn_of(count(1 + index * 37)) for index in range(threads)]


@contextmanager
def _row_sets(options: dict[str, Any], conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    with poolkit_pool(conninfo, **options) as db:
        yield [lambda key: len(db.query(ROWS_SQL, [key, key + ROWS_EACH - 1]))] * threads


@contextmanager
def _row_set_blocks(conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    with autocommit_pool(conninfo) as pool:

        def ask(key: int) -> int:
            with pool.connection() as conn:
                return len(conn.execute(ROWS_SQL, [key, key + ROWS_EACH - 1]).fetchall())

        yield [ask] * threads


@contextmanager
def _blocks(
    make: Callable[[str], AbstractContextManager[Any]], conninfo: str, threads: int
) -> Iterator[Sequence[Ask]]:
    with make(conninfo) as pool:

        def ask(key: int) -> Any:
            with pool.connection() as conn:
                return conn.execute(SQL, [key]).fetchall()

        yield [ask] * threads


@contextmanager
def _raw(conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    """One connection a thread; more threads than connections share them, by index and under a lock."""
    with ExitStack() as stack:
        conns = [
            stack.enter_context(psycopg.connect(conninfo, autocommit=True))
            for _ in range(min(threads, SIZE))
        ]

        def ask_on(conn: psycopg.Connection[Any]) -> Ask:
            return lambda key: conn.execute(SQL, [key]).fetchall()

        yield spread([ask_on(conn) for conn in conns], threads)


@contextmanager
def _no_pool(conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    def ask(key: int) -> Any:
        with psycopg.connect(conninfo, autocommit=True) as conn:
            return conn.execute(SQL, [key]).fetchall()

    yield [ask] * threads


@contextmanager
def _sqlalchemy(conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo),
        pool_size=SIZE,
        max_overflow=0,
        pool_timeout=WAIT,
        isolation_level="AUTOCOMMIT",
    )

    def ask(key: int) -> Any:
        with engine.connect() as conn:
            return conn.exec_driver_sql(SQL, (key,)).fetchall()

    try:
        yield [ask] * threads
    finally:
        engine.dispose()


@contextmanager
def _psycopg2(conninfo: str, threads: int) -> Iterator[Sequence[Ask]]:
    """psycopg2's pool raises when it is exhausted: a semaphore makes its callers wait instead."""
    import psycopg2.pool

    pool = psycopg2.pool.ThreadedConnectionPool(SIZE, SIZE, conninfo)
    for conn in [pool.getconn() for _ in range(SIZE)]:
        conn.autocommit = True
        pool.putconn(conn)
    free = threading.BoundedSemaphore(SIZE)

    def ask(key: int) -> Any:
        with free:
            conn = pool.getconn()
            try:
                with conn.cursor() as cursor:
                    cursor.execute(SQL, (key,))
                    return cursor.fetchall()
            finally:
                pool.putconn(conn)

    try:
        yield [ask] * threads
    finally:
        pool.closeall()


@contextmanager
def _getconn_putconn(conninfo: str, threads: int) -> Iterator[Sequence[Turn]]:
    with autocommit_pool(conninfo) as pool:

        def turn() -> None:
            pool.putconn(pool.getconn())

        yield [turn] * threads


@contextmanager
def _empty(
    make: Callable[[str], AbstractContextManager[Any]], conninfo: str, threads: int
) -> Iterator[Sequence[Turn]]:
    with make(conninfo) as pool:

        def turn() -> None:
            with pool.connection():
                pass

        yield [turn] * threads


def _leases(
    name: str, make: Callable[[str], AbstractContextManager[Any]], conninfo: str
) -> Contender:
    """Return a contender whose every turn is a lease, and every tenth one asks something too."""
    return Contender(name, partial(_mostly_empty, make, conninfo))


@contextmanager
def _mostly_empty(
    make: Callable[[str], AbstractContextManager[Any]], conninfo: str, threads: int
) -> Iterator[Sequence[Turn]]:
    with make(conninfo) as pool:

        def turn_of(numbers: Iterator[int]) -> Turn:
            def turn() -> None:
                number = next(numbers)
                with pool.connection() as conn:
                    if number % 10 == 0:
                        conn.execute(SQL, [number % ROWS + 1]).fetchall()

            return turn

        # Not cycle(): it keeps what it has given, and the growth would be the benchmark's own.
        yield [turn_of(count(index)) for index in range(threads)]


# The server ----------------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[str]:
    """Yield the conninfo of a server with the table to look up in.

    It is a private one, or that of ``BENCH_POSTGRES``, which must have no table ``kv`` of its own.
    """
    with ExitStack() as stack:
        conninfo = os.environ.get("BENCH_POSTGRES")
        if conninfo is None:
            from poolkit.embedded import postgres

            conninfo = stack.enter_context(postgres(max_connections=MAX_CONNECTIONS))
        conn = stack.enter_context(closing(psycopg.connect(conninfo, autocommit=True)))
        conn.execute("create table kv (k int primary key, v text)")
        stack.callback(conn.execute, "drop table kv")
        conn.execute(f"insert into kv select g, 'v' || g from generate_series(1, {ROWS}) g")
        conn.execute("vacuum analyze kv")
        yield conninfo
