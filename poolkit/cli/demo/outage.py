"""Kill Redis under requests, start it again, and count what the requests noticed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from time import perf_counter

from poolkit import Listener, RedisPool
from poolkit.core.events import Reconnecting
from poolkit.embedded import RedisServer

from .scene import Outage
from .workload import Lookup, Workload

THREADS = 50
KILL_AFTER = 0.3  # s from the first tick
DOWN_FOR = 1.0
GO_ON_FOR = 0.5  # s with the new server
NEVER_DONE = 1_000_000


class _Probes(Listener):
    """Counts how often the pool looks for a server that is away."""

    count = 0

    def reconnecting(self, event: Reconnecting) -> None:  # noqa: ARG002
        self.count += 1


class _Cut:
    """Kills the server and starts it again, a step at each call when it is time."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._began: float | None = None
        self.killed_at = self.started_at = self.ready_at = math.nan

    def tick(self, _over: int) -> None:
        now = perf_counter()
        if self._began is None:
            self._began = now
        elif math.isnan(self.killed_at):
            if now - self._began >= KILL_AFTER:
                self._server.kill()
                self.killed_at = perf_counter()
        elif math.isnan(self.started_at) and now - self.killed_at >= DOWN_FOR:
            self.started_at = perf_counter()
            self._server.start()
            self.ready_at = perf_counter()


def kill_and_start_again(
    server: RedisServer, workload: Workload, *, request: Callable[[RedisPool], Lookup]
) -> Outage:
    """Make requests of *workload* all the while; *request* makes the function that serves one."""
    workload = dataclasses.replace(
        workload, threads=min(THREADS, workload.threads), requests_per_thread=NEVER_DONE
    )
    probes = _Probes()
    cut = _Cut(server)
    answers: list[tuple[float, float]] = []  # from when to when

    with RedisPool(server.url, listeners=[probes]) as cache:
        serve = request(cache)

        def lookup(key: int) -> object:
            began = perf_counter()
            value = serve(key)
            answers.append((began, perf_counter()))
            return value

        measured = workload.run(
            lookup,
            seconds=0.5 + KILL_AFTER + DOWN_FOR + GO_ON_FOR,
            refusals=(),
            tick=cut.tick,
        )
    after = [(began, ended) for began, ended in answers if ended >= cut.started_at]
    return Outage(
        product=server.product,
        threads=workload.threads,
        measured=measured,
        down_for=cut.started_at - cut.killed_at,
        ready_after=cut.ready_at - cut.started_at,
        first_answer_after=min((ended for _, ended in after), default=math.nan) - cut.started_at,
        waited=sum(began < cut.started_at for began, _ in after),
        probes=probes.count,
    )
