"""The faults: what each does to a server, to the way there, or to the process that calls it; and how it ends."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from poolkit import PoolKitError, deadline
from tests.core.support import Task
from tests.faults.bookkeeper import Fate
from tests.faults.crew import Crew
from tests.faults.proxy import FaultProxy, Way
from tests.faults.proxy_apart import ProxyApart
from tests.faults.subjects import ELSEWHERE, HOST, NAMES, SIZE, Subject
from tests.faults.tampering import Change, Tampering, break_off, break_off_midway, scramble
from tests.http.dns import ScriptedDns


def but(*fit: str, why: str) -> dict[str, str]:
    """Return *why* for all subjects but those that are *fit*."""
    return dict.fromkeys((name for name in NAMES if name not in fit), why)


REPLACED = {
    "sentinel": "sentinels lead past a proxy, and replace a server that fails: see failover",
    "cluster": "its nodes name each other past a proxy, and replace one that fails: see failover",
}

OUR_DRIVER_LOOKS_UP = {
    "postgres": "libpq looks names up by itself, out of a test's reach",
    "pgbouncer": "libpq looks names up by itself, out of a test's reach",
    "standby": "libpq looks names up by itself, out of a test's reach",
    "firestore": "grpc looks names up by itself, out of a test's reach",
}


@dataclass
class Stage:
    """Where a fault is played: a subject, the way to it, and its callers."""

    subject: Subject
    proxy: FaultProxy | ProxyApart
    crew: Crew
    names: ScriptedDns
    dice: random.Random
    forgot: float = field(default=float("-inf"), init=False)
    """The moment at which the server had ended, if it has."""

    def end(self, how: Callable[[], object]) -> None:
        """End the server."""
        how()
        self.forgot = time.monotonic()


Play = Callable[[Stage], Iterator[None]]


@dataclass(frozen=True)
class Fault:
    """A fault by its *name*: :meth:`within` is applied when it is entered, and undone when it is left.

    ``unfit`` says why it can't be shown on a subject, by the subject's name.
    """

    name: str
    play: Play
    unfit: Mapping[str, str] = field(default_factory=dict, compare=False)

    def within(self, stage: Stage) -> AbstractContextManager[None]:
        """Return it as a context manager, for one time."""
        return contextmanager(self.play)(stage)


FAULTS: list[Fault] = []


def fault(name: str, **unfit: str) -> Callable[[Play], Play]:
    """Make a fault of a generator: what comes before its ``yield`` applies it, what comes after undoes it."""

    def add(play: Play) -> Play:
        FAULTS.append(Fault(name, play, unfit))
        return play

    return add


@contextmanager
def meanwhile(do: Callable[[], Any], every: float) -> Iterator[None]:
    """Call *do* again and again while the block lasts."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            do()
            over.wait(every)

    task = Task(work, name="meanwhile")
    try:
        yield
    finally:
        over.set()
        task.result()


# -- nothing --------------------------------------------------------------------------------------------


@fault("none")
def nothing(stage: Stage) -> Iterator[None]:
    yield


# -- the server -----------------------------------------------------------------------------------------


@fault("killed and restarted", **REPLACED)
def killed(stage: Stage) -> Iterator[None]:
    stage.end(stage.subject.server.kill)
    yield
    stage.subject.server.start()


@fault("shut down and restarted", **REPLACED)
def shut_down(stage: Stage) -> Iterator[None]:
    stage.end(stage.subject.server.stop)  # type: ignore[attr-defined]
    yield
    stage.subject.server.start()


@fault("frozen", **REPLACED)
def frozen(stage: Stage) -> Iterator[None]:
    stage.subject.server.pause()
    yield
    stage.subject.server.resume()


@fault(
    "connections ended by the server",
    sentinel=REPLACED["sentinel"],
    http="a server ends connections as a reset or its end does",
    https="a server ends connections as a reset or its end does",
    firestore="the emulator can't be told to",
)
def evicted(stage: Stage) -> Iterator[None]:
    with meanwhile(stage.subject.evict, 0.1):  # type: ignore[attr-defined]
        yield


@fault(
    "connection limit reached",
    sentinel=REPLACED["sentinel"],
    http="a full server is one that accepts nobody: black hole, refused",
    https="a full server is one that accepts nobody: black hole, refused",
    firestore="the emulator has no limit",
)
def crowded(stage: Stage) -> Iterator[None]:
    with stage.subject.crowd():  # type: ignore[attr-defined]
        yield


@fault(
    "writes refused",
    sentinel=REPLACED["sentinel"],
    http="that is a status, which is an answer as any other",
    https="that is a status, which is an answer as any other",
    firestore="the emulator has no quota",
)
def grudging(stage: Stage) -> Iterator[None]:
    with stage.subject.refuse_writes():  # type: ignore[attr-defined]
        yield


@fault(
    "disk full",
    **{
        **but("postgres", "pgbouncer", "standby", why="an answer as any other: see writes refused"),
        "firestore": "the emulator keeps all in memory",
    },
)
def full(stage: Stage) -> Iterator[None]:
    with stage.subject.fill_disk():  # type: ignore[attr-defined]
        yield
        write, read = stage.crew.call("write", 1.0), stage.crew.call("read", 1.0)
        write.expected = "No space left on device" in write.error
        read.expected = read.fate is Fate.ACKNOWLEDGED


@fault("certificate expired", **but("https", why="its private server has no TLS of its own"))
def expired(stage: Stage) -> Iterator[None]:
    with stage.subject.expire():  # type: ignore[attr-defined]
        yield


@fault(
    "failover",
    **but("standby", "sentinel", "cluster", why="it has no other server to take over"),
)
def failed_over(stage: Stage) -> Iterator[None]:
    stage.end(stage.subject.server.kill)
    yield
    stage.subject.take_over()  # type: ignore[attr-defined]


@fault(
    "failover after a lag",
    **but("standby", why="it has no other server that it waits for"),
)
def failed_over_late(stage: Stage) -> Iterator[None]:
    # Who is not served meanwhile must not be told that it was done: the other server never heard of it.
    with stage.subject.lag():  # type: ignore[attr-defined]
        yield
        stage.end(stage.subject.server.kill)
    stage.subject.take_over()  # type: ignore[attr-defined]


@fault("slots moved", **but("cluster", why="one server has all of it"))
def resharded(stage: Stage) -> Iterator[None]:
    with meanwhile(stage.subject.move_slots, 0.05):  # type: ignore[attr-defined]
        yield


DIRECT = but("pgbouncer", why="there is nothing between it and the proxy")


@fault("killed behind the pooler", **DIRECT)
def killed_behind(stage: Stage) -> Iterator[None]:
    stage.subject.behind.kill()  # type: ignore[attr-defined]
    yield
    stage.subject.behind.start()  # type: ignore[attr-defined]


@fault("shut down behind the pooler", **DIRECT)
def shut_down_behind(stage: Stage) -> Iterator[None]:
    stage.subject.behind.stop()  # type: ignore[attr-defined]
    yield
    stage.subject.behind.start()  # type: ignore[attr-defined]


@fault("frozen behind the pooler", **DIRECT)
def frozen_behind(stage: Stage) -> Iterator[None]:
    stage.subject.behind.pause()  # type: ignore[attr-defined]
    yield
    stage.subject.behind.resume()  # type: ignore[attr-defined]


# -- the way there --------------------------------------------------------------------------------------


@fault("reset", **REPLACED)
def reset(stage: Stage) -> Iterator[None]:
    with meanwhile(stage.proxy.cut, 0.1):
        yield


def tampering(stage: Stage, way: Way, change: Change) -> Iterator[None]:
    """Change some of what goes one way."""
    stage.proxy.tamper(Tampering(way, change, random.Random(stage.dice.random())))
    yield
    stage.proxy.pass_through()


@fault("reset before the request", **REPLACED)
def reset_before(stage: Stage) -> Iterator[None]:
    return tampering(stage, "request", break_off)


@fault("reset in the request", **REPLACED)
def reset_in_request(stage: Stage) -> Iterator[None]:
    return tampering(stage, "request", break_off_midway)


@fault("reset instead of the reply", **REPLACED)
def reset_after(stage: Stage) -> Iterator[None]:
    return tampering(stage, "reply", break_off)


@fault("reset in the reply", **REPLACED)
def reset_in_reply(stage: Stage) -> Iterator[None]:
    return tampering(stage, "reply", break_off_midway)


@fault("garbage replies", **REPLACED)
def garbage(stage: Stage) -> Iterator[None]:
    return tampering(stage, "reply", scramble)


@fault("half-closed", **REPLACED)
def half_closed(stage: Stage) -> Iterator[None]:
    with meanwhile(stage.proxy.half_close, 0.1):
        yield


@fault("refused", **REPLACED)
def refused(stage: Stage) -> Iterator[None]:
    stage.proxy.refuse()
    stage.proxy.cut()
    yield
    stage.proxy.accept()


@fault("black hole", **REPLACED)
def blackhole(stage: Stage) -> Iterator[None]:
    stage.proxy.blackhole()
    yield
    stage.proxy.pass_through()


@fault("replies held", **REPLACED)
def stalled(stage: Stage) -> Iterator[None]:
    stage.proxy.stall_replies()
    yield
    stage.proxy.pass_through()


@fault("dripping", **REPLACED)
def dripping(stage: Stage) -> Iterator[None]:
    stage.proxy.limit(100)
    yield
    stage.proxy.pass_through()


@fault("little bandwidth", **REPLACED)
def narrow(stage: Stage) -> Iterator[None]:
    stage.proxy.limit(20_000)
    yield
    stage.proxy.pass_through()


@fault("latency and jitter", **REPLACED)
def slow(stage: Stage) -> Iterator[None]:
    stage.proxy.delay(0.04, jitter=0.08)
    yield
    stage.proxy.pass_through()


@fault("name not found", **REPLACED, **OUR_DRIVER_LOOKS_UP)
def nameless(stage: Stage) -> Iterator[None]:
    stage.names.fails(HOST)
    with meanwhile(stage.proxy.cut, 0.1):
        yield
    stage.names.answers(HOST, stage.proxy.host)


@fault("moved to another address", **REPLACED, firestore=OUR_DRIVER_LOOKS_UP["firestore"])
def moved(stage: Stage) -> Iterator[None]:
    # Postgres has both in its conninfo, for others it is what the name leads to.
    proxy = stage.proxy
    with FaultProxy(*proxy.target, host=ELSEWHERE, port=proxy.port):
        stage.names.answers(HOST, ELSEWHERE)
        proxy.refuse()
        proxy.cut()
        yield
        stage.names.answers(HOST, proxy.host)
        proxy.accept()


# -- the caller's own process ---------------------------------------------------------------------------


@fault("exhausted")
def exhausted(stage: Stage) -> Iterator[None]:
    stage.crew.go_on()  # who holds connections must give them back
    with ExitStack() as held:
        with deadline(2), suppress(PoolKitError):
            for _ in range(SIZE):
                held.enter_context(stage.subject.hold())
        yield


@fault("threads that die holding")
def orphaned(stage: Stage) -> Iterator[None]:
    stage.crew.go_on()
    blocks: list[object] = []

    def die_holding() -> None:
        with deadline(1), suppress(PoolKitError):
            block = stage.subject.hold()
            block.__enter__()
            blocks.append(block)

    for _ in range(SIZE - 1):
        Task(die_holding, name="doomed").end()
    yield
    blocks.clear()


@fault(
    "interrupted anywhere",
    firestore="grpc takes a lock by Python code: one that falls into that leaves a channel locked for good",
)
def interrupted(stage: Stage) -> Iterator[None]:
    with meanwhile(stage.crew.interrupt, 0.01):
        yield


@fault("interrupted within poolkit")
def struck(stage: Stage) -> Iterator[None]:
    stage.crew.strike(0.3)
    yield
    stage.crew.strike(0.0)


@fault("forked")
def forked(stage: Stage) -> Iterator[None]:
    stage.crew.fork()
    stage.crew.fork_midway()
    yield
    stage.crew.fork()


@fault(
    "clock jumps",
    firestore="grpc is told its deadlines by this clock, and reads another one that a test can't move",
)
def jumping(stage: Stage) -> Iterator[None]:
    real = time.time
    jump = [0.0]

    def leap() -> None:
        jump[0] = stage.dice.uniform(-1e6, 1e6)

    with (
        mock.patch("time.time", side_effect=lambda: real() + jump[0]),
        meanwhile(leap, 0.05),
    ):
        yield
