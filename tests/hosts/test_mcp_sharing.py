"""The kit that the clients of an MCP server share: who opens it, who waits for that, and who closes it."""

from __future__ import annotations

import threading

import anyio
import pytest

from poolkit import BackendUnavailable, PoolKit, PoolTimeout
from poolkit.hosts.mcp import Pools
from poolkit.hosts.mcp.sharing import SharedKit

from ..core.support import LONG, Task, eventually
from .mcp_support import happens, run


class Held(PoolKit):
    """A kit whose opening, or closing, goes on for as long as the test says, and then fails if it says so."""

    def __init__(self) -> None:
        super().__init__(http={}, watch=None)
        self.begun = {"open": threading.Event(), "close": threading.Event()}
        self.go_on = {"open": threading.Event(), "close": threading.Event()}
        self.error: Exception | None = None

    def open(self):
        self._hold("open")
        if self.error is not None:
            raise self.error
        return super().open()

    def close(self, timeout=None):
        self._hold("close")
        super().close(timeout)

    def _hold(self, step):
        self.begun[step].set()
        assert self.go_on[step].wait(LONG)


@pytest.fixture
def held():
    """Give kits that are held, in the order in which they are made."""
    kits = [Held(), Held()]
    yield kits
    for kit in kits:
        kit.go_on["close"].set()
        kit.close()


def maker(kits):
    """Return a function that makes one of *kits* after the other."""
    left = iter(kits)
    return lambda: next(left)


def use(shared):
    """Be one more who wants it."""
    shared.join()
    return shared.open()


def test_one_opens_it_and_all_others_wait_for_that(held):
    shared = SharedKit(maker(held))
    first = Task(use, shared)
    assert held[0].begun["open"].wait(LONG)
    others = [Task(use, shared) for _ in range(3)]
    for other in others:
        eventually(lambda other=other: other.is_in("wait"))
    held[0].go_on["open"].set()
    assert [task.result() for task in (first, *others)] == [held[0]] * 4
    assert held[0].state == "open"
    held[0].go_on["close"].set()
    for _ in range(3):
        shared.leave()
        assert held[0].state == "open"
    shared.leave()
    assert held[0].state == "closed"
    assert not held[1].begun["open"].is_set()


def test_nobody_who_does_not_need_it_waits_while_it_opens(held):
    shared = SharedKit(maker(held))
    first = Task(use, shared)
    assert held[0].begun["open"].wait(LONG)
    shared.join()
    Task(shared.leave).result()  # one that was cancelled before it began to wait, say
    assert first.is_alive()
    held[0].go_on["open"].set()
    first.result()
    held[0].go_on["close"].set()
    shared.leave()
    assert held[0].state == "closed"


def test_a_failed_opening_is_told_to_all_who_wait_and_the_next_one_begins_anew(held):
    shared = SharedKit(maker(held))
    held[0].error = BackendUnavailable("it is not there")
    held[0].go_on["close"].set()
    first = Task(use, shared)
    assert held[0].begun["open"].wait(LONG)
    second = Task(use, shared)
    eventually(lambda: second.is_in("wait"))
    held[0].go_on["open"].set()
    assert first.end() is second.end() is held[0].error
    assert held[0].state == "closed"
    held[1].go_on["open"].set()
    assert use(shared) is held[1]  # though those who were told have not left yet
    held[1].go_on["close"].set()
    for _ in range(3):
        shared.leave()
    assert held[1].state == "closed"


def test_a_function_that_makes_no_kit_is_told_to_all_who_wait(held):
    begun, go_on = threading.Event(), threading.Event()
    left = maker(held)

    def make():
        if begun.is_set():
            return left()
        begun.set()
        assert go_on.wait(LONG)
        raise LookupError("no settings")

    shared = SharedKit(make)
    first = Task(use, shared)
    assert begun.wait(LONG)
    second = Task(use, shared)
    eventually(lambda: second.is_in("wait"))
    go_on.set()
    for task in (first, second):
        with pytest.raises(LookupError, match="no settings"):
            task.result()
        shared.leave()
    held[0].go_on["open"].set()
    assert use(shared) is held[0]
    held[0].go_on["close"].set()
    shared.leave()


def test_a_kit_that_failed_to_open_is_followed_by_one_with_the_same_settings(redis_url):
    kit = PoolKit(
        redis={"url": redis_url, "lazy_connect": False, "command_timeout": 4.5},
        http=False,
        watch=None,
    )
    shared = SharedKit(kit)
    failures = [BackendUnavailable("it is not there")]

    def fail_once():
        if failures:
            raise failures.pop()

    shared.join()
    kit.redis.when_opened(fail_once)
    with pytest.raises(BackendUnavailable):
        shared.open()
    assert kit.state == "closed"
    again = shared.open()
    assert again is not kit
    assert again.redis.config.command_timeout == 4.5
    assert again.redis.execute("PING") == "PONG"
    shared.leave()
    assert again.state == "closed"


def test_who_comes_while_it_closes_waits_for_that_and_has_the_next_one(held):
    shared = SharedKit(maker(held))
    held[0].go_on["open"].set()
    use(shared)
    last = Task(shared.leave)
    assert held[0].begun["close"].wait(LONG)
    late = Task(use, shared)
    eventually(lambda: late.is_in("wait"))
    assert not held[1].begun["open"].is_set()  # never two kits' connections at a time
    held[1].go_on["open"].set()
    held[0].go_on["close"].set()
    last.result()
    assert late.result() is held[1]
    assert (held[0].state, held[1].state) == ("closed", "open")
    held[1].go_on["close"].set()
    shared.leave()


@pytest.mark.parametrize("step", ["open", "close"])
def test_nobody_waits_for_another_one_without_bound(step, held):
    shared = SharedKit(maker(held), patience=0.05)
    if step == "close":
        held[0].go_on["open"].set()
        use(shared)
    busy = Task(use if step == "open" else SharedKit.leave, shared)
    assert held[0].begun[step].wait(LONG)
    with pytest.raises(PoolTimeout, match=r"not open within 0\.05 s: another client"):
        use(shared)
    Task(shared.leave).result()  # bounded too
    held[0].go_on[step].set()
    busy.result()
    if step == "open":
        held[0].go_on["close"].set()
        shared.leave()
    assert held[0].state == "closed"


def test_what_is_open_when_all_have_left_is_closed_by_who_opened_it(held):
    shared = SharedKit(maker(held), patience=0.05)
    opener = Task(use, shared)
    assert held[0].begun["open"].wait(LONG)
    Task(shared.leave).result()  # it has waited long enough
    held[0].go_on["open"].set()
    held[0].go_on["close"].set()
    opener.result()
    assert held[0].state == "closed"


def test_a_client_that_is_cancelled_while_another_one_opens_leaves_at_once(held, monkeypatch):
    pools = Pools(maker(held))
    waits = threading.Event()
    original = pools._shared.open

    def noted():
        if held[0].begun["open"].is_set():
            waits.set()
        return original()

    monkeypatch.setattr(pools._shared, "open", noted)

    async def live():
        async with pools.lifespan():
            pass

    async def cancel(scope):
        await happens(waits.is_set)
        scope.cancel()

    async def main():
        async with anyio.create_task_group() as others:
            others.start_soon(live)
            await happens(held[0].begun["open"].is_set)
            with anyio.CancelScope() as scope:
                others.start_soon(cancel, scope)
                await live()
            assert scope.cancelled_caught
            assert held[0].state == "new"
            held[0].go_on["open"].set()
            held[0].go_on["close"].set()
        assert held[0].state == "closed"

    run(main)
