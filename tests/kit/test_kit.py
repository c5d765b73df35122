"""A kit: its pools are opened, used, inspected and closed together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import pytest

import poolkit
from poolkit import ConfigError, HttpPool, PoolClosed, PoolKit, PostgresPool, RedisPool
from poolkit.core.events import Listener

from ..core.support import Task


class Order(Listener):
    """Notes what was opened and closed."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def opened(self, event: object) -> None:
        self._log.append(f"open {self._name}")

    def closed(self, event: object) -> None:
        self._log.append(f"close {self._name}")


@pytest.fixture
def nobody_configured() -> Iterator[None]:
    poolkit.configure(None)
    yield
    poolkit.configure(None)


def test_all_pools_are_reached_through_it(conninfo, redis_url):
    with PoolKit(postgres=conninfo, redis={"url": redis_url, "max_size": 3}) as kit:
        assert kit.postgres.query_one("select 1") == (1,)
        assert kit.redis.set("a", "b")
        assert isinstance(kit.http, HttpPool)
        assert kit.redis.config.max_size == 3
        assert {name: stats.operations for name, stats in kit.stats().items()}["redis"] >= 1
        assert list(kit.pools) == ["postgres", "redis", "http"]
        assert kit.health(now=True).ready


def test_pools_open_in_order_and_close_in_reverse(conninfo, redis_url):
    log: list[str] = []
    with PoolKit(
        redis=RedisPool(redis_url, listeners=[Order("redis", log)]),
        http=HttpPool(listeners=[Order("http", log)]),
        postgres=PostgresPool(conninfo, listeners=[Order("postgres", log)]),
    ):
        pass

    assert log == [
        "open postgres",
        "open redis",
        "open http",
        "close http",
        "close redis",
        "close postgres",
    ]


def test_when_one_can_not_open_those_before_it_are_closed(conninfo):
    log: list[str] = []
    db = PostgresPool(conninfo, listeners=[Order("postgres", log)])
    kit = PoolKit(
        postgres=db,
        redis={"url": "redis://127.0.0.1:1", "lazy_connect": False, "offline_queue": False},
    )

    with pytest.raises(poolkit.BackendUnavailable, match="redis"):
        kit.open()

    assert log == ["open postgres", "close postgres"]
    with pytest.raises(PoolClosed):
        db.query("select 1")
    kit.close()


def test_a_closed_kit_can_be_made_again_with_the_same_settings(conninfo):
    log: list[str] = []
    first = PoolKit(
        postgres={"conninfo": conninfo, "min_size": 1, "max_size": 3},
        http=False,
        name="shop",
        drain_timeout=1.5,
        listeners=[Order("a pool", log)],
    )
    assert first.state == "new"
    with first:
        assert first.state == "open"
    assert first.state == "closed"

    with first.again() as second:
        assert second.postgres.query_one("select 1") == (1,)
        assert list(second.pools) == ["postgres"]
        assert second.postgres.config.max_size == 3
        assert (second.name, second.drain_timeout) == ("shop", 1.5)
        assert [event.kind for event in second.events()] == ["ready", "opened"]
        assert len(second.postgres.config.listeners) == len(first.postgres.config.listeners)
    assert log == ["open a pool", "close a pool"] * 2
    assert [event.kind for event in first.events()] == ["closed", "ready", "opened"]


def test_a_pool_that_is_not_there_is_named_with_the_remedy():
    kit = PoolKit(http=False)

    for backend in ("postgres", "redis", "firestore"):
        with pytest.raises(ConfigError, match=f"has no {backend}: give {backend}="):
            getattr(kit, backend)
    with pytest.raises(ConfigError, match="has no http"):
        _ = kit.http


@pytest.mark.parametrize("given", [3, HttpPool()])
def test_what_is_no_pool_of_that_kind_is_refused(given):
    with pytest.raises(ConfigError, match="postgres must be a PostgresPool"):
        PoolKit(postgres=given)


def test_its_repr_says_how_the_pools_are(conninfo):
    with PoolKit(postgres=conninfo, http=False) as kit, kit.postgres.connection():
        assert repr(kit) == "<PoolKit 'poolkit' open: postgres 1/20 in use, 0 waiting>"
    assert repr(kit).startswith("<PoolKit 'poolkit' closed: ")


def test_one_drain_time_holds_over_all_pools(conninfo, redis_url, caplog):
    kit = PoolKit(postgres=conninfo, redis=redis_url, drain_timeout=0.4).open()
    holding = threading.Barrier(3)
    done = threading.Event()

    def hold(pool: PostgresPool | RedisPool) -> None:
        with pool.connection():
            holding.wait(30)
            done.wait(30)

    tasks = [Task(hold, kit.postgres), Task(hold, kit.redis)]
    holding.wait(30)
    began = perf_counter()
    kit.close()
    taken = perf_counter() - began
    done.set()
    for task in tasks:
        task.result()

    assert 0.4 <= taken < 2.0
    assert caplog.text.count("was closed while held by thread") == 2


def test_closing_what_is_idle_leaves_no_thread(conninfo, redis_url):
    before = set(threading.enumerate())
    with PoolKit(postgres=conninfo, redis=redis_url) as kit:
        kit.redis.get("a")

    assert set(threading.enumerate()) <= before


def test_two_kits_do_not_know_each_other(conninfo):
    with PoolKit(postgres=conninfo) as one:
        with PoolKit(postgres=conninfo) as other:
            assert other.postgres.query_one("select 1") == (1,)
        assert one.postgres.query_one("select 1") == (1,)


def test_a_kit_opened_before_a_fork_works_and_watches_in_both(conninfo, redis_url):
    with PoolKit(postgres=conninfo, redis=redis_url) as kit:
        kit.postgres.query_one("select 1")
        pid = os.fork()
        if pid == 0:
            try:
                fine = kit.postgres.query_one("select 1") == (1,) and kit.health(now=True).ready
                kit.close()
                os._exit(0 if fine else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert kit.postgres.query_one("select 1") == (1,)
        assert kit.health(now=True).ready


def test_a_fork_between_making_and_first_use_works_in_both(conninfo):
    kit = PoolKit(postgres=conninfo)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if kit.postgres.query_one("select 1") == (1,) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with kit:
        assert kit.postgres.query_one("select 1") == (1,)


def test_a_fork_between_open_and_first_use_works_and_watches_in_both(conninfo):
    with PoolKit(postgres=conninfo) as kit:
        pid = os.fork()
        if pid == 0:
            try:
                fine = kit.postgres.query_one("select 1") == (1,) and kit.health(now=True).live
                kit.close()
                os._exit(0 if fine else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert kit.postgres.query_one("select 1") == (1,)


def test_a_listener_that_raises_harms_nobody(redis_url, caplog):
    class Broken(Listener):
        def acquired(self, event: object) -> None:
            raise RuntimeError("my own fault")

    with PoolKit(redis={"url": redis_url, "combine": False}, listeners=[Broken()]) as kit:
        for _ in range(3):
            assert kit.redis.set("a", "b")

    assert caplog.text.count("the listener") == 1


def test_listeners_hear_of_all_pools_that_the_kit_makes(conninfo, redis_url):
    log: list[str] = []
    with PoolKit(postgres=conninfo, redis=redis_url, listeners=[Order("a pool", log)]):
        pass

    assert log == ["open a pool"] * 3 + ["close a pool"] * 3


def test_too_many_instances_for_the_server_are_warned_of(conninfo, caplog):
    caplog.set_level(logging.WARNING, "poolkit")
    with PoolKit(postgres={"conninfo": conninfo, "max_size": 30}, instances=50) as kit:
        kit.postgres.query_one("select 1")

    (said,) = [
        record.getMessage() for record in caplog.records if "instances" in record.getMessage()
    ]
    assert "50 instances may open 1500 connections in all" in said
    assert "lower max_size to 1" in said


def test_as_many_as_the_server_admits_are_not_warned_of(conninfo, caplog):
    with PoolKit(postgres={"conninfo": conninfo, "max_size": 20}, instances=2) as kit:
        kit.postgres.query_one("select 1")

    assert "instances" not in caplog.text


@pytest.mark.usefixtures("nobody_configured")
def test_the_shared_kit_is_the_one_configured():
    kit = PoolKit()

    assert poolkit.configure(kit) is kit
    assert poolkit.current() is kit


@pytest.mark.usefixtures("nobody_configured")
def test_without_a_shared_kit_the_error_says_what_to_do():
    with pytest.raises(ConfigError, match=r"call poolkit\.configure"):
        poolkit.current()
    with pytest.raises(ConfigError, match="must be a PoolKit"):
        poolkit.configure("kit")  # type: ignore[arg-type]


@contextmanager
def run(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # or one that hangs would be waited for


HOLDER = """
    import logging, sys, threading
    from poolkit import PoolKit

    logging.basicConfig(level="WARNING")
    kit = PoolKit(postgres=sys.argv[1], http=False, drain_timeout=0.5, close_on_sigterm=True).open()
    with kit.postgres.connection():
        print("ready", flush=True)
        while True:                       # Python may sleep through a signal that comes as a wait begins
            threading.Event().wait(0.1)
"""


def test_on_sigterm_it_closes_says_who_holds_and_the_process_ends_by_the_signal(conninfo):
    with run(HOLDER, conninfo) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = perf_counter()
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        status = process.wait(30)

    assert status == -signal.SIGTERM
    assert "was closed while held by thread 'MainThread'" in said
    assert perf_counter() - began < 10


OPENING = """
    import os, signal, sys, threading
    from poolkit import Listener, PoolKit

    class Told(Listener):
        def opened(self, event):
            if event.pool == "first":
                os.kill(os.getpid(), signal.SIGTERM)   # while the kit is being opened

    kit = PoolKit(
        postgres={"conninfo": sys.argv[1], "name": "first"}, close_on_sigterm=True, listeners=[Told()]
    )
    try:
        kit.open()
    except Exception as error:
        print(type(error).__name__, flush=True)
    while True:
        threading.Event().wait(0.1)
"""


def test_a_sigterm_while_it_opens_ends_the_process_by_the_signal(conninfo):
    with run(OPENING, conninfo) as process:
        began = perf_counter()
        assert process.wait(30) == -signal.SIGTERM
        assert process.stdout is not None
        said = process.stdout.read()
    assert "Traceback" not in said
    assert "Error" not in said
    assert perf_counter() - began < 20


HANDLED = """
    import signal, sys, threading
    from poolkit import PoolKit

    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(str(kit)))
    kit = PoolKit(postgres=sys.argv[1], close_on_sigterm=True).open()
    print("ready", flush=True)
    while not told:
        threading.Event().wait(0.1)
    print(told)
"""


def test_on_sigterm_whoever_handled_it_before_is_told_after_the_kit_has_closed(conninfo):
    with run(HANDLED, conninfo) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait(30) == 0

    assert "<PoolKit 'poolkit' closed" in said


NESTED = """
    import os, signal, threading
    from poolkit import PoolKit

    start = threading.Thread.start

    def slowly(thread):
        start(thread)
        thread.join(0.2)                  # as on a busy machine: the thread gets on, who started it does not

    def told(number, frame):
        while frame is not None and frame.f_code.co_name != "_told":
            frame = frame.f_back
        print("within the other" if frame else "by itself", flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, told)
    kit = PoolKit(http=False, close_on_sigterm=True).open()
    threading.Thread.start = slowly
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        threading.Event().wait(0.1)
"""


def test_whoever_handled_it_before_is_not_told_within_the_first_signals_handler():
    # It would hold up what that has interrupted, and may wait for it.
    with run(NESTED) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "by itself\n"


CLOSED_BESIDE = """
    import os, signal, threading
    from poolkit import PoolKit

    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    kit = PoolKit(http=False, close_on_sigterm=True).open()
    closing, go = threading.Event(), threading.Event()
    close = kit.close

    def slowly():
        closing.set()
        go.wait(30)
        close()

    kit.close = slowly
    os.kill(os.getpid(), signal.SIGTERM)
    closing.wait(30)
    close()                               # the main thread is quicker, and listens no more
    go.set()
    while not told:
        threading.Event().wait(0.01)
    threading.Event().wait(0.3)           # time for more of it
    print(len(told))
"""


def test_who_listens_after_the_kit_is_told_of_a_sigterm_once():
    with run(CLOSED_BESIDE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "1\n"
        assert process.wait(30) == 0


def test_sigterm_can_be_heard_in_the_main_thread_only():
    kit = PoolKit(http=False, close_on_sigterm=True)

    error = Task(kit.open).end()

    assert isinstance(error, ConfigError)
    assert "main thread" in str(error)


def test_closing_it_leaves_the_signal_as_it_was():
    before = signal.getsignal(signal.SIGTERM)
    with PoolKit(http=False, close_on_sigterm=True):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
