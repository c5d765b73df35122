"""A cluster: commands find their node, wherever its slots go."""

from __future__ import annotations

import threading
from time import monotonic

import pytest
import redis

from poolkit import (
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolKitError,
    RedisPool,
    deadline,
)
from poolkit.embedded import RedisCluster
from poolkit.redis.cluster import slot_of
from tests.core.support import LONG, Task, eventually

from .support import SCHEDULING, Stopwatch

KEYS = [f"key {number}" for number in range(60)]  # over all nodes


@pytest.fixture
def cache(redis_cluster):
    """Give a pool on the cluster, which is empty."""
    with RedisPool(nodes=redis_cluster.nodes[:2], password=redis_cluster.password) as cache:
        yield cache


def other_than(cluster: RedisCluster, key: str):
    """Return a master that does not have *key*."""
    here = cluster.master_of(key)
    return next(server for name in KEYS if (server := cluster.master_of(name)).port != here.port)


def test_commands_find_the_node_of_their_key(cache):
    for number, key in enumerate(KEYS):
        assert cache.set(key, number)
    assert [cache.get(key) for key in KEYS] == [str(number) for number in range(60)]
    assert len({cache._lifecycle.running.topology.node_for(key, None) for key in KEYS}) == 3
    assert slot_of("{tag}a") == slot_of(b"{tag}b") == slot_of("tag")


def test_several_keys_may_be_on_several_nodes(cache):
    cache.mset({key: number for number, key in enumerate(KEYS)})
    assert cache.mget([*KEYS, "no"]) == [*(str(number) for number in range(60)), None]
    assert cache.exists(*KEYS, "no") == 60
    assert cache.delete(*KEYS, "no") == 60


def test_a_pipeline_goes_to_several_nodes_and_answers_in_order(cache):
    commands = [
        command
        for key in KEYS
        for command in (("SET", key, key), ("INCR", f"{key} n"), ("GET", key))
    ]

    assert cache.pipeline(commands) == [answer for key in KEYS for answer in ("OK", 1, key)]

    answers = cache.pipeline(
        [("SET", KEYS[0], "x"), ("INCR", KEYS[0]), ("GET", KEYS[1])], raise_on_error=False
    )
    assert isinstance(answers[1], redis.ResponseError)
    assert answers[2] == KEYS[1]


def test_keys_are_found_wherever_they_stand(cache):
    assert (
        cache.execute("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, "scripted", "x")
        == "OK"
    )
    assert cache.get("scripted") == "x"
    cache.execute("XADD", "stream", "*", "a", 1)
    assert cache.execute("XREAD", "COUNT", 1, "STREAMS", "stream", 0)
    assert cache.execute("OBJECT", "ENCODING", "scripted") == "embstr"
    with pytest.raises(redis.ResponseError, match=r"CROSSSLOT|same slot"):
        cache.execute("MGET", KEYS[0], KEYS[1], KEYS[2])


def test_redis_pys_cluster_client_works_over_the_pool(cache):
    assert isinstance(cache.client, redis.RedisCluster)
    for key in KEYS:
        cache.client.set(key, 1)
    assert sorted(cache.client.scan_iter(count=100)) == sorted(KEYS)
    assert cache.client.pipeline().incr(KEYS[0]).incr(KEYS[1]).execute() == [2, 2]
    assert cache.client.zadd("z", {"a": 1}) == 1
    assert cache.stats().in_use == 0


def test_a_held_connection_is_to_the_node_of_a_key(cache):
    for key in KEYS[:5]:
        with cache.connection(key=key) as conn, conn.pipeline() as pipe:
            pipe.watch(key)
            pipe.multi()
            pipe.set(key, "v")
            assert pipe.execute() == [True]
    with pytest.raises(ConfigError, match="say which node"):
        cache.connection()


def test_a_moved_slot_is_followed(cache, redis_cluster):
    key = "moving"
    cache.set(key, 1)
    home, there = redis_cluster.master_of(key), other_than(redis_cluster, key)
    try:
        redis_cluster.move_slot(redis_cluster.slot_of(key), there)

        assert cache.incr(key) == 2
        assert cache.pipeline([("INCR", key), ("SET", KEYS[0], 1)]) == [3, "OK"]
        with cache.connection(key=key) as conn:
            assert conn.get(key) == "3"
        assert cache.stats().errors == 0
    finally:
        redis_cluster.move_slot(redis_cluster.slot_of(key), home)
    assert cache.client.get(key) == "3"


def test_a_slot_that_is_moving_is_asked_on_both_sides(cache, redis_cluster):
    old, new = "{moving}old", "{moving}new"
    cache.set(old, "here")
    home, there = redis_cluster.master_of(old), other_than(redis_cluster, old)
    slot = redis_cluster.slot_of(old)
    redis_cluster.begin_move(slot, there)
    try:
        assert cache.get(old) == "here"
        assert cache.set(new, "there")
        assert cache.get(new) == "there"
        assert cache.pipeline([("GET", old), ("GET", new), ("APPEND", new, "!")]) == [
            "here",
            "there",
            6,
        ]
    finally:
        redis_cluster.finish_move(slot, there)
    assert cache.mget([old, new]) == ["here", "there!"]
    redis_cluster.move_slot(slot, home)


def test_one_seed_may_be_dead(redis_cluster):
    with RedisPool(
        nodes=["127.0.0.1:1", redis_cluster.nodes[3]], password=redis_cluster.password
    ) as cache:
        assert cache.set("k", "v")


def test_if_no_seed_answers_the_cause_is_told():
    with (
        RedisPool(nodes=["127.0.0.1:1", "127.0.0.1:2"], acquire_timeout=0.3) as cache,
        pytest.raises(BackendUnavailable, match="refused"),
    ):
        cache.get("k")


def test_a_server_without_a_cluster_says_so(redis_server):
    with (
        RedisPool(
            nodes=[f"127.0.0.1:{redis_server.port}"], password=redis_server.password
        ) as cache,
        pytest.raises(BackendUnavailable, match="cluster support disabled"),
    ):
        cache.get("k")


def test_closing_ends_every_thread(redis_cluster):
    cache = RedisPool(nodes=redis_cluster.nodes, password=redis_cluster.password)
    cache.mset(dict.fromkeys(KEYS, 1))
    assert cache.stats().size == 3
    cache.close()

    assert cache.stats().size == 0
    assert not any(thread.name.startswith("poolkit") for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_master_that_is_killed_under_load_costs_a_failover_and_nothing_else(cache, redis_cluster):
    """Each thread counts up keys of its own, so that an answer of another, or a lost write, would show.

    Redis itself may lose what it acknowledges in the moment of the kill: it replicates afterwards. So what
    must be there in the end is what WAIT has found on the replica just before.
    """
    threads = 50
    acknowledged, unknown = [0] * threads, [0] * threads
    wrong: list[object] = []
    last = [0.0] * threads
    stop = threading.Event()

    def work(number):
        key = f"counter {number}"
        while not stop.is_set():
            try:
                found = cache.incr(key)
                acknowledged[number] += 1
                if found > acknowledged[number] + unknown[number]:  # one was doubled
                    wrong.append((key, found, acknowledged[number], unknown[number]))
                tag = f"{number}:{found}"
                cache.set(f"tag {number}", tag)
                if (read := cache.get(f"tag {number}")) != tag:
                    wrong.append((tag, read))
                last[number] = monotonic()
            except OutcomeUnknown:
                unknown[number] += 1

    tasks = [Task(work, number) for number in range(threads)]
    try:
        eventually(lambda: min(acknowledged) > 5 or any(task.error for task in tasks))
        assert [task.error for task in tasks if task.error is not None] == []
        victim = redis_cluster.master_of("counter 0")
        replicated = list(acknowledged)
        with cache.connection(key="counter 0") as conn:
            conn.incr("{counter 0} too")
            assert conn.wait(1, 10_000) >= 1
        victim.kill()
        redis_cluster.wait_ok()
        served = monotonic()
        eventually(lambda: min(last) > served)
        healthy = monotonic() - served
    finally:
        stop.set()
    for task in tasks:
        task.result()

    assert healthy < 1.0 + SCHEDULING
    assert wrong == []
    assert sum(unknown) <= 2 * threads
    for number in range(threads):
        value = int(cache.get(f"counter {number}") or 0)
        assert replicated[number] <= value <= acknowledged[number] + unknown[number]


@pytest.mark.slow
def test_a_deadline_holds_during_a_failover(cache, redis_cluster):
    key = KEYS[0]
    cache.set(key, 1)
    redis_cluster.master_of(key).kill()

    for _ in range(3):
        with Stopwatch() as watch:
            try:
                with deadline(0.2):
                    cache.get(key)
            except (DeadlineExceeded, PoolKitError):
                pass
        assert watch.seconds < 0.2 + 0.05 + SCHEDULING
    redis_cluster.wait_ok()
    with deadline(LONG):
        assert cache.exists(key) in (0, 1)
