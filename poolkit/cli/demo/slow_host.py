"""Call a slow host through the pool that others call a quick one through."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from poolkit import HttpPool

from .scene import SlowHost
from .workload import Lookup, Measured, Workload

THREADS = 20
REQUESTS_PER_THREAD = 50
SLOW_THREADS = 40
TAKES = 0.5  # s, of each answer
PATIENCE = 5.0


def call_beside_a_slow_host(
    http: HttpPool, quick: Lookup, workload: Workload, *, slow: str, slots: int
) -> SlowHost:
    """Make requests of *workload*, first alone, then while all *slots* of the host *slow* are taken."""
    workload = dataclasses.replace(
        workload,
        threads=min(THREADS, workload.threads),
        requests_per_thread=REQUESTS_PER_THREAD,
    )
    alone = _measured(workload, quick)
    with _callers(http, f"{slow}/delay/{TAKES}"):
        give_up = monotonic() + PATIENCE
        while (held := http.stats().in_use) < slots and monotonic() < give_up:
            sleep(0.01)
        beside = _measured(workload, quick)
    return SlowHost(
        threads=workload.threads,
        slow_threads=SLOW_THREADS,
        takes=TAKES,
        held=held,
        alone=alone,
        beside=beside,
    )


def _measured(workload: Workload, lookup: Lookup) -> Measured:
    return workload.run(lookup, seconds=PATIENCE, refusals=(), tick=lambda _: None)


@contextmanager
def _callers(http: HttpPool, url: str) -> Iterator[None]:
    """Have threads call *url* over and over; at the end, wait until their last calls are over."""
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            http.get(url)

    callers = [
        threading.Thread(target=call, name=f"slow-{number}", daemon=True)
        for number in range(SLOW_THREADS)
    ]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        stopped.set()
        for caller in callers:
            caller.join(PATIENCE)
