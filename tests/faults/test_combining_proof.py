"""Tagged requests from 100 threads while connections are killed: 0 crossed, 0 lost, 0 doubled, 0 leaked.

``POOLKIT_PROOF=1000000 pytest -s tests/faults/test_combining_proof.py`` is the proof by hand; it prints its figures.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from time import perf_counter

import psycopg
import pytest
import redis

from poolkit import OutcomeUnknown, PoolKitError, PostgresPool, RedisPool, deadline
from tests.core.support import LONG, Task, eventually
from tests.postgres.observing import at, unique, watching

REQUESTS = int(os.environ.get("POOLKIT_PROOF", "20_000"))
"""In all, half of them for each of the two servers."""

THREADS = 100
EACH = max(10, REQUESTS // 2 // THREADS)
KILL_EVERY = 0.050
SIZE = 8
LIMIT = 60 + REQUESTS / 1000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT + 60)]


class Notes:
    """What one thread was told."""

    def __init__(self):
        self.asked = 0
        self.crossed = []
        self.acknowledged = []  # writes
        self.unknown = []
        self.refused = []  # reported as not having taken effect
        self.kinds = Counter()  # of errors


@contextmanager
def a_nervous_interpreter():
    """Switch threads every microsecond."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def killing(kill):
    """Call *kill* every 50 ms; give a list with the number of connections that each call killed."""
    done = threading.Event()
    killed = []

    def work():
        while not done.wait(KILL_EVERY):
            killed.append(kill())

    task = Task(work)
    yield killed
    done.set()
    task.result()


def run(request):
    """Have all threads do all their requests with *request* (number, turn, notes); return the notes, in one."""
    notes = [Notes() for _ in range(THREADS)]

    def some(turns):
        def work(number):
            mine = notes[number]
            for turn in turns:
                mine.asked += 1
                request(number, turn, mine)

        line = [Task(work, number) for number in range(THREADS)]
        for task in line:
            task.result(LIMIT)

    with a_nervous_interpreter():
        some(range(EACH // 5))
    some(range(EACH // 5, EACH))
    total = Notes()
    for each in notes:
        total.asked += each.asked
        total.kinds += each.kinds
        for name in ("crossed", "acknowledged", "unknown", "refused"):
            getattr(total, name).extend(getattr(each, name))
    return total


def all_turns(pool):
    """Return how many connections can be held at once."""
    eventually(lambda: pool.stats().in_use == 0)
    with ExitStack() as held, deadline(LONG):
        for _ in range(SIZE):
            held.enter_context(pool.connection())
        return pool.stats().in_use


def report(name, notes, killed, began, pool, **found):
    stats = pool.stats()
    seconds = perf_counter() - began
    assert repr(_combiner(pool)).endswith(": 0 lead, 0 wait>")
    sys.stdout.write(
        f"\n{name}: {notes.asked} requests of {THREADS} threads in {seconds:.1f} s, {sum(killed)} connections killed; "
        f"{len(notes.acknowledged)} writes acknowledged, {len(notes.unknown)} unknown, "
        f"errors {dict(notes.kinds)}; {stats.batches} batches of {stats.mean_batch:.1f} on average, "
        f"{stats.largest_batch} at most; crossed {len(notes.crossed)}, "
        + ", ".join(f"{what} {number}" for what, number in found.items())
        + "\n"
    )
    assert notes.asked == THREADS * EACH
    assert sum(killed) > 0
    assert stats.batches > 0
    assert stats.leaked == 0
    assert stats.leases + stats.shared == stats.wait.count


def _combiner(pool):
    running = pool._lifecycle.running
    if hasattr(running, "_combiner"):
        return running._combiner
    (node,) = running.topology.nodes()
    return node._combiner


def test_postgres_under_fire_crosses_loses_and_doubles_nothing(postgres_server):
    table, name = unique("proof"), unique("proof")
    with (
        watching(postgres_server.conninfo) as watch,
        PostgresPool(
            at(postgres_server.conninfo, application_name=name),
            min_size=SIZE,
            max_size=SIZE,
            acquire_timeout=LONG,
            name="proof",
        ) as db,
    ):
        watch.ask(f"create table {table} (tag text)")
        watch.ask(f"create table {table}_once (tag text primary key)")

        def request(number, turn, notes):
            tag = f"{number}:{turn}"
            kind = turn % 4
            try:
                if kind == 0:
                    n = db.execute(f"insert into {table} values (%s)", [tag])
                    if n != 1:
                        notes.crossed.append((tag, n))
                    notes.acknowledged.append(tag)
                elif kind == 1:
                    row = db.query_one(
                        f"insert into {table}_once values (%s) on conflict (tag)"
                        " do update set tag = excluded.tag returning tag",
                        [tag],
                        idempotent=True,
                    )
                    if row != (tag,):
                        notes.crossed.append((tag, row))
                    notes.acknowledged.append(tag)
                elif kind == 2 and number % 10 == 0:
                    with deadline(0.005):
                        rows = db.query("select %s", [tag], idempotent=True)
                    if rows != [(tag,)]:
                        notes.crossed.append((tag, rows))
                else:
                    rows = db.query("select %s", [tag], idempotent=True)
                    if rows != [(tag,)]:
                        notes.crossed.append((tag, rows))
            except (PoolKitError, psycopg.OperationalError) as error:
                notes.kinds[type(error).__name__] += 1
                if kind == 0:
                    unknown = isinstance(error, OutcomeUnknown)
                    (notes.unknown if unknown else notes.refused).append(tag)

        def kill():
            return len(
                watch.ask(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = %s order by random() limit 1",
                    [name],
                )
            )

        began = perf_counter()
        with killing(kill) as killed:
            notes = run(request)
        turns = all_turns(db)
        there = Counter(
            tag
            for suffix in ("", "_once")
            for (tag,) in watch.ask(f"select tag from {table}{suffix}")
        )
        lost = [tag for tag in notes.acknowledged if not there[tag]]
        doubled = [tag for tag, times in there.items() if times > 1]
        false = [tag for tag in notes.refused if there[tag]]
        watch.ask(f"drop table {table}, {table}_once")
        report(
            "PostgreSQL",
            notes,
            killed,
            began,
            db,
            lost=len(lost),
            doubled=len(doubled),
            said_not_to_be_there_and_is=len(false),
            turns=turns,
        )
        assert (notes.crossed, lost, doubled, false, turns) == ([], [], [], [], SIZE)


def test_redis_under_fire_crosses_loses_and_doubles_nothing(redis_server, redis_url):
    with (
        redis.Redis.from_url(redis_url, decode_responses=True) as watch,
        RedisPool(redis_url, max_size=SIZE, acquire_timeout=LONG, name="proof") as cache,
    ):
        own = watch.client_id()
        counts = [[0, 0, 0] for _ in range(THREADS)]  # told, acknowledged, unknown

        def request(number, turn, notes):
            tag = f"{number}:{turn}"
            kind = turn % 4
            count = counts[number]
            try:
                if kind == 0:
                    value = cache.incr(f"count:{number}")
                    if not count[0] < value <= count[1] + 1 + count[2]:
                        notes.crossed.append((tag, value, tuple(count)))
                    count[0] = value
                    count[1] += 1
                elif kind == 1:
                    cache.set(f"set:{tag}", tag)
                    notes.acknowledged.append(tag)
                else:
                    if kind == 2 and number % 10 == 0:
                        with deadline(0.005):
                            answer = cache.execute("ECHO", tag)
                    else:
                        answer = cache.execute("ECHO", tag)
                    if answer != tag:
                        notes.crossed.append((tag, answer))
            except (PoolKitError, redis.RedisError) as error:
                notes.kinds[type(error).__name__] += 1
                if isinstance(error, OutcomeUnknown) and kind == 0:
                    count[2] += 1
                    notes.unknown.append(tag)

        def kill():
            ids = [each["id"] for each in watch.client_list(_type="normal")]
            ids = [each for each in ids if int(each) != own]
            return watch.client_kill_filter(_id=random.choice(ids)) if ids else 0

        began = perf_counter()
        with killing(kill) as killed:
            notes = run(request)
        turns = all_turns(cache)
        lost = [tag for tag in notes.acknowledged if watch.get(f"set:{tag}") != tag]
        doubled = []
        for number, (_, acknowledged, unknown) in enumerate(counts):
            final = int(watch.get(f"count:{number}") or 0)
            if final < acknowledged:
                lost.append((number, final, acknowledged))
            if final > acknowledged + unknown:
                doubled.append((number, final, acknowledged, unknown))
        report(
            "Redis", notes, killed, began, cache, lost=len(lost), doubled=len(doubled), turns=turns
        )
        assert (notes.crossed, lost, doubled, turns) == ([], [], [], SIZE)
