"""Bad days of a cluster: masters that die or freeze, seeds that are gone, answers that get lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from urllib.parse import urlsplit

import pytest
import redis

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolClosed,
    RedisPool,
    deadline,
)
from poolkit.core.deadline import NEVER
from poolkit.embedded import RedisCluster, RedisServer
from poolkit.embedded.process import EmbeddedError
from tests.core.support import LONG, Stopwatch, Task, eventually
from tests.faults.control import Control

from .load import Load
from .scripted import ScriptedRedis, Words
from .support import SCHEDULING

THREADS = 50


@pytest.fixture
def cache(redis_cluster):
    """Give a pool on the cluster, which is empty."""
    with RedisPool(nodes=redis_cluster.nodes, password=redis_cluster.password) as cache:
        yield cache


def keys_of(tags: list[str], threads: int = THREADS) -> list[list[str]]:
    """Return for each thread a key on each master."""
    return [[f"{tag} {number}" for tag in tags] for number in range(threads)]


def replica_of(cluster: RedisCluster, master: RedisServer) -> RedisServer:
    """Return the server that will take over from *master*."""
    return next(
        server
        for server in cluster.servers
        if server.info("INFO", "replication").get("master_port") == str(master.port)
    )


def first_served(server: RedisServer, key: str) -> float:
    """Wait until *server* takes writes of *key*; return the moment when it was first seen to."""

    def serves() -> bool:
        threading.Event().wait(0.005)
        try:
            return bool(server.ask("SET", f"{key} probe", 1) == "OK")
        except EmbeddedError:
            return False

    eventually(serves)
    return monotonic()


def in_step(cache: RedisPool, key: str) -> None:
    """Wait until the replica of the master of *key* has all that the master had acknowledged when this began."""
    with cache.connection(key=key) as conn:
        conn.set(f"{key} mark", 1)
        assert conn.wait(1, 10_000) == 1


def offset(server: RedisServer) -> int:
    """Return how far the replication of *server* has come."""
    state = server.info("INFO", "replication")
    return int(state["master_repl_offset" if state["role"] == "master" else "slave_repl_offset"])


# -- a master that is killed ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_master_killed_under_load_costs_no_more_than_redis_itself_loses(
    cache, redis_cluster, tags
):
    """Redis replicates after it has answered, so it may lose what it acknowledged just before the kill.

    What WAIT has found on the replica it does not lose. So an acknowledged increment may be missing only if
    its key was on the victim, it was acknowledged after that WAIT began, and it was sent before the kill.
    """
    victim = redis_cluster.master_of(tags[0])
    heir = replica_of(redis_cluster, victim)

    with Load(cache, keys_of(tags)) as load:
        safe = load.told()
        in_step(cache, tags[0])
        victim.kill()
        killed = monotonic()
        healthy = load.healthy_since(first_served(heir, tags[0]))

    for key, answer in load.lost():
        assert key.startswith(tags[0]), (key, answer)
        assert answer.value > safe[key], (key, answer)
        assert answer.began < killed, (key, answer)
    assert load.problems == []
    assert healthy < 1.0 + SCHEDULING
    assert max(counter.unknown for counter in load.counters) <= 1
    assert sum(c.unknown for c in load.counters if not c.key.startswith(tags[0])) == 0
    assert cache.stats().in_use == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_master_killed_when_its_replica_has_everything_costs_nothing(cache, redis_cluster, tags):
    """With its writes held up, the victim acknowledges nothing that its replica lacks: nothing may be missing."""
    victim = redis_cluster.master_of(tags[0])
    heir = replica_of(redis_cluster, victim)

    with Load(cache, keys_of(tags)) as load:
        victim.ask("CLIENT", "PAUSE", 60_000, "WRITE")
        eventually(lambda: offset(victim) == offset(heir))
        victim.kill()
        healthy = load.healthy_since(first_served(heir, tags[0]))

    assert load.lost() == []
    assert load.problems == []
    assert healthy < 1.0 + SCHEDULING


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_frozen_master_is_left_when_another_takes_over(redis_cluster, tags):
    """Nothing tells a frozen server from a slow one, so who waits for it waits his time-out, and not longer."""
    victim = redis_cluster.master_of(tags[0])
    heir = replica_of(redis_cluster, victim)
    timeouts = {"command_timeout": 1.0, "connect_timeout": 1.0}

    with RedisPool(nodes=redis_cluster.nodes, password=redis_cluster.password, **timeouts) as cache:
        with Load(cache, keys_of(tags)) as load:
            safe = load.told()
            in_step(cache, tags[0])
            victim.pause()
            healthy = load.healthy_since(first_served(heir, tags[0]))
            victim.resume()
            redis_cluster.wait_ok()
            load.healthy_since(monotonic())

        for key, answer in load.lost():
            assert key.startswith(tags[0]), (key, answer)
            assert answer.value > safe[key], (key, answer)
    assert load.problems == []
    assert healthy < 2.0 + SCHEDULING


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_deadlines_hold_throughout_a_failover_and_do_not_hide_it(cache, redis_cluster, tags, how):
    """Shorter than any time-out, they are all that callers see of a frozen master; it has to be left all the same."""
    threads = 8
    victim = redis_cluster.master_of(tags[0])
    heir = replica_of(redis_cluster, victim)
    over = threading.Event()
    succeeded = [0.0] * threads
    cache.mset(dict.fromkeys(tags, 1))

    def work(number: int) -> list[float]:
        took = []
        while not over.is_set():
            with Stopwatch() as watch:
                try:
                    with deadline(0.2):
                        if number % 2:
                            cache.pipeline([("GET", tag) for tag in tags])
                        else:
                            cache.incr(f"{tags[0]} {number}")
                    succeeded[number] = monotonic()
                except (DeadlineExceeded, OutcomeUnknown):
                    pass
            took.append(watch.seconds)
            over.wait(0.001)
        return took

    with Control() as machine:
        tasks = [Task(work, number) for number in range(threads)]
        try:
            getattr(victim, how)()
            served = first_served(heir, tags[0])
            eventually(lambda: min(succeeded) > served)
            healthy = monotonic() - served
        finally:
            over.set()
        took = [seconds for task in tasks for seconds in task.result()]

    assert max(took) < 0.2 + 0.05 + SCHEDULING + machine.worst
    assert max(took) > 0.19  # some had to wait
    assert healthy < 1.0 + SCHEDULING + machine.worst


@pytest.mark.slow
def test_a_block_that_waits_for_a_master_is_at_the_one_that_takes_over(cache, redis_cluster, tags):
    victim = redis_cluster.master_of(tags[0])
    cache.set(tags[1], 1)  # so that the slots are known, and no connection to the victim is
    victim.kill()

    def enter():
        with cache.connection(key=tags[0]) as conn:
            return conn.set(tags[0], 2)

    waiting = [Task(enter) for _ in range(3)]
    assert [task.result() for task in waiting] == [True] * 3
    assert redis_cluster.master_of(tags[0]) is not victim


@pytest.mark.slow
def test_redis_pys_client_finds_the_new_master_too(cache, redis_cluster, tags):
    victim = redis_cluster.master_of(tags[0])
    heir = replica_of(redis_cluster, victim)
    client = cache.client
    for tag in tags:
        client.set(tag, "before")
    in_step(cache, tags[0])
    victim.kill()

    calls: list[Callable[[], object]] = [
        lambda: client.get(tags[0]),
        lambda: client.set(f"{tags[0]} x", 1),
        lambda: client.pipeline().get(tags[0]).get(tags[1]).execute(),
    ]
    tasks = [Task(call) for call in calls]
    served = first_served(heir, tags[0])
    assert [task.result() for task in tasks] == ["before", True, ["before", "before"]]
    assert monotonic() - served < 1.0 + SCHEDULING

    with Stopwatch() as watch:
        assert client.mget_nonatomic(tags) == ["before"] * 3
        with client.pipeline(transaction=True) as pipe:
            assert pipe.set(tags[0], "after").get(tags[0]).execute()[1] == "after"
        assert set(tags) < set(client.scan_iter())
        assert client.ping(target_nodes=client.PRIMARIES)
    assert watch.seconds < 1.0


@pytest.mark.slow
def test_a_pool_can_be_closed_in_the_middle_of_a_failover(redis_cluster, tags):
    cache = RedisPool(
        nodes=redis_cluster.nodes, password=redis_cluster.password, acquire_timeout=60
    )
    cache.mset(dict.fromkeys(tags, 1))
    victim = redis_cluster.master_of(tags[0])
    victim.kill()
    tasks = [Task(cache.get, tags[0]) for _ in range(10)]
    tasks += [Task(cache.pipeline, [("GET", tag) for tag in tags]) for _ in range(10)]
    eventually(lambda: cache.stats().waiting >= 10)

    with Stopwatch() as watch:
        cache.close()
        errors = [task.end() for task in tasks]

    assert watch.seconds < 1.0 + SCHEDULING
    assert {type(error) for error in errors} <= {PoolClosed, OutcomeUnknown, type(None)}
    assert PoolClosed in {type(error) for error in errors}
    assert not [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("poolkit-topology", "poolkit-probe"))
    ]


# -- answers that get lost, of clusters of one scripted server -----------------------------------------


COMMANDS = b"*3\r\n" + b"".join(
    b"*7\r\n$%d\r\n%s\r\n:-2\r\n*0\r\n:1\r\n:1\r\n:1\r\n*0\r\n" % (len(name), name)
    for name in (b"get", b"incrby", b"watch")
)
"""That the first word of these is their only key."""


def node(answer: Callable[[Words], bytes]) -> ScriptedRedis:
    """Return a server that says it is a cluster by itself, and answers other commands by *answer*."""

    def reply(words: Words) -> bytes:
        if words[:2] == [b"CLUSTER", b"INFO"]:
            return b"$16\r\ncluster_state:ok\r\n"
        if b" ".join(words) == b"CLUSTER SLOTS":
            port = urlsplit(server.url).port
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port
        if words == [b"COMMAND"]:
            return COMMANDS
        return answer(words)

    server = ScriptedRedis(reply)
    return server


def address_of(server: ScriptedRedis) -> str:
    """Return the address of *server*, as a node."""
    return server.url.removeprefix("redis://").removesuffix("/0")


def watched(cache: RedisPool, *, at_once: bool) -> None:
    """Increment a key that is watched, in a transaction or *at once*."""
    with cache.client.pipeline(transaction=True) as pipe:
        pipe.watch("n")
        if not at_once:
            pipe.multi()
        pipe.incr("n")
        pipe.execute()


@pytest.mark.parametrize(
    "write",
    [
        lambda cache: cache.incr("n"),
        lambda cache: cache.pipeline([("GET", "a"), ("INCRBY", "n", 1), ("GET", "b")]),
        lambda cache: cache.client.incr("n"),
        lambda cache: cache.client.pipeline().get("a").incr("n").get("b").execute(),
        lambda cache: cache.client.pipeline(transaction=True).incr("n").execute(),
        lambda cache: watched(cache, at_once=False),
        lambda cache: watched(cache, at_once=True),
    ],
    ids=[
        "command",
        "pipeline",
        "client",
        "client's pipeline",
        "client's transaction",
        "client's transaction that watches",
        "client, while watching",
    ],
)
def test_a_write_whose_answer_is_lost_is_never_sent_twice(write):
    with (
        node(lambda words: b"" if words[0] == b"INCRBY" else b"$1\r\nx\r\n") as server,
        RedisPool(nodes=[address_of(server)]) as cache,
    ):
        with pytest.raises(OutcomeUnknown):
            write(cache)
        assert server.count(b"INCRBY") == 1
        assert (cache.stats().in_use, cache.stats().leaked) == (0, 0)


@pytest.mark.parametrize(
    "read",
    [
        lambda cache: cache.get("k"),
        lambda cache: cache.pipeline([("GET", "k")])[0],
        lambda cache: cache.client.get("k"),
        lambda cache: cache.client.pipeline().get("k").execute()[0],
    ],
    ids=["command", "pipeline", "client", "client's pipeline"],
)
def test_a_read_whose_answer_is_lost_is_sent_again(read):
    answers = iter([b"", b"$1\r\nx\r\n"])
    with (
        node(lambda words: next(answers)) as server,
        RedisPool(nodes=[address_of(server)]) as cache,
    ):
        assert read(cache) == "x"
        assert server.count(b"GET") == 2


@pytest.mark.parametrize(
    "there", [b"", b"-LOADING Redis is loading the dataset in memory\r\n"], ids=["lost", "loading"]
)
def test_a_pipeline_that_has_partly_run_is_not_sent_again_for_a_slot_that_is_moving(there):
    """The second command is sent on, alone, and fails there in a way after which a whole pipeline may be repeated."""
    other = ScriptedRedis(lambda words: b"+OK\r\n" if words[0] == b"ASKING" else there)

    def answer(words: Words) -> bytes:
        if words == [b"INCR", b"moving"]:
            return b"-ASK 1 %s\r\n" % address_of(other).encode()
        return b":1\r\n"

    with other, node(answer) as server, RedisPool(nodes=[address_of(server)]) as cache:
        with pytest.raises(OutcomeUnknown):
            cache.pipeline([("INCR", "here"), ("INCR", "moving")])
        assert server.heard.count([b"INCR", b"here"]) == 1
        assert other.heard.count([b"INCR", b"moving"]) == 1


def test_nodes_that_send_each_other_a_command_for_ever_are_told():
    with (
        node(lambda words: b"-MOVED 1 %s\r\n" % address_of(server).encode()) as server,
        RedisPool(nodes=[address_of(server)], max_retries=0) as cache,
        pytest.raises(redis.exceptions.ClusterDownError, match="do not agree"),
    ):
        cache.get("k")


def test_a_cluster_that_has_not_answered_in_time_is_told_with_a_cause():
    over = threading.Event()
    with (
        ScriptedRedis(lambda _: over.wait(LONG) and b"") as server,
        RedisPool(nodes=[address_of(server)], acquire_timeout=0.1) as cache,
    ):
        with pytest.raises(BackendUnavailable, match="nothing has answered yet") as caught:
            cache.get("k")
        over.set()

    assert isinstance(caught.value.__cause__, TimeoutError)


def test_closing_waits_for_no_look_at_a_cluster_longer_than_it_is_told():
    asked, over = threading.Event(), threading.Event()

    def answer(words: Words) -> bytes:
        asked.set()
        over.wait(LONG)
        return b""

    with ScriptedRedis(answer) as server:
        cache = RedisPool(nodes=[address_of(server)])
        task = Task(cache.get, "k")
        assert asked.wait(LONG)

        with Stopwatch() as watch:
            cache.close(timeout=0.1)
        over.set()

        assert watch.seconds < 1.0
        assert isinstance(task.end(), PoolClosed)


def test_a_node_whose_slots_have_gone_is_told_to_who_still_asks_it(redis_cluster, tags):
    """Which is done at once, however long one would wait for a node that is away."""
    with RedisPool(
        nodes=redis_cluster.nodes, password=redis_cluster.password, acquire_timeout=LONG
    ) as cache:
        cache.get(tags[0])
        node = cache._lifecycle.running.topology.node_for(tags[0], NEVER)
        node.retire()

        with pytest.raises(BackendUnavailable, match="has no slots any more"):
            node.lender.lend(NEVER)
        assert cache.stats().in_use == 0
