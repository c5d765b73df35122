"""Pools in MCP servers, with clients in memory: lifespans, deadlines, errors, threads, and what registration keeps."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError

from poolkit import (
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolClosed,
    PoolKit,
    PoolOverloaded,
)
from poolkit.hosts.mcp import CallFailed, PooledServer, Pools
from poolkit.hosts.mcp.failures import explained

from .mcp_support import failure, happens, run, said


@pytest.fixture
def kit(conninfo):
    """Give a kit with one connection to a database."""
    kit = PoolKit(
        postgres={"conninfo": conninfo, "min_size": 1, "max_size": 1, "combine": False},
        http=False,
        watch=None,
    )
    yield kit
    kit.close()


@pytest.fixture
def pools(kit):
    """Give the pools of a server."""
    return Pools(kit, deadline=20.0)


@pytest.fixture
def server(pools):
    """Give a server with these pools."""
    return PooledServer("shop", pools=pools, log_level="CRITICAL")


def sleep(kit, seconds="30"):
    """Sleep in the database, in a transaction: what is not committed is known not to have happened."""
    with kit.postgres.transaction() as conn:
        conn.execute("select pg_sleep(%s::float8)", [seconds])


# -- lifespan ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_kit_is_open_while_a_client_is_there(server, kit, mode):
    @server.tool()
    def state() -> str:
        return kit.state

    async def main():
        assert kit.state == "new"
        async with Client(server, mode=mode) as client:
            assert said(await client.call_tool("state")) == "open"
        assert kit.state == "closed"

    run(main)


def test_the_kit_stays_open_until_the_last_of_two_clients_has_gone(server, pools):
    @server.tool()
    def one() -> int:
        return pools.postgres.query_one("select 1", idempotent=True)[0]

    async def main():
        async with Client(server) as second:
            async with Client(server) as first:
                assert said(await first.call_tool("one")) == "1"
            assert pools.kit.state == "open"
            assert said(await second.call_tool("one")) == "1"
        assert pools.kit.state == "closed"

    run(main)


def test_a_later_client_finds_a_new_kit_with_the_same_settings(server, pools, kit):
    @server.tool()
    def one() -> int:
        return pools.postgres.query_one("select 1", idempotent=True)[0]

    async def main():
        async with Client(server) as client:
            assert said(await client.call_tool("one")) == "1"

    run(main)
    run(main)
    assert kit.state == pools.kit.state == "closed"
    assert pools.kit is not kit
    again, first = pools.kit.postgres.config, kit.postgres.config
    assert (again.conninfo, again.max_size) == (first.conninfo, first.max_size)


def test_a_function_makes_a_kit_for_each_time_that_the_server_serves(conninfo):
    made = []

    def make():
        made.append(PoolKit(postgres=conninfo, http=False, watch=None))
        return made[-1]

    pools = Pools(make)
    with pytest.raises(ConfigError, match="no kit before the server serves"):
        _ = pools.kit

    async def main():
        async with pools.lifespan() as outer, pools.lifespan() as inner:
            assert outer is inner is pools.kit
            assert outer.state == "open"

    run(main)
    run(main)
    assert [kit.state for kit in made] == ["closed", "closed"]


def test_it_opens_and_closes_off_the_event_loop(pools, kit, monkeypatch):
    threads = []
    for name in ("open", "close"):
        original = getattr(kit, name)
        monkeypatch.setattr(
            kit, name, lambda call=original: (threads.append(threading.current_thread()), call())
        )

    async def main():
        async with pools.lifespan():
            pass
        assert len(threads) == 2
        assert threading.current_thread() not in threads

    run(main)


@dataclass
class State:
    kit: PoolKit
    greeting: str


def test_a_lifespan_of_ones_own_is_within_that_of_the_pools(pools, kit):
    states = []

    @asynccontextmanager
    async def lifespan(server: MCPServer[State]):
        states.append(pools.kit.state)
        yield State(pools.kit, "hello")
        states.append(pools.kit.state)

    server = PooledServer("shop", pools=pools, lifespan=lifespan, log_level="CRITICAL")

    @server.tool()
    def greet(ctx: Context[State]) -> str:
        state = ctx.request_context.lifespan_context
        return f"{state.greeting} {state.kit.postgres.query_one('select 1')[0]}"

    async def main():
        async with Client(server) as client:
            assert said(await client.call_tool("greet")) == "hello 1"

    run(main)
    assert states == ["open", "open"]
    assert kit.state == "closed"


def test_a_plain_server_takes_the_lifespan_and_bounds_tools_one_by_one(pools):
    server = MCPServer("shop", lifespan=pools.lifespan, log_level="CRITICAL")

    @server.tool()
    @pools.bounded(deadline=0.1)
    def slow(ctx: Context[PoolKit]) -> str:
        """Sleep."""
        sleep(ctx.request_context.lifespan_context)
        return "slept"

    async def main():
        async with Client(server) as client:
            (tool,) = (await client.list_tools()).tools
            assert tool.description == "Sleep."
            result = await client.call_tool("slow")
            assert result.is_error
            assert "took too long: the call was stopped after the 0.1 s" in said(result)

    run(main)


def test_a_kit_that_can_not_open_fails_the_start_and_leaves_nothing_open(conninfo):
    pools = Pools(
        PoolKit(
            postgres=conninfo,
            redis={
                "url": "redis://:hush@127.0.0.1:1",
                "lazy_connect": False,
                "offline_queue": False,
            },
            watch=None,
        )
    )

    async def main():
        async with pools.lifespan():
            pass

    with pytest.raises(BackendUnavailable) as caught:
        run(main)
    assert "hush" not in str(caught.value)
    assert pools.kit.postgres.state == "closed"


# -- deadlines and cancellation ----------------------------------------------------------------------------


def test_a_call_ends_at_its_deadline_and_says_that_it_may_be_repeated(kit):
    server = PooledServer("shop", pools=Pools(kit, deadline=0.5), log_level="CRITICAL")

    @server.tool()
    def slow() -> str:
        sleep(kit)
        return "slept"

    @server.tool()
    async def slow_async() -> str:
        await anyio.to_thread.run_sync(sleep, kit)
        return "slept"

    async def main():
        async with Client(server) as client:
            for tool in ("slow", "slow_async"):
                began = anyio.current_time()
                result = await client.call_tool(tool)
                assert anyio.current_time() - began < 5
                assert said(result) == (
                    "The database took too long: the call was stopped after the 0.5 s that it may take, "
                    "while running. It may be tried again; asking for less may help."
                )
                assert failure(result) == {
                    "reason": "too_slow",
                    "retryable": True,
                    "retryAfter": None,
                }

    run(main)


def test_a_tool_may_have_more_or_less_time_than_the_others(server, pools):
    seen = {}

    def note(name):
        from poolkit.core.deadline import ambient

        seen[name] = ambient().budget

    @server.tool()
    def usual() -> None:
        note("usual")

    @server.tool()
    @pools.bounded(deadline=3)
    def quick() -> None:
        note("quick")

    @server.tool()
    @pools.bounded(deadline=100)
    async def long() -> None:
        note("long")

    async def main():
        async with Client(server) as client:
            for tool in ("usual", "quick", "long"):
                assert not (await client.call_tool(tool)).is_error

    run(main)
    assert seen == {"usual": 20.0, "quick": 3.0, "long": 100.0}


def test_a_cancelled_call_is_over_before_its_cancellation_goes_on(pools):
    ended = []

    @pools.bounded
    def slow() -> None:
        try:
            pools.postgres.query("select pg_sleep(30)")
        finally:
            ended.append(True)

    async def main():
        async with pools.lifespan():
            async with anyio.create_task_group() as group:
                group.start_soon(slow)
                await happens(lambda: pools.postgres.stats().in_use == 1)
                began = anyio.current_time()
                group.cancel_scope.cancel()
            assert ended == [True]
            assert anyio.current_time() - began < 5  # is its own grace

    run(main)
    assert pools.kit.postgres.stats().leaked == 0


def test_a_call_that_is_cancelled_before_it_begins_does_nothing(pools):
    begun = []

    async def main():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pools.bounded(lambda: begun.append(True))()
        assert pools.threads.busy == pools.threads.waiting == pools.threads._alive == 0

    run(main)
    assert begun == []


def test_a_call_that_is_cancelled_while_it_waits_for_a_thread_never_begins(kit):
    pools = Pools(kit, threads=1, deadline=20)
    begun = []
    go_on = threading.Event()

    @pools.bounded
    def wait(name: str) -> None:
        begun.append(name)
        assert go_on.wait(20)

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(wait, "first")
            await happens(lambda: begun == ["first"])
            with anyio.move_on_after(0.05):
                await wait("second")
            go_on.set()
        await wait("third")

    run(main)
    assert begun == ["first", "third"]


def test_a_call_that_does_not_notice_its_cancellation_is_left_to_itself(pools, monkeypatch, caplog):
    monkeypatch.setattr("poolkit.hosts.mcp.threads.GRACE", 0.05)
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @pools.bounded
    def deaf() -> None:
        begun.set()
        assert go_on.wait(20)
        ended.set()

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(deaf)
            await happens(begun.is_set)
            group.cancel_scope.cancel()
        assert not ended.is_set()
        go_on.set()
        await happens(ended.is_set)

    run(main)
    assert "tool 'deaf' was cancelled 0.05 s ago, but runs on" in caplog.text


# -- errors ------------------------------------------------------------------------------------------------


def test_an_exhausted_pool_is_told_as_busy(conninfo):
    kit = PoolKit(
        postgres={
            "conninfo": conninfo,
            "min_size": 1,
            "max_size": 1,
            "combine": False,
            "acquire_timeout": 0.5,
        },
        http=False,
        watch=None,
    )
    pools = Pools(kit)
    server = PooledServer("shop", pools=pools, log_level="CRITICAL")

    @server.tool()
    def one() -> int:
        return pools.postgres.query_one("select 1", idempotent=True)[0]

    async def main():
        async with Client(server) as client:
            while (await client.call_tool("one")).is_error:
                pass
            with kit.postgres.connection():
                result = await client.call_tool("one")
            assert result.is_error
            assert said(result) == "The database is busy. Try again in 2 s."
            assert failure(result) == {"reason": "busy", "retryable": True, "retryAfter": 2.0}
            assert said(await client.call_tool("one")) == "1"

    run(main)


def test_a_database_that_is_down_is_told_and_is_used_again_when_it_is_back(own_postgres, caplog):
    database = own_postgres()
    kit = PoolKit(
        postgres={"conninfo": database.conninfo, "min_size": 1, "max_size": 2},
        http=False,
        watch=None,
    )
    pools = Pools(kit)
    server = PooledServer("shop", pools=pools, log_level="CRITICAL")

    @server.tool()
    def one() -> int:
        return pools.postgres.query_one("select 1", idempotent=True)[0]

    async def main():
        async with Client(server) as client:
            assert said(await client.call_tool("one")) == "1"
            await anyio.to_thread.run_sync(database.stop)
            result = await client.call_tool("one")
            assert result.is_error
            assert said(result) == "The database can't be reached at the moment. Try again in 2 s."
            assert failure(result)["reason"] == "unreachable"
            await anyio.to_thread.run_sync(database.start)
            while (result := await client.call_tool("one")).is_error:  # noqa: ASYNC110
                await anyio.sleep(0.05)
            assert said(result) == "1"

    run(main)
    assert re.search(
        r"tool 'one' failed, unreachable \(reference [0-9a-f]{8}\): BackendUnavailable: pool '127.0.0.1/",
        caplog.text,
    )
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (PoolOverloaded("host-7"), "busy", "is busy"),
        (BackendUnavailable("host-7", retry_after=7.2), "unreachable", "Try again in 8 s"),
        (BackendUnavailable("host-7"), "unreachable", "Don't try again; tell the user"),
        (DeadlineExceeded("host-7", stage="waiting"), "too_slow", "while waiting"),
        (PoolClosed("host-7"), "closing", "is being shut down. Try again in 2 s"),
        (OutcomeUnknown("host-7"), "outcome_unknown", "may or may not have happened"),
    ],
)
def test_each_error_is_told_so_that_a_model_can_act_on_it(server, error, reason, words):
    @server.tool()
    def fail() -> str:
        raise error

    async def main():
        async with Client(server) as client:
            result = await client.call_tool("fail")
            assert result.is_error
            assert words in said(result)
            assert "host-7" not in said(result)
            assert failure(result)["reason"] == reason
            assert result.structured_content is None

    run(main)


@pytest.mark.parametrize("backend", ["postgres", "redis", "http"])
def test_the_model_is_told_what_kind_of_backend_it_was(backend):
    kit = PoolKit(
        postgres="postgresql://app:hush@127.0.0.1:1/app",
        redis={"url": "redis://:hush@127.0.0.1:1", "offline_queue": False},
        watch=None,
    )
    uses: dict[str, Callable[[], object]] = {
        "postgres": lambda: kit.postgres.query("select 1"),
        "redis": lambda: kit.redis.get("a"),
        "http": lambda: kit.http.get("http://127.0.0.1:1/"),
    }
    who = {
        "postgres": "The database",
        "redis": "The key-value store",
        "http": "A service that this tool calls",
    }
    with kit:
        with pytest.raises(BackendUnavailable) as caught:
            uses[backend]()
    told = explained(caught.value, 1.0)
    assert isinstance(told, CallFailed)
    assert str(told).startswith(f"{who[backend]} can't be reached")
    assert "127.0.0.1" not in str(told)


def test_other_errors_are_left_to_the_server(server, pools, caplog):
    @server.tool()
    def mistaken() -> str:
        return str(pools.redis.get("a"))  # there is none

    @server.tool()
    def broken() -> str:
        raise KeyError("hush")

    @server.tool()
    def refused() -> str:
        pools.postgres.query("select 1 / 0")
        return "never"

    async def main():
        async with Client(server) as client:
            for tool in ("mistaken", "broken", "refused"):
                result = await client.call_tool(tool)
                assert result.is_error
                assert said(result) == f"Error executing tool {tool}"
                assert "poolkit/failure" not in (result.meta or {})

    run(main)
    for name in ("ConfigError", "KeyError", "DivisionByZero"):
        assert name in caplog.text


def test_an_error_of_the_tools_own_after_the_deadline_is_its_own(kit):
    server = PooledServer("shop", pools=Pools(kit, deadline=0.05), log_level="CRITICAL")

    @server.tool()
    def gives_up() -> str:
        try:
            kit.postgres.query("select pg_sleep(30)")
        except DeadlineExceeded:
            raise ValueError("no answer") from None
        return "never"

    @server.tool()
    def has_enough() -> str:
        try:
            kit.postgres.query("select pg_sleep(30)")
        except DeadlineExceeded:
            return "something"
        return "never"

    async def main():
        async with Client(server) as client:
            assert said(await client.call_tool("gives_up")) == "Error executing tool gives_up"
            assert said(await client.call_tool("has_enough")) == "something"

    run(main)


def test_what_a_tool_forgets_is_taken_back_and_told_with_its_name(server, pools, caplog):
    kept = []

    @server.tool(name="shop.forget")
    def forget() -> str:
        kept.append(pools.postgres.connection())
        kept[-1].__enter__()
        return "forgotten"

    async def main():
        async with Client(server) as client:
            for _ in range(3):  # two more than there are
                assert said(await client.call_tool("shop.forget")) == "forgotten"

    run(main)
    assert caplog.text.count("was reclaimed: tool 'shop.forget' ended") == 3
    assert pools.kit.postgres.stats().leaked == 3


# -- threads -----------------------------------------------------------------------------------------------


def test_only_so_many_calls_have_a_thread_and_others_wait_for_one_until_their_deadline(kit):
    pools = Pools(kit, threads=2, deadline=20)
    server = PooledServer("shop", pools=pools, log_level="CRITICAL")
    begun = []
    go_on = threading.Event()

    @server.tool()
    def wait() -> str:
        begun.append(threading.current_thread())
        assert go_on.wait(20)
        return "waited"

    @server.tool()
    @pools.bounded(deadline=0.05)
    def hurried() -> str:
        return "never"

    async def main():
        async with Client(server) as client, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.call_tool, "wait")
            await happens(lambda: len(begun) == 2)
            assert pools.threads.busy == 2

            result = await client.call_tool("hurried")
            assert failure(result) == {"reason": "busy", "retryable": True, "retryAfter": 2.0}
            assert said(result) == "The server is busy. Try again in 2 s."

            assert len(begun) == 2
            go_on.set()
        assert len(begun) == 3
        assert pools.threads.busy == 0

    run(main)


# -- registration ------------------------------------------------------------------------------------------


def greet(name: str, ctx: Context, times: int = 1) -> list[str]:
    """Greet somebody.

    More than once, if asked.
    """
    return [f"hello {name} from {ctx.request_id is not None}"] * times


async def greet_async(name: str, ctx: Context, times: int = 1) -> list[str]:
    """Greet somebody, and wait for it."""
    return greet(name, ctx, times)


def test_a_registered_tool_is_what_a_plain_server_makes_of_it(server):
    plain = MCPServer("shop", log_level="CRITICAL")
    for each in (plain, server):
        each.tool(title="Greet")(greet)
        each.tool()(greet_async)
    handed_over = PooledServer(
        "shop", pools=server.pools, tools=[Tool.from_function(greet)], log_level="CRITICAL"
    )

    async def main():
        async with Client(plain) as one, Client(server) as other, Client(handed_over) as third:
            tools = (await one.list_tools()).tools
            assert (await other.list_tools()).tools == tools
            for client in (one, other, third):
                result = await client.call_tool("greet", {"name": "you", "times": 2})
                assert result.structured_content == {"result": ["hello you from True"] * 2}

    run(main)
    assert server.tool()(greet) is greet  # what is decorated stays the plain function


def test_resources_may_be_bounded_too(server, pools):
    @server.resource("shop://slept/{seconds}")
    @pools.bounded(deadline=1)
    def slept(seconds: str) -> str:
        sleep(pools.kit, seconds)
        return seconds

    async def main():
        async with Client(server) as client:
            assert (await client.read_resource("shop://slept/0")).contents[0].text == "0"
            with pytest.raises(MCPError, match="The database took too long"):
                await client.read_resource("shop://slept/30")

    run(main)


def test_what_is_wrong_is_refused_early(kit):
    with pytest.raises(ConfigError, match="kit must be a PoolKit, or a function that makes one"):
        Pools("postgresql://hush")
    with pytest.raises(ConfigError, match="deadline must be more than 0 seconds"):
        Pools(kit, deadline=0)
    with pytest.raises(ConfigError, match="threads must be 1 or more"):
        Pools(kit, threads=0)
    with pytest.raises(ConfigError, match="pools must be Pools, not a value of type PoolKit"):
        PooledServer("shop", pools=kit)
    with pytest.raises(ConfigError, match="deadline must be a number of seconds"):
        Pools(kit).bounded(deadline="soon")
    with pytest.raises(ConfigError, match="takes a function"):
        Pools(kit).bounded(3)
