"""Calls of an MCP server, as a model and a program meet them: their end, what they leave, and how failures are told."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Annotated

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver.resolve import Resolve
from mcp.shared.exceptions import MCPError

from poolkit import (
    BackendUnavailable,
    ConfigError,
    OutcomeUnknown,
    PoolKit,
    PoolTimeout,
    deadline,
)
from poolkit.core.deadline import ambient
from poolkit.hosts.mcp import CallFailed, PooledServer, Pools

from .mcp_support import failure, happens, run, said


@pytest.fixture
def pools():
    """Give pools whose kit connects to nothing."""
    kit = PoolKit(http={}, watch=None)
    yield Pools(kit, deadline=20.0)
    kit.close()


@pytest.fixture
def server(pools):
    """Give a server with these pools."""
    return PooledServer("shop", pools=pools, log_level="CRITICAL")


# -- the end of a coroutine --------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_that_a_tool_has_started_goes_on_after_its_end(pools, fails):
    async def main():
        over = anyio.Event()
        tasks = []

        async def go_on():
            await over.wait()
            return ambient()

        @pools.bounded
        async def start():
            tasks.append(asyncio.create_task(go_on()))
            if fails:
                raise KeyError("mine")

        if fails:
            with pytest.raises(KeyError):
                await start()
        else:
            await start()
        over.set()
        assert not (await tasks[0]).expired

    run(main)


def test_a_task_that_a_tool_has_started_is_cancelled_with_the_call(pools):
    async def main():
        tasks = []

        async def go_on():
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.05)
            return ambient()

        @pools.bounded
        async def start():
            tasks.append(asyncio.create_task(go_on()))
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(start)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert (await tasks[0]).expired

    run(main)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_comes_out_of_a_tool_as_it_is(pools, kind):
    @pools.bounded
    async def leave():
        raise kind(3)

    async def main():
        with pytest.raises(kind) as caught:
            await leave()
        assert caught.value.args == (3,)

    run(main)


# -- what is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([PoolTimeout("hush-1")], "busy"),
        ([PoolTimeout("hush-1"), BackendUnavailable("hush-2", retry_after=9.0)], "unreachable"),
        ([BackendUnavailable("hush-2"), PoolTimeout("hush-1")], "unreachable"),
        ([OutcomeUnknown("hush-3"), BackendUnavailable("hush-2")], "outcome_unknown"),
    ],
)
def test_of_what_failed_side_by_side_the_worst_is_told_and_all_is_logged(
    server, caplog, errors, reason
):
    async def fail(error):
        await anyio.lowlevel.checkpoint()
        raise error

    @server.tool()
    async def several() -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            for error, group in zip(errors, (outer, inner), strict=False):
                group.start_soon(fail, error)

    async def main():
        async with Client(server) as client:
            result = await client.call_tool("several")
            assert failure(result)["reason"] == reason
            assert "hush" not in said(result)

    run(main)
    assert "tool 'several' failed" in caplog.text
    for error in errors:
        assert f"{type(error).__name__}: {error}" in caplog.text


@pytest.mark.parametrize("other", [KeyError("mine"), ConfigError("hush")])
def test_a_group_with_anothers_error_in_it_is_left_to_the_server(server, other):
    async def fail(error):
        await anyio.lowlevel.checkpoint()
        raise error

    @server.tool()
    async def several() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail, PoolTimeout("hush"))
            group.start_soon(fail, other)

    async def main():
        async with Client(server) as client:
            result = await client.call_tool("several")
            assert said(result) == "Error executing tool several"

    run(main)


@pytest.mark.parametrize("allowed", [20.0, float("inf")])
def test_a_tools_own_deadline_is_not_told_as_that_of_the_call(server, pools, allowed):
    @server.tool()
    @pools.bounded(deadline=allowed)
    def hurried() -> None:
        with deadline(0) as mine:
            raise mine.exceeded("hush", stage="running")

    async def main():
        async with Client(server) as client:
            result = await client.call_tool("hurried")
            assert failure(result)["reason"] == "too_slow"
            assert said(result) == (
                "A service behind this tool took too long: it was stopped while running. "
                "It may be tried again; asking for less may help."
            )

    run(main)


def test_a_bounded_prompt_says_what_failed_and_another_error_stays_the_servers(server, pools):
    @server.prompt()
    @pools.bounded
    def busy() -> str:
        raise PoolTimeout("hush")

    @server.prompt()
    @pools.bounded
    def broken() -> str:
        raise KeyError("hush")

    async def main():
        async with Client(server) as client:
            with pytest.raises(
                MCPError, match=r"A service .* is busy\. Try again in 2 s\."
            ) as told:
                await client.get_prompt("busy")
            assert told.value.data["poolkit/failure"]["reason"] == "busy"
            with pytest.raises(MCPError, match="Internal server error"):
                await client.get_prompt("broken")

    run(main)


def test_a_bounded_resolver_has_a_deadline_and_says_what_failed(server, pools):
    @pools.bounded(deadline=3)
    def user() -> str:
        budgets.append(ambient().budget)
        raise PoolTimeout("hush")

    budgets = []

    def greet(name) -> str:
        return name

    greet.__annotations__["name"] = Annotated[str, Resolve(user)]  # it is local
    server.tool()(greet)

    async def main():
        async with Client(server) as client:
            assert failure(await client.call_tool("greet"))["reason"] == "busy"

    run(main)
    assert budgets == [3.0]


# -- what is bounded ---------------------------------------------------------------------------------------


def test_what_wraps_a_bounded_function_is_bounded_itself(server, pools):
    def checked(fn):
        @functools.wraps(fn)
        async def wrapper():
            budgets.append(ambient().budget)
            raise PoolTimeout("hush")

        return wrapper

    budgets = []

    @server.tool()
    @checked
    @pools.bounded
    def tool() -> None: ...

    async def main():
        async with Client(server) as client:
            assert failure(await client.call_tool("tool"))["reason"] == "busy"

    run(main)
    assert budgets == [20.0]


def test_a_bounded_method_is_bounded_once(server, pools):
    class Shop:
        @pools.bounded(deadline=100)
        def tool(self) -> None:
            budgets.append(ambient().budget)

    budgets = []
    server.add_tool(Shop().tool)

    async def main():
        async with Client(server) as client:
            assert not (await client.call_tool("tool")).is_error

    run(main)
    assert budgets == [100.0]


class Adds:
    def __call__(self, one: int) -> int:
        return one + 2


@pytest.mark.parametrize("fn", [functools.partial(pow, exp=2), Adds()])
def test_what_has_no_name_is_refused(server, pools, fn):
    kind = type(fn).__name__
    with pytest.raises(ConfigError, match=f"has a name, not a value of type {kind}"):
        server.add_tool(fn, name="tool")
    with pytest.raises(ConfigError, match="call it in a function made with def"):
        pools.bounded(fn, name="tool")


# -- threads -----------------------------------------------------------------------------------------------


def test_where_no_event_loop_runs_it_is_said_how_to_ask_for_the_threads(pools):
    @pools.bounded
    def tool():
        with pytest.raises(ConfigError, match="none runs here"):
            _ = pools.threads
        return anyio.from_thread.run_sync(lambda: pools.threads)

    async def main():
        assert await tool() is pools.threads

    run(main)
    with pytest.raises(ConfigError, match=r"ask in a coroutine, or with anyio\.from_thread"):
        _ = pools.threads


def test_a_call_that_is_left_to_itself_keeps_its_thread_until_it_ends(monkeypatch):
    monkeypatch.setattr("poolkit.hosts.mcp.threads.GRACE", 0.05)
    pools = Pools(PoolKit(http={}, watch=None), threads=2, deadline=20)
    begun = threading.Semaphore(0)
    running = []
    go_on = threading.Event()

    @pools.bounded
    def deaf() -> None:
        running.append(None)
        begun.release()
        assert go_on.wait(20)

    @pools.bounded(deadline=0.05)
    def hurried() -> None:
        running.append(None)

    async def main():
        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(deaf)
                assert await anyio.to_thread.run_sync(begun.acquire, True, 20)
                group.cancel_scope.cancel()
        assert pools.threads.busy == 2
        with pytest.raises(CallFailed, match="The server is busy"):
            await hurried()
        assert len(running) == 2

        go_on.set()
        threads = pools.threads
        await happens(lambda: threads.busy == 0)
        assert await pools.bounded(lambda: "served")() == "served"

    run(main)


# -- lifespans that are cancelled --------------------------------------------------------------------------


def test_a_lifespan_that_is_cancelled_as_the_kit_opens_closes_it_again():
    begun, go_on = threading.Event(), threading.Event()
    made = []

    def make():
        begun.set()
        assert go_on.wait(20)
        made.append(PoolKit(http={}, watch=None))
        return made[-1]

    pools = Pools(make)

    async def live():
        async with pools.lifespan():
            raise AssertionError("it was cancelled")

    async def main():
        living = asyncio.create_task(live())
        await happens(begun.is_set)
        living.cancel()
        await anyio.lowlevel.checkpoint()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await living
        assert [kit.state for kit in made] == ["closed"]

        async with pools.lifespan():
            assert pools.kit is made[1]
        assert [kit.state for kit in made] == ["closed", "closed"]

    run(main)


def test_a_lifespan_that_is_cancelled_before_it_begins_opens_nothing(pools):
    async def live():
        async with pools.lifespan():
            raise AssertionError("it was cancelled")

    async def main():
        for steps in range(4):
            living = asyncio.create_task(live())
            for _ in range(steps):
                await asyncio.sleep(0)
            living.cancel()
            with pytest.raises(asyncio.CancelledError):
                await living
            assert pools.kit.state in ("new", "closed")

    run(main)
