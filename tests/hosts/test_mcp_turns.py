"""How many calls have a thread: in order, few while the process is busy, more while it has time, never too many."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from poolkit.core.deadline import NEVER, Deadline
from poolkit.hosts.mcp import turns as module
from poolkit.hosts.mcp.turns import FEW, TICK, Turns

from .mcp_support import run


async def hold(turns, until=NEVER):
    """Take a turn, and return it."""
    turn = object()
    assert await turns.take(turn, until)
    return turn


async def settle():
    """Let the other tasks go on, as far as they can without time passing."""
    await anyio.wait_all_tasks_blocked()


def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    async def main():
        turns = Turns(1)
        first = await hold(turns)
        order = []

        async def ask(number):
            turn = await hold(turns)
            order.append(number)
            turns.give_back(turn)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(ask, number)
                await settle()
            assert turns.waiting == 5
            turns.give_back(first)
        assert order == [0, 1, 2, 3, 4]
        assert (turns.running, turns.waiting) == (0, 0)

    run(main)


def test_there_are_more_while_calls_wait_and_the_process_has_time(monkeypatch):
    monkeypatch.setattr(module, "process_time", lambda: 0.0)

    async def main():
        turns = Turns(25)

        async def ask():
            turn = await hold(turns)
            peak.append(turns.running)
            await over.wait()
            turns.give_back(turn)

        peak = []
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(ask)
            await settle_until(lambda: turns.running == 25)
            await anyio.sleep(5 * TICK)
            assert (turns.running, turns.waiting) == (25, 35)
            over.set()
        assert max(peak) == 25
        assert (turns.running, turns.waiting) == (0, 0)

    run(main)


def test_there_are_few_while_the_process_is_busy(monkeypatch):
    monkeypatch.setattr(module, "process_time", time.perf_counter)

    async def main():
        turns = Turns(100)
        async with asking(turns):
            await anyio.sleep(10 * TICK)
            assert turns.limit < 3 * FEW

    run(main)


def test_one_that_waits_for_less_than_from_look_to_look_does_not_put_the_look_off(monkeypatch):
    monkeypatch.setattr(module, "TICK", 0.3)
    monkeypatch.setattr(module, "LATE", math.inf)
    monkeypatch.setattr(module, "process_time", lambda: 0.0)

    async def main():
        turns = Turns(100)
        async with asking(turns):
            with anyio.fail_after(10):
                await settle_until(lambda: turns.limit > FEW)

    run(main)


@asynccontextmanager
async def asking(turns):
    """Have many ask for turns again and again, which they give back at once."""

    async def ask():
        while True:
            turn = await hold(turns)
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                turns.give_back(turn)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
        yield
        group.cancel_scope.cancel()


def test_calls_that_do_not_end_do_not_keep_others_from_beginning(monkeypatch):
    monkeypatch.setattr(module, "process_time", time.perf_counter)

    async def main():
        turns = Turns(30)
        over = anyio.Event()

        async def ask():
            turn = await hold(turns)
            await over.wait()
            turns.give_back(turn)

        async with anyio.create_task_group() as group:
            for _ in range(31):
                group.start_soon(ask)
            await settle_until(lambda: turns.running == 30)
            over.set()

    run(main)


def test_one_that_waits_in_vain_is_told_so_and_forgotten():
    async def main():
        turns = Turns(1)
        first = await hold(turns)
        assert not await turns.take(object(), Deadline.after(3 * TICK))
        assert turns.waiting == 0
        turns.give_back(first)
        turns.give_back(await hold(turns, Deadline.after(0)))

    run(main)


@pytest.mark.parametrize("granted", [False, True])
def test_one_that_is_cancelled_takes_no_turn_with_it(granted):
    """Even if it was given one at the same moment."""

    async def main():
        turns = Turns(1)
        first = await hold(turns)
        asking = asyncio.create_task(hold(turns))
        await settle()
        if granted:
            turns.give_back(first)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        if not granted:
            assert turns.running == 1
            turns.give_back(first)
        assert (turns.running, turns.waiting) == (0, 0)
        turns.give_back(await hold(turns))

    run(main)


async def settle_until(condition):
    """Wait until *condition* holds."""
    while not condition():  # noqa: ASYNC110 - nothing tells
        await anyio.sleep(TICK / 4)
