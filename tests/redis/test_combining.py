"""Commands of many threads in few round trips, each with an answer of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from poolkit import DeadlineExceeded, DeadlineOutcomeUnknown, OutcomeUnknown, RedisPool, deadline
from poolkit.core import reading
from poolkit.redis import lanes, packing, wire
from poolkit.redis.commands import traits_of
from tests.core.support import LONG, Stopwatch, Task, eventually, together
from tests.interruptions import Struck

from .scripted import ScriptedRedis, Words
from .support import SCHEDULING


class Holding:
    """A scripted server that answers ``GET hold`` only when it is let go; others with their own key."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.cut = threading.Event()
        self.server = ScriptedRedis(self._answer)

    def _answer(self, words: Words) -> bytes:
        if words[1] == b"hold":
            self.go.wait(LONG)
        if words[1] == b"cut":
            self.cut.wait(LONG)
            return b""  # hangs up
        if words[0] in (b"INCR", b"INCRBY"):
            return b":1\r\n"
        if words[1] == b"wrong":
            return b"-WRONGTYPE Operation against a key\r\n"
        return b"$%d\r\n%s\r\n" % (len(words[1]), words[1])


@pytest.fixture
def holding(monkeypatch) -> Iterator[Holding]:
    """Give such a server; that it is silent lets nobody lead beside who leads already."""
    monkeypatch.setattr(reading, "SILENCE", LONG)
    monkeypatch.setattr(wire, "SILENCE", LONG)
    holding = Holding()
    with holding.server:
        yield holding
        holding.go.set()
        holding.cut.set()


def gathered(cache: RedisPool, *works, first=("GET", "hold")) -> tuple[Task, list[Task]]:
    """Have a thread wait for *first*, and one for each of *works* queue up behind it, in order."""
    holder = Task(cache.execute, *first)
    eventually(lambda: cache.stats().in_use == 1)
    tasks = []
    for work in works:
        tasks.append(Task(work))
        eventually(lambda: cache.stats().waiting == len(tasks))
    return holder, tasks


def test_those_who_gather_are_sent_together_and_each_gets_its_own_answer(holding):
    with RedisPool(holding.server.url, max_size=1) as cache:
        works = [lambda n=n: cache.get(f"k{n}") for n in range(20)]
        holder, tasks = gathered(cache, *works)
        assert holding.server.count(b"GET") == 1
        holding.go.set()

        assert holder.result() == "hold"
        assert [task.result() for task in tasks] == [f"k{n}" for n in range(20)]
        stats = cache.stats()
        assert (stats.batches, stats.mean_batch, stats.largest_batch) == (1, 20, 20)
        assert stats.lead.count == 1
        assert stats.leases + stats.shared == stats.wait.count == stats.operations == 21


def test_a_refusal_reaches_only_the_one_it_is_for(holding):
    with RedisPool(holding.server.url, max_size=1) as cache:
        _, (before, wrong, raw, after) = gathered(
            cache,
            lambda: cache.get("before"),
            lambda: cache.get("wrong"),
            lambda: cache.get_bytes("raw"),
            lambda: cache.get("after"),
        )
        holding.go.set()

        assert (before.result(), raw.result(), after.result()) == ("before", b"raw", "after")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            wrong.result()
        assert cache.stats().errors == 1
        assert holding.server.connections == 1


def test_who_has_no_time_left_leaves_and_the_others_get_their_own_answers(holding):
    def hurried(work):
        with Stopwatch() as watch, deadline(0.2), pytest.raises(DeadlineExceeded) as caught:
            work()
        assert watch.seconds < 0.2 + 0.05 + SCHEDULING
        return caught.value

    with RedisPool(holding.server.url, max_size=1) as cache:
        holder, (queued,) = gathered(cache, lambda: hurried(lambda: cache.get("late")))
        assert queued.result().stage == "waiting"
        holding.go.set()
        assert holder.result() == "hold"
        assert cache.get("next") == "next"
    assert holding.server.count(b"GET") == 2  # nobody asked for "late"


@pytest.mark.parametrize("hurry_the_leader", [False, True])
def test_what_is_under_way_when_the_time_is_up_is_read_for_the_others(holding, hurry_the_leader):
    """The batch: one that the server holds, two that are in a hurry, two that are not; the leader is the last."""

    def hurried(work):
        with deadline(0.3), pytest.raises(DeadlineExceeded) as caught:
            work()
        return type(caught.value)

    def leader():
        return hurried(lambda: cache.get("led")) if hurry_the_leader else cache.get("led")

    with RedisPool(holding.server.url, max_size=1) as cache:
        # The oldest leads, when "cut" hangs up and its connection is replaced.
        first, (led, held, read, write, patient) = gathered(
            cache,
            leader,
            lambda: cache.get("hold"),
            lambda: hurried(lambda: cache.get("read")),
            lambda: hurried(lambda: cache.incr("written")),
            lambda: cache.get("patient"),
            first=("INCR", "cut"),
        )
        holding.cut.set()
        with pytest.raises(OutcomeUnknown):
            first.result()

        assert read.result() is DeadlineExceeded
        assert write.result() is DeadlineOutcomeUnknown
        if hurry_the_leader:
            assert led.result() is DeadlineExceeded
        holding.go.set()
        assert (held.result(), patient.result()) == ("hold", "patient")
        if not hurry_the_leader:
            assert led.result() == "led"
        assert cache.get("next") == "next"
        assert holding.server.connections == 2
        assert holding.server.count(b"INCRBY") == 1


def test_of_a_lost_batch_reads_are_sent_again_and_writes_are_not(holding):
    with RedisPool(holding.server.url, max_size=1, max_retries=3) as cache:
        _, (led, lost, read, write) = gathered(
            cache,
            lambda: cache.get("led"),  # the oldest leads, and its own comes last
            lambda: cache.execute("INCR", "cut"),
            lambda: cache.get("read"),
            lambda: cache.incr("written"),
        )
        holding.go.set()
        holding.cut.set()

        assert (led.result(), read.result()) == ("led", "read")
        for task in (lost, write):
            with pytest.raises(OutcomeUnknown):
                task.result()
        assert sum(words == [b"INCR", b"cut"] for words in holding.server.heard) == 1
        assert sum(words[:2] == [b"INCRBY", b"written"] for words in holding.server.heard) <= 1
        assert cache.stats().in_use == 0


def test_what_an_interrupted_thread_has_sent_is_not_sent_again(holding, monkeypatch):
    send = wire.PlainWire._send
    strikes = iter([True])

    def send_struck(self, data):
        sent = send(self, data)
        if b"written" in bytes(data) and next(strikes, False):
            raise Struck  # before it can count what it has sent
        return sent

    monkeypatch.setattr(wire.PlainWire, "_send", send_struck)
    with RedisPool(holding.server.url, max_size=1, max_retries=3) as cache:
        _, (led, write, read) = gathered(
            cache,
            lambda: cache.get("led"),
            lambda: cache.incr("written"),
            lambda: cache.get("read"),
        )
        holding.go.set()

        assert isinstance(led.end(), Struck)
        assert read.result() == "read"
        with pytest.raises(OutcomeUnknown):
            write.result()
        assert sum(words[:2] == [b"INCRBY", b"written"] for words in holding.server.heard) <= 1


def test_a_long_command_goes_by_itself(holding):
    with RedisPool(holding.server.url, max_size=2, lanes=1) as cache:
        holder = Task(cache.get, "hold")
        eventually(lambda: cache.stats().in_use == 1)
        assert cache.get("k" * lanes.LARGE) == "k" * lanes.LARGE
        holding.go.set()
        assert holder.result() == "hold"
        assert cache.stats().batches == 0
        assert cache.stats().leases == 2


@pytest.mark.parametrize(
    "words",
    [
        "BLPOP k 1",
        "BLMOVE a b LEFT LEFT 1",
        "BZPOPMIN k 1",
        "XREAD BLOCK 100 STREAMS k 0",
        "WAIT 1 100",
        "MULTI",
        "WATCH k",
        "SUBSCRIBE c",
        "CLIENT REPLY OFF",
        "SELECT 1",
        "SCRIPT DEBUG YES",
        "DEBUG SLEEP 1",
        "SAVE",
    ],
)
def test_what_blocks_or_changes_its_connection_is_not_combined(words):
    assert not traits_of(words.split()).combines


@pytest.mark.parametrize("words", ["GET k", "SET k v", "HGETALL k", "EVAL s 0", "NOBODY.KNOWS k"])
def test_what_does_neither_is(words):
    assert traits_of(words.split()).combines


def busy(cache: RedisPool) -> None:
    """Have fifty threads set and get keys of their own."""

    def work(number: int) -> None:
        for turn in range(40):
            assert cache.set(f"{number}", f"{number}:{turn}")
            assert cache.get(f"{number}") == f"{number}:{turn}"

    together(50, work)


def test_many_threads_need_few_connections(redis_url):
    with RedisPool(redis_url) as cache:
        busy(cache)
        stats = cache.stats()
        assert stats.batches > 0
        assert stats.mean_batch > 2
        assert stats.size < 20


def test_combining_can_be_switched_off(redis_url):
    with RedisPool(redis_url, combine=False) as cache:
        busy(cache)
        stats = cache.stats()
        assert stats.batches == stats.shared == stats.largest_batch == 0
        assert stats.mean_batch == 0
        assert stats.leases == stats.operations


def test_without_hiredis_nothing_is_combined(redis_url, monkeypatch):
    monkeypatch.setattr(packing, "pack_fast", None)
    with RedisPool(redis_url) as cache:
        busy(cache)
        assert cache.stats().batches == 0


def test_in_a_cluster_commands_are_combined_by_node(redis_cluster):
    with RedisPool(nodes=redis_cluster.nodes, password=redis_cluster.password) as cache:
        busy(cache)
        stats = cache.stats()
        assert stats.batches > 0
        assert stats.errors == 0
        assert all(node._combiner is not None for node in cache._lifecycle.running.topology.nodes())


def test_a_slot_that_moves_while_commands_are_combined_is_followed(redis_cluster):
    slot, home = redis_cluster.slot_of("moving"), redis_cluster.master_of("moving")
    there = next(
        server
        for server in map(redis_cluster.master_of, map(str, range(100)))
        if server is not home
    )
    with RedisPool(nodes=redis_cluster.nodes, password=redis_cluster.password) as cache:
        cache.set("moving", "here")
        done = threading.Event()

        def work() -> int:
            turns = 0
            while not done.is_set():
                assert cache.get("moving") == "here"
                turns += 1
            return turns

        tasks = [Task(work) for _ in range(20)]
        try:
            eventually(lambda: cache.stats().batches > 0 or any(task.error for task in tasks))
            redis_cluster.move_slot(slot, there)
            moved = cache.stats().operations
            eventually(lambda: cache.stats().operations > moved + 200)
        finally:
            done.set()
            turns = [task.result() for task in tasks]
            redis_cluster.move_slot(slot, home)
        assert min(turns) > 0
        assert cache.stats().errors == 0
