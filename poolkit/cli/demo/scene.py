"""What the demo is made of: scenes, one a backend, in which contenders do the same work in turn.

A backend's scene is all that its module has to define; see :mod:`.postgres` and :mod:`.cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from .display import Display
from .workload import Lookup, Measured, Workload


class Census(Protocol):
    """A count of one contender's connections, taken on the server."""

    def look(self) -> None:
        """Count now, and keep the highest count."""

    def close(self) -> None:
        """Wait until the contender's connections are gone, then make the last count."""

    @property
    def peak(self) -> int: ...

    @property
    def opened(self) -> int: ...


class Backend(Protocol):
    """A server that runs, with data in it."""

    @property
    def address(self) -> str: ...

    @property
    def description(self) -> str: ...

    def census(self) -> Census: ...


class Contender(Protocol):
    """One way of getting a connection for a request."""

    @property
    def name(self) -> str: ...

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What it raises when it can't serve a request at once: part of the picture, not a fault."""

    def open(self, address: str, *, seconds: float) -> AbstractContextManager[Lookup]:
        """Make ready, give the function that serves one request, and clean up. No wait in it is
        longer than *seconds*.
        """


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one contender did."""

    contender: str
    measured: Measured
    connections_peak: int
    connections_opened: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that is said of pools, beside what was measured."""

    text: str
    measured: str
    met: bool | None
    """``None`` when this run could not tell."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What a pool said of a connection that was never given back."""

    error: str
    """The message of the :class:`~poolkit.PoolTimeout`."""
    thread_name: str
    call_site: str
    held_for: float
    stack: str
    """Where that thread was meanwhile, as a traceback."""
    leases_after: int
    """Leases in the pool's book when the thread had given its connection back after all."""


class Scene(Protocol):
    """A backend, its contenders, and what is to be learnt from them."""

    @property
    def title(self) -> str: ...

    @property
    def request(self) -> str:
        """A sentence that says what a request is."""

    @property
    def contenders(self) -> Sequence[Contender]: ...

    def workload(self, *, threads: int, requests_per_thread: int) -> Workload: ...

    def open(self) -> AbstractContextManager[Backend]: ...

    def claims(self, runs: Sequence[Run], workload: Workload) -> list[Claim]: ...

    def leak(self, address: str) -> Leak | None:
        """Leak a connection; None where that would show nothing new."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a scene showed."""

    title: str
    backend: str
    request: str
    workload: Workload
    runs: Sequence[Run]
    claims: Sequence[Claim]
    leak: Leak | None


def play(scene: Scene, workload: Workload, *, until: float, display: Display) -> Outcome:
    """Play *scene* to its end.

    The contenders share evenly the time that is left *until* an instant of :func:`time.monotonic`.
    """
    with ExitStack() as stack:
        with display.step(f"start {scene.title} and create data"):
            backend = stack.enter_context(scene.open())
        runs = []
        for number, contender in enumerate(scene.contenders):
            left = len(scene.contenders) - number
            seconds = max(1.0, (until - monotonic()) / left)
            runs.append(_run(contender, backend, workload, seconds, display))
        with display.step("leak a connection"):
            leak = scene.leak(backend.address)
        return Outcome(
            title=scene.title,
            backend=backend.description,
            request=scene.request,
            workload=workload,
            runs=runs,
            claims=scene.claims(runs, workload),
            leak=leak,
        )


def _run(
    contender: Contender, backend: Backend, workload: Workload, seconds: float, display: Display
) -> Run:
    census = backend.census()
    with display.step(contender.name, total=workload.requests) as progress:

        def tick(over: int) -> None:
            census.look()
            progress(over)

        with contender.open(backend.address, seconds=seconds) as lookup:
            measured = workload.run(lookup, seconds=seconds, refusals=contender.refusals, tick=tick)
            census.look()
    census.close()
    return Run(
        contender=contender.name,
        measured=measured,
        connections_peak=census.peak,
        connections_opened=census.opened,
    )
