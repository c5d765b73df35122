"""A cluster: commands find their node, wherever its slots go."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import redis

from poolkit import BackendUnavailable, ConfigError, PoolClosed, RedisPool, RetryPolicy
from poolkit.embedded import RedisCluster, RedisServer
from poolkit.redis import survey
from poolkit.redis.slots import slot_of
from tests.core.support import LONG, Stopwatch, Task, eventually
from tests.forks import Child

from .support import SCHEDULING

KEYS = [f"key {number}" for number in range(60)]  # over all nodes
NOWHERE = ["127.0.0.1:1", "127.0.0.1:2"]


@pytest.fixture
def pool_of(redis_cluster: RedisCluster) -> Iterator[Callable[..., RedisPool]]:
    """Give a maker of pools on the cluster, which is empty."""
    with ExitStack() as pools:

        def make(**settings: object) -> RedisPool:
            address = {"nodes": redis_cluster.nodes[:2], "password": redis_cluster.password}
            return pools.enter_context(RedisPool(**{**address, **settings}))

        yield make


@pytest.fixture
def cache(pool_of: Callable[..., RedisPool]) -> RedisPool:
    """Give a pool on the cluster, which is empty."""
    return pool_of()


@pytest.fixture
def never_redirected(redis_cluster: RedisCluster) -> Iterator[None]:
    """Check that no command went to a node that had to send it elsewhere."""

    def redirections() -> int:
        counts = [server.info("INFO", "errorstats") for server in redis_cluster.servers]
        return sum(
            int(count.get(f"errorstat_{name}", "count=0").partition("=")[2])
            for count in counts
            for name in ("MOVED", "ASK")
        )

    before = redirections()
    yield
    assert redirections() == before


@contextmanager
def half_moved(cluster: RedisCluster, key: str) -> Iterator[Callable[[], None]]:
    """Have the slot of *key* be moving for the length of a block; give what completes the move."""
    slot, home = cluster.slot_of(key), cluster.master_of(key)
    there = next(server for server in masters(cluster) if server is not home)
    finished: list[bool] = []

    def finish() -> None:
        if not finished:
            cluster.finish_move(slot, there)
            finished.append(True)

    cluster.begin_move(slot, there)
    try:
        yield finish
    finally:
        finish()
        cluster.move_slot(slot, home)


def masters(cluster: RedisCluster) -> list[RedisServer]:
    """Return the masters there are."""
    return [
        server
        for server in cluster.servers
        if server.info("INFO", "replication")["role"] == "master"
    ]


def threads_of_poolkit() -> set[str]:
    """Return the names of the threads that pools have started."""
    return {
        thread.name for thread in threading.enumerate() if thread.name.startswith("poolkit-")
    } - {"poolkit-housekeeper"}


# -- which node ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_redirected")
def test_every_command_goes_to_the_node_of_its_key_at_once(cache, redis_cluster):
    keys = [f"key {number}" for number in range(1000)]
    assert len({slot_of(key) for key in keys}) > 900

    cache.mset({key: number for number, key in enumerate(keys)})

    assert [cache.get(key) for key in keys] == [str(number) for number in range(1000)]
    sizes = [server.ask("DBSIZE") for server in masters(redis_cluster)]
    assert sum(sizes) == 1000
    assert min(sizes) > 250


@pytest.mark.parametrize(
    "key",
    [
        "plain",
        "{tag}a",
        "a{tag}",
        "{}a",
        "a{}b{c}",
        "{a",
        "a}b{c}",
        "{{a}}",
        "ключ",
        b"\xff{\xfe}\x00",
        17,
        1.5,
    ],
)
def test_the_slot_of_a_key_is_the_one_that_redis_says(redis_cluster, key):
    asked = key if isinstance(key, bytes) else str(key).encode()
    assert slot_of(key) == redis_cluster.slot_of(asked)
    assert slot_of(asked) == slot_of(bytearray(asked)) == slot_of(memoryview(asked))


@pytest.mark.usefixtures("never_redirected")
def test_keys_are_found_wherever_they_stand_in_a_command(cache, tags):
    for tag in tags:
        a, b = f"{tag}a", f"{tag}b"
        script = "return redis.call('SET', KEYS[1], ARGV[1])"
        assert cache.execute("EVAL", script, 1, a, "x") == "OK"
        assert cache.execute("EVAL_RO", "return redis.call('GET', KEYS[1])", "1", a) == "x"
        assert cache.execute("OBJECT", "ENCODING", a) == "embstr"
        assert cache.execute("MEMORY USAGE", a) > 0
        assert cache.execute("BITOP", "NOT", b, a) == 1
        cache.execute("XADD", f"{tag}s", "1-1", "f", "v")
        cache.execute("XGROUP", "CREATE", f"{tag}s", "g", "0")
        assert cache.execute("XREAD", "COUNT", 1, "STREAMS", f"{tag}s", 0)
        assert cache.execute("XREADGROUP", "GROUP", "g", "me", "STREAMS", f"{tag}s", ">")
        cache.execute("ZADD", f"{tag}z", 1, "m")
        assert cache.execute("ZUNION", 2, f"{tag}z", f"{tag}y") == ["m"]
        assert cache.execute("ZMPOP", 1, f"{tag}z", "MIN")[0] == f"{tag}z"
        cache.execute("RPUSH", f"{tag}l", "e")
        assert cache.execute("BLMPOP", 1, 1, f"{tag}l", "LEFT")[0] == f"{tag}l"
    assert cache.execute("EVAL", "return 1", 0) == 1
    assert cache.execute("PING") == "PONG"


def test_a_command_whose_keys_are_in_several_slots_is_refused_as_the_server_says(cache):
    with pytest.raises(redis.ResponseError, match="same slot"):
        cache.execute("MGET", *KEYS[:3])


@pytest.mark.usefixtures("never_redirected")
def test_several_keys_may_be_on_several_nodes(cache):
    cache.mset({key: number for number, key in enumerate(KEYS)})
    assert cache.mget([*KEYS, "no"]) == [*(str(number) for number in range(60)), None]
    assert cache.exists(*KEYS, "no", KEYS[0]) == 61
    assert cache.delete(*KEYS, "no") == 60
    assert cache.exists(*KEYS) == 0


# -- pipelines -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_redirected")
def test_a_pipeline_over_all_nodes_answers_in_order(cache):
    commands = [
        command
        for key in KEYS
        for command in (("SET", key, key), ("INCR", f"{key} n"), ("GET", key))
    ]

    assert cache.pipeline(commands) == [answer for key in KEYS for answer in ("OK", 1, key)]


def test_a_pipeline_takes_one_round_trip_a_node(cache, redis_cluster):
    commands = [("INCR", key) for key in KEYS]
    cache.pipeline(commands)

    def reads() -> int:
        stats = [server.info("INFO", "stats") for server in masters(redis_cluster)]
        return sum(int(stat["total_reads_processed"]) for stat in stats)

    lent, began = cache.stats().leases, reads()
    for_looking = reads() - began
    for _ in range(20):
        cache.pipeline(commands)
    read = reads() - began - 2 * for_looking

    assert cache.stats().leases - lent == 20 * 3
    # The replicas report now and then; 60 commands each would be 1,200.
    assert read < 2 * 20 * 3


def test_an_error_in_a_pipeline_stays_with_its_command(cache, tags):
    keys = [f"{tag} text" for tag in tags]
    cache.mset(dict.fromkeys(keys, "no number"))

    for wrong in keys:
        commands = [("INCR", key if key == wrong else f"{key} n") for key in keys]
        answers = cache.pipeline(commands, raise_on_error=False)
        for key, answer in zip(keys, answers, strict=True):
            assert isinstance(answer, redis.ResponseError if key == wrong else int)

        with pytest.raises(redis.ResponseError, match=r"command 2 .*INCR.*not an integer"):
            cache.pipeline([("GET", keys[0]), ("GET", keys[1]), ("INCR", wrong), ("INCR", "n")])


# -- slots that move -----------------------------------------------------------------------------------


def test_a_moved_slot_is_followed(cache, redis_cluster):
    key = "moving"
    cache.set(key, 1)
    home = redis_cluster.master_of(key)
    there = next(server for server in masters(redis_cluster) if server is not home)
    try:
        redis_cluster.move_slot(redis_cluster.slot_of(key), there)

        assert cache.incr(key) == 2
        assert cache.pipeline([("INCR", key), ("SET", KEYS[0], 1)]) == [3, "OK"]
        with cache.connection(key=key) as conn:
            assert conn.get(key) == "3"
        assert cache.stats().errors == 0
    finally:
        redis_cluster.move_slot(redis_cluster.slot_of(key), home)
    # A pipeline is the first to find out this time.
    assert cache.pipeline([("INCR", key), ("GET", KEYS[0]), ("INCR", key)]) == [4, "1", 5]


@pytest.mark.parametrize("way", ["command", "pipeline", "client", "client's pipeline"])
def test_what_is_moved_is_asked_for_once_and_known_from_then_on(cache, redis_cluster, way):
    key = "moving"
    slot, home = redis_cluster.slot_of(key), redis_cluster.master_of(key)
    there = next(server for server in masters(redis_cluster) if server is not home)
    calls = {
        "command": lambda: cache.incr(key),
        "pipeline": lambda: cache.pipeline([("INCR", key)])[0],
        "client": lambda: cache.client.incr(key),
        "client's pipeline": lambda: cache.client.pipeline().incr(key).execute()[0],
    }
    assert calls[way]() == 1

    def sent_away() -> int:
        stats = home.info("INFO", "errorstats").get("errorstat_MOVED", "count=0")
        return int(stats.partition("=")[2])

    try:
        redis_cluster.move_slot(slot, there)
        before = sent_away()
        for number in range(10):
            assert calls[way]() == number + 2
        assert sent_away() == before + 1
    finally:
        redis_cluster.move_slot(slot, home)


def test_a_block_that_is_sent_away_is_at_the_right_node_next_time(cache, redis_cluster):
    key = "moving"
    slot, home = redis_cluster.slot_of(key), redis_cluster.master_of(key)
    there = next(server for server in masters(redis_cluster) if server is not home)
    cache.set(key, "v")
    try:
        redis_cluster.move_slot(slot, there)
        with cache.connection(key=key) as conn, pytest.raises(redis.exceptions.MovedError):
            conn.get(key)
        with cache.connection(key=key) as conn:
            assert conn.get(key) == "v"

        with cache.client.pipeline(transaction=True) as pipe:
            assert pipe.get(key).execute() == ["v"]
    finally:
        redis_cluster.move_slot(slot, home)


def test_a_slot_that_is_moving_is_asked_on_both_sides(cache, redis_cluster):
    old, new = "{moving}old", "{moving}new"
    cache.set(old, "here")
    with half_moved(redis_cluster, old) as finish:
        assert cache.get(old) == "here"
        assert cache.set(new, "there")
        assert cache.get(new) == "there"
        assert cache.pipeline(
            [("GET", old), ("APPEND", new, "!"), ("GET", new), ("SET", KEYS[0], 1), ("GET", old)]
        ) == ["here", 6, "there!", "OK", "here"]
        answers = cache.pipeline([("GET", old), ("INCR", new)], raise_on_error=False)
        assert answers[0] == "here"
        assert "not an integer" in str(answers[1])
        finish()
        assert cache.mget([old, new]) == ["here", "there!"]
    assert cache.mget([old, new]) == ["here", "there!"]
    assert cache.stats().errors == 0


def test_bytes_are_bytes_where_a_slot_is_moving_to(cache, redis_cluster):
    with half_moved(redis_cluster, "{moving}"):
        cache.set("{moving}raw", b"\xff\xfe")
        assert cache.get_bytes("{moving}raw") == b"\xff\xfe"


@pytest.mark.parametrize(
    "read",
    [
        lambda cache, keys: cache.execute("MGET", *keys),
        lambda cache, keys: cache.pipeline([("GET", KEYS[0]), ("MGET", *keys)])[1],
        lambda cache, keys: cache.client.mget(keys),
        lambda cache, keys: (
            cache.client.pipeline().get(KEYS[0]).execute_command("MGET", *keys).execute()[1]
        ),
    ],
    ids=["command", "pipeline", "client", "client's pipeline"],
)
def test_who_needs_both_sides_of_a_moving_slot_waits_for_the_move(pool_of, redis_cluster, read):
    """The server says TRYAGAIN as long as some of the keys are here and some there."""
    cache = pool_of(retry=RetryPolicy(attempts=200, base=0.02, cap=0.02))
    keys = ["{moving}old", "{moving}new"]
    cache.mset({keys[0]: "here", KEYS[0]: "x"})
    with half_moved(redis_cluster, keys[0]) as finish:
        cache.set(keys[1], "there")
        task = Task(read, cache, keys)
        eventually(lambda: cache.stats().retries >= 2)
        assert task.is_alive()
        finish()
        assert task.result() == ["here", "there"]


def test_a_move_that_takes_too_long_is_told(pool_of, redis_cluster):
    cache = pool_of(max_retries=0)
    cache.set("{moving}old", "here")
    with half_moved(redis_cluster, "{moving}old"):
        with pytest.raises(redis.exceptions.TryAgainError):
            cache.execute("MGET", "{moving}old", "{moving}new")
        answers = cache.pipeline(
            [("GET", "{moving}old"), ("MGET", "{moving}old", "{moving}new")], raise_on_error=False
        )
    assert answers[0] == "here"
    assert isinstance(answers[1], redis.exceptions.TryAgainError)


# -- redis-py's client ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_redirected")
def test_redis_pys_cluster_client_works_over_the_pool(cache):
    client = cache.client
    assert isinstance(client, redis.RedisCluster)
    for key in KEYS:
        assert client.set(key, 1)
    assert [client.get(key) for key in KEYS] == ["1"] * 60
    assert sorted(client.scan_iter(count=100)) == sorted(KEYS)
    assert client.zadd("z", {"a": 1}) == 1
    assert client.zrange("z", 0, -1, withscores=True) == [["a", 1.0]]
    assert client.hset("h", mapping={"f": "v"}) == 1
    assert client.hgetall("h") == {"f": "v"}
    assert client.dbsize(target_nodes=client.PRIMARIES) == 62
    assert client.mget_nonatomic(KEYS) == ["1"] * 60
    assert client.cluster_info(target_nodes=client.get_random_node())["cluster_state"] == "ok"
    assert client.eval("return KEYS[1]", 1, "z") == "z"
    assert client.restore("copy", 0, client.dump("z"))
    assert client.delete(*KEYS[:1]) == 1
    assert cache.stats().in_use == 0


@pytest.mark.usefixtures("never_redirected")
def test_a_pipeline_of_the_client_goes_over_all_nodes_and_answers_in_order(cache):
    pipe = cache.client.pipeline()
    for number, key in enumerate(KEYS):
        pipe.set(key, number).incr(key).hset(f"{key} h", "f", "v").hgetall(f"{key} h")
    pipe.zadd("z", {"a": 1}).zscore("z", "a").dump(KEYS[0])
    lent = cache.stats().leases

    answers = pipe.execute()

    assert answers[:240] == [
        answer for number in range(60) for answer in (True, number + 1, 1, {"f": "v"})
    ]
    assert answers[240:242] == [1, 1.0]
    assert isinstance(answers[242], bytes)
    assert cache.stats().leases - lent == 4  # a node each, and DUMP by itself
    assert pipe.execute() == []


def test_an_error_in_a_pipeline_of_the_client_stays_with_its_command(cache):
    answers = (
        cache.client.pipeline()
        .set(KEYS[0], "x")
        .incr(KEYS[0])
        .incr(KEYS[1])
        .execute(raise_on_error=False)
    )
    assert answers[0] is True
    assert isinstance(answers[1], redis.ResponseError)
    assert answers[2] == 1
    with pytest.raises(redis.ResponseError, match="Command # 2"):
        cache.client.pipeline().incr(KEYS[1]).incr(KEYS[0]).execute()


def test_the_client_has_transactions_locks_and_messages(cache):
    client = cache.client
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("{t}a")
        pipe.multi()
        pipe.set("{t}a", 1)
        pipe.incr("{t}a")
        assert pipe.execute() == ["OK", 2]
    with client.lock("lock", timeout=5):
        assert client.exists("lock")
    with client.pubsub() as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        client.publish("news", "hello")
        assert listener.get_message(timeout=5)["data"] == "hello"
    eventually(lambda: cache.stats().in_use == 0)


def test_a_transaction_of_the_client_gives_its_connection_back(cache, tags):
    key = tags[0] + "k"
    cache.set(key, 0)
    for number in range(5):
        assert cache.client.pipeline(transaction=True).incr(key).execute() == [number + 1]
        with cache.client.pipeline(transaction=True) as pipe:
            pipe.watch(key)
            assert pipe.get(key) == str(number + 1)
        assert cache.stats().in_use == 0

    assert (cache.stats().closed, cache.stats().leaked) == (0, 0)


def test_the_client_follows_a_slot_that_is_moving(cache, redis_cluster):
    old, new = "{moving}old", "{moving}new"
    cache.set(old, "here")
    with half_moved(redis_cluster, old):
        assert cache.client.get(old) == "here"
        assert cache.client.set(new, "there")
        assert cache.client.pipeline().get(old).get(new).execute() == ["here", "there"]
    assert cache.client.mget(old, new) == ["here", "there"]


def test_closing_the_client_does_the_pool_no_harm(cache):
    with cache.client as client:
        client.set(KEYS[0], 1)
    assert cache.client.get(KEYS[0]) == "1"
    assert cache.client.ping()
    assert client.dbsize(target_nodes=client.PRIMARIES) == 1


# -- a connection held -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_redirected")
def test_a_held_connection_is_to_the_node_of_a_key(cache, tags):
    for tag in tags:
        with cache.connection(key=tag) as conn, conn.pipeline() as pipe:
            pipe.watch(tag)
            pipe.multi()
            pipe.set(tag, "v")
            assert pipe.execute() == [True]
        with cache.connection(key=tag) as conn, conn.pipeline() as pipe:
            pipe.watch(tag)
            cache.set(tag, "changed")
            pipe.multi()
            pipe.set(tag, "never")
            with pytest.raises(redis.WatchError):
                pipe.execute()
        assert cache.get(tag) == "changed"


def test_a_held_connection_needs_a_key(cache):
    with pytest.raises(ConfigError, match="say which node"):
        cache.connection()


# -- numbers, forks, the end ---------------------------------------------------------------------------


def test_what_is_held_is_counted_over_all_nodes(cache, tags):
    assert cache.stats().in_use == 0
    with ExitStack() as blocks:
        for tag in [*tags, tags[0]]:
            blocks.enter_context(cache.connection(key=tag))
        held = cache.leases()

        assert cache.stats().in_use == 4
        assert len(held) == 4
        assert all("test_cluster.py" in lease.call_site for lease in held)
        assert [lease.held_for for lease in held] == sorted(
            (lease.held_for for lease in held), reverse=True
        )
    assert cache.leases() == []
    stats = cache.stats()
    assert (stats.in_use, stats.size, stats.max_size) == (0, 4, 3 * cache.config.max_size)


def test_each_node_has_connections_of_its_own(pool_of, tags):
    cache = pool_of(max_size=1)
    with cache.connection(key=tags[0]):
        assert cache.set(tags[1], 1)
        assert cache.set(tags[2], 1)


def test_a_pool_opened_before_a_fork_works_in_parent_and_child(cache, tags):
    def ids() -> set[tuple[str, int]]:
        found = set()
        for tag in tags:
            with cache.connection(key=tag) as conn:
                found.add((tag, conn.client_id()))
        return found

    cache.mset(dict.fromkeys(KEYS, 1))
    cache.client.get(KEYS[0])
    mine = ids()

    def work() -> object:
        assert cache.mget(KEYS) == ["1"] * 60
        assert sorted(cache.client.scan_iter()) == sorted(KEYS)
        assert cache.client.pipeline().get(KEYS[0]).get(KEYS[1]).execute() == ["1", "1"]
        assert ids().isdisjoint(mine)
        return "fine"

    assert in_child(work) == "fine"
    assert ids() == mine
    assert cache.client.mget_nonatomic(KEYS) == ["1"] * 60


def in_child(work: Callable[[], object]) -> str:
    """Return what *work* returns, or raises, in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.get("k"),
        lambda client: client.pipeline().get("k").execute()[0],
        lambda client: client.get_primaries() and client.get("k"),
    ],
    ids=["command", "pipeline", "nodes"],
)
def test_a_fork_while_others_hold_every_lock_of_the_client_does_not_hang_the_child(cache, use):
    client = cache.client
    client.set("k", "v")
    manager = client.nodes_manager
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        nodes = [node.redis_connection.connection_pool for node in manager.nodes_cache.values()]
        owners = (client, manager, client._event_dispatcher, client._himport_registry, *nodes)
        locks = [owner._lock for owner in owners]
        with ExitStack() as stack:
            for lock in (manager._initialization_lock, *locks):
                stack.enter_context(lock)
            held.set()
            assert go.wait(LONG)

    task = Task(hold)
    assert held.wait(LONG)
    try:
        assert Child(lambda: (use(client), use(cache.client))).outcome() == ("v", "v")
    finally:
        go.set()
    task.result()
    assert use(client) == "v"


def test_closing_ends_every_thread(pool_of):
    others = threads_of_poolkit()
    cache = pool_of()
    cache.mset(dict.fromkeys(KEYS, 1))
    cache.client.get(KEYS[0])
    assert cache.stats().size >= 3

    cache.close()

    assert cache.stats().size == 0
    assert threads_of_poolkit() <= others
    with pytest.raises(PoolClosed):
        cache.get(KEYS[0])


def test_closing_wakes_those_who_wait_for_the_cluster():
    others = threads_of_poolkit()
    cache = RedisPool(nodes=NOWHERE, acquire_timeout=60)
    task = Task(cache.get, "k")
    eventually(
        lambda: cache.stats().refused or len(threads_of_poolkit() - others) or task.is_alive()
    )

    with Stopwatch() as watch:
        cache.close()
        error = task.end()

    assert isinstance(error, PoolClosed)
    assert watch.seconds < 1.0 + SCHEDULING
    assert threads_of_poolkit() <= others


# -- seeds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
def test_a_seed_may_be_dead(pool_of, redis_cluster, place):
    nodes = [redis_cluster.nodes[3]]
    nodes.insert(place, NOWHERE[0])
    cache = pool_of(nodes=nodes)
    with Stopwatch() as watch:
        assert cache.set("k", "v")
        assert cache.client.get("k") == "v"
    assert watch.seconds < 1.0


def test_a_seed_may_be_silent(pool_of, redis_cluster, monkeypatch):
    monkeypatch.setattr(survey, "ASK_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        cache = pool_of(nodes=[f"127.0.0.1:{mute.getsockname()[1]}", redis_cluster.nodes[0]])
        with Stopwatch() as watch:
            assert cache.set("k", "v")
    assert watch.seconds < 0.3 + 0.5


@pytest.mark.parametrize("use", [lambda cache: cache.get("k"), lambda cache: cache.client.get("k")])
def test_if_no_seed_answers_the_cause_is_told(use):
    with (
        RedisPool(nodes=NOWHERE, acquire_timeout=0.3) as cache,
        Stopwatch() as watch,
        pytest.raises(BackendUnavailable, match="refused"),
    ):
        use(cache)
    assert watch.seconds < 0.3 + 0.05 + SCHEDULING


def test_without_a_queue_a_cluster_that_can_not_be_reached_is_told_at_once():
    with (
        RedisPool(nodes=NOWHERE, offline_queue=False) as cache,
        Stopwatch() as watch,
        pytest.raises(BackendUnavailable),
    ):
        cache.get("k")
    assert watch.seconds < 1.0


def test_a_server_without_a_cluster_says_so(redis_server):
    with (
        RedisPool(
            nodes=[f"127.0.0.1:{redis_server.port}"], password=redis_server.password
        ) as cache,
        Stopwatch() as watch,
        pytest.raises(BackendUnavailable, match="cluster support disabled"),
    ):
        cache.get("k")
    assert watch.seconds < 1.0  # that it may become one is not worth waiting for


@pytest.mark.parametrize(
    ("password", "told"),
    [
        ("s3cret", "invalid username-password pair"),
        ("", "must be called with the client already authenticated"),
    ],
)
def test_a_wrong_password_is_told_at_once_and_not_shown(pool_of, password, told):
    cache = pool_of(password=password)
    with Stopwatch() as watch, pytest.raises(BackendUnavailable, match=told) as caught:
        cache.get("k")
    assert watch.seconds < 1.0
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(cache)


def test_nodes_may_be_urls_with_the_password(redis_cluster):
    with RedisPool(nodes=redis_cluster.urls) as cache:
        assert cache.set("k", "v")
        assert cache.client.get("k") == "v"
        assert redis_cluster.password not in repr(cache) + repr(cache.config) + repr(cache.client)
