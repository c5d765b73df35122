"""The last rare events of a kit: bounded, floods counted, nothing secret, nothing of what each request does."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from contextlib import suppress

import psycopg
import pytest

from poolkit import (
    BackendUnavailable,
    OutcomeUnknown,
    PoolKit,
    PoolTimeout,
    ResponseTooLarge,
    WatchSettings,
)
from poolkit.core import events as told
from poolkit.core.events import Events
from poolkit.kit import recent
from poolkit.kit.recent import FLOOD, KEPT, RecentEvents
from poolkit.kit.watching import Watching

from ..core.support import Task, eventually, together

NEVER = 3600.0


@pytest.fixture
def clock(monkeypatch):
    """Give the time that events get, to be changed."""

    class Clock:
        now = 1000.0

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(recent, "time", clock)
    return clock


def kinds(kit):
    return [event.kind for event in kit.events()]


def failed(events: RecentEvents, error: BaseException, pool: str = "db") -> None:
    events.failed(told.Failed(pool=pool, error=error))


def test_a_pool_that_works_leaves_no_trace_but_that_it_was_opened_and_closed(conninfo, redis_url):
    with PoolKit(postgres=conninfo, redis=redis_url, http=False, watch=None) as kit:
        for _ in range(50):
            kit.postgres.query("select 1")
            kit.redis.get("a")
    assert sorted(kinds(kit)) == ["closed", "closed", "opened", "opened", "ready", "ready"]


def test_it_listens_to_nothing_that_happens_at_each_request():
    events = Events("db", [RecentEvents()])
    for kind in (told.Acquired, told.Released, told.Ended, told.Connected):
        assert not events.wanted(kind)
    assert events.wanted(told.Failed)


def test_a_backend_that_goes_and_comes_back_is_told_in_order(own_redis):
    server = own_redis()
    redis = {"url": server.url, "offline_queue": False, "name": "cache"}
    with PoolKit(redis=redis, http=False, watch=None) as kit:
        kit.redis.get("a")
        server.kill()
        with pytest.raises(BackendUnavailable):
            while True:  # the first may still be answered
                kit.redis.get("a")
        server.start()
        eventually(lambda: kinds(kit)[0] == "ready")
        back, *before = kit.events()
        lost = next(event for event in before if event.kind == "reconnecting")

    assert back.level == "good"
    assert lost.level == "error"
    assert lost.pool == "cache"
    assert "refused" in lost.text
    assert lost.first <= lost.last <= back.first


def test_a_flood_is_one_event_with_a_count(clock):
    events = RecentEvents()
    failed(events, OutcomeUnknown("lost"))
    for number in range(1000):
        clock.now += 0.001
        failed(events, BackendUnavailable(f"pool 'db': away, {number} wait"))

    flood, first = events.all()
    assert (first.count, flood.count) == (1, 1000)
    assert flood.text == "BackendUnavailable: pool 'db': away, 999 wait"
    assert flood.first == pytest.approx(1000.001)
    assert flood.last == pytest.approx(1001.0)


def test_what_happens_again_later_is_another_event(clock):
    events = RecentEvents()
    failed(events, OutcomeUnknown("lost"))
    clock.now += FLOOD + 1
    failed(events, OutcomeUnknown("lost"))
    assert [event.count for event in events.all()] == [1, 1]


def test_pools_and_kinds_are_not_mixed(clock):
    events = RecentEvents()
    failed(events, OutcomeUnknown("lost"))
    failed(events, ResponseTooLarge("more"))
    failed(events, OutcomeUnknown("lost"), pool="other")
    events.retried(told.Retried(pool="db", attempt=1, delay=0.1, error=ValueError()))
    assert [event.count for event in events.all()] == [1, 1, 1, 1]


def test_a_return_is_not_counted_with_the_one_before_the_loss(clock):
    events = RecentEvents()
    for _ in range(3):
        events.ready(told.Ready(pool="web"))  # the hosts of an HttpPool, say
    events.reconnecting(told.Reconnecting(pool="web", attempt=1, delay=0.1, error=OSError("gone")))
    events.ready(told.Ready(pool="web"))
    assert [(e.kind, e.count) for e in events.all()] == [
        ("ready", 1),
        ("reconnecting", 1),
        ("ready", 3),
    ]


def test_no_more_than_two_hundred_are_kept_and_no_long_text(clock):
    events = RecentEvents()
    for number in range(2 * KEPT):
        failed(events, BackendUnavailable("away " * 1000), pool=f"pool {number}")
    kept = events.all()
    assert len(kept) == KEPT
    assert kept[0].pool == f"pool {2 * KEPT - 1}"
    assert all(len(event.text) <= recent.LONGEST for event in kept)


def test_counts_are_exact_after_many_threads():
    events = RecentEvents()
    together(8, lambda _: [failed(events, OutcomeUnknown("lost")) for _ in range(500)])
    assert sum(event.count for event in events.all()) == 4000


def test_what_the_caller_did_wrong_is_no_event(conninfo):
    with PoolKit(postgres=conninfo, http=False, watch=None) as kit:
        for _ in range(3):
            with pytest.raises(psycopg.Error):
                kit.postgres.query("select %s::int", ["hunter2"])
        assert set(kinds(kit)) == {"opened", "ready"}


def test_of_errors_of_drivers_only_the_kind_is_told():
    events = RecentEvents()
    events.retried(told.Retried(pool="db", attempt=1, delay=0.1, error=ValueError("hunter2")))
    assert events.all()[0].text == "an attempt failed and is repeated: ValueError"


def test_many_kinds_of_errors_at_once_cost_no_search(clock):
    class Compared(str):
        """A name of a pool that counts how often it is compared."""

        times = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Compared.times += 1
            return str(self) == other

    events = RecentEvents()
    names = [Compared(f"pool {number}") for number in range(KEPT - 1)]
    for name in 2 * names:
        failed(events, OutcomeUnknown("lost"), pool=name)
    assert [event.count for event in events.all()] == [2] * len(names)
    assert Compared.times < 20 * len(names)  # a search compares half of them each time


def test_a_leak_and_its_end_are_told(redis_url):
    over = threading.Event()
    watch = WatchSettings(health_every=NEVER, leaks_every=0.05)
    redis = {"url": redis_url, "leak_threshold": 0.1}

    def hold(kit):
        with kit.redis.connection():
            over.wait(30)

    with PoolKit(redis=redis, http=False, watch=watch) as kit:
        holder = Task(hold, kit, name="forgetful")
        eventually(lambda: "overdue" in kinds(kit))
        over.set()
        holder.result()
        eventually(lambda: "given back" in kinds(kit))
        told_of = next(event for event in kit.events() if event.kind == "overdue")
    assert "'forgetful'" in told_of.text
    assert "test_recent.py" in told_of.text


def test_health_that_changes_is_told(own_redis):
    server = own_redis()
    watch = WatchSettings(health_every=0.05, leaks_every=NEVER)
    redis = {"url": server.url, "offline_queue": False}
    with PoolKit(redis=redis, http=False, watch=watch) as kit:
        assert kit.health().ready
        server.kill()
        eventually(lambda: not kit.last_health().ready)
        server.start()
        eventually(lambda: kit.last_health().ready)
        eventually(lambda: kinds(kit).count("health") >= 2)
        back, gone = (event for event in kit.events() if event.kind == "health")
    assert (gone.level, back.level) == ("error", "good")
    assert "unavailable" in gone.text


def test_an_exhausted_pool_is_told_without_the_list_of_its_holders(redis_url):
    redis = {"url": redis_url, "max_size": 1, "acquire_timeout": 0.05}
    with PoolKit(redis=redis, http=False, watch=None) as kit:
        with kit.redis.connection():
            assert isinstance(Task(kit.redis.get, "a").end(), PoolTimeout)
        told_of = next(event for event in kit.events() if event.kind == "timed out")
    assert "no connection within" in told_of.text
    assert "\n" not in told_of.text


def test_a_forked_child_begins_with_none(redis_url):
    with PoolKit(redis=redis_url, http=False, watch=None) as kit:
        kit.redis.get("a")
        assert kit.events()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                os._exit(0 if not kit.events() else 1)
            os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert kit.events()


class Companion:
    """Writes down what it is told."""

    def __init__(self):
        self.log = []

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")


def test_a_companion_is_there_as_long_as_the_kit_is_open(redis_url):
    early, late = Companion(), Companion()
    kit = PoolKit(redis=redis_url, http=False, watch=None)
    kit.accompany(early)
    assert early.log == []
    kit.redis.get("a")  # opens it
    kit.accompany(late)
    assert (early.log, late.log) == (["start"], ["start"])
    kit.close()
    assert (early.log, late.log) == (["start", "stop"], ["start", "stop"])


def test_a_companion_that_is_dropped_is_let_go_of():
    class Once(Companion):
        def stop(self):
            raise AssertionError("it should be gone")

    with PoolKit(http=False, watch=None) as kit:
        kept, dropped = Companion(), Once()
        kit.accompany(kept)
        kit.accompany(dropped)
        gone = weakref.ref(dropped)
        del dropped
        gc.collect()
        assert gone() is None
        assert list(kit._companions) == [kept]
    assert kept.log == ["start", "stop"]


@pytest.mark.parametrize("step", ["start", "accompany"])
def test_nothing_begins_in_a_kit_that_is_closed_meanwhile(step, monkeypatch):
    begin = getattr(Watching, step)

    def close_before(watching, *given):
        kit.close()
        begin(watching, *given)

    monkeypatch.setattr(Watching, step, close_before)
    companion = Companion()
    kit = PoolKit(http=False)
    if step == "start":
        kit.accompany(companion)
        kit.open()
    else:
        kit.open()
        kit.accompany(companion)
    assert kit.state == "closed"
    assert "start" not in companion.log
    assert not any(thread.name == "poolkit-housekeeper" for thread in threading.enumerate())


@pytest.mark.parametrize("opened", [False, True])
def test_a_kit_can_be_closed_while_a_companion_starts_which_is_stopped_then(opened):
    kit = PoolKit(http=False, watch=None)

    class Slow(Companion):
        def start(self):
            Task(kit.close).result()
            super().start()

    companion = Slow()
    steps = [kit.open, lambda: kit.accompany(companion)]
    for step in steps if opened else reversed(steps):
        step()
    assert kit.state == "closed"
    assert companion.log == ["stop", "start", "stop"]


def test_what_the_last_checks_found_is_said_without_opening_anything(redis_url):
    kit = PoolKit(redis=redis_url, http=False)
    assert kit.last_health().pools == {}
    assert kit.state == "new"
    with kit:
        eventually(lambda: kit.last_health().pools)
        assert kit.state == "open"
    assert kit.state == "closed"
