"""What the demo is made of: scenes, one a backend, in which contenders do the same work in turn.

A backend's scene is all that its module has to define; see :mod:`.postgres`, :mod:`.cache`
and :mod:`.http`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TypeVar

from .display import Display
from .workload import Lookup, Measured, Workload

AddressT = TypeVar("AddressT")
"""What says where a scene's servers are."""
AddressT_co = TypeVar("AddressT_co", covariant=True)
AddressT_contra = TypeVar("AddressT_contra", contravariant=True)


class Census(Protocol):
    """A count of what one contender did to the servers, taken there."""

    def look(self) -> None:
        """Count now, and keep the highest count."""

    def close(self) -> None:
        """Wait until the contender's connections are gone, then make the last count."""

    @property
    def peak(self) -> int: ...

    @property
    def opened(self) -> int: ...

    @property
    def hit_rate(self) -> float | None:
        """The part of the reads for which a cache had the value; ``None`` without a read, or a cache."""


class Backend(Protocol[AddressT_co]):
    """The servers of a scene, running, with data in them."""

    @property
    def address(self) -> AddressT_co: ...

    @property
    def description(self) -> str: ...

    def census(self) -> Census: ...


class Contender(Protocol[AddressT_contra]):
    """One way of getting a connection for a request."""

    @property
    def name(self) -> str: ...

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What it raises when it can't serve a request at once: part of the picture, not a fault."""

    def open(self, address: AddressT_contra, *, seconds: float) -> AbstractContextManager[Lookup]:
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
    hit_rate: float | None = None


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


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What requests met when a server was killed under them, and started again. Times are in seconds."""

    product: str
    threads: int
    measured: Measured
    down_for: float
    """From the kill to the start of the new server."""
    ready_after: float
    """From there until it took commands."""
    first_answer_after: float
    """From the same start until a request was answered; NaN if none was."""
    waited: int
    """Requests that were under way when it was started again, and were answered after that."""
    probes: int
    """How often the pool looked for it meanwhile."""


@dataclass(frozen=True, kw_only=True)
class SlowHost:
    """What requests to a quick host met while others called a slow one through the same pool."""

    threads: int
    slow_threads: int
    takes: float
    """Seconds, of an answer of the slow host."""
    held: int
    """Connections that the calls to it had at the time."""
    alone: Measured
    beside: Measured


Finale = Leak | Outage | SlowHost
"""What is shown of the pool's manners at the end of a scene."""


class Scene(Protocol[AddressT]):
    """A backend, its contenders, and what is to be learnt from them."""

    @property
    def title(self) -> str: ...

    @property
    def request(self) -> str:
        """Sentences that say what a request is."""

    @property
    def contenders(self) -> Sequence[Contender[AddressT]]: ...

    @property
    def patience(self) -> float:
        """Seconds that a contender may take at most, even if there is more time."""

    @property
    def last_step(self) -> str:
        """What the finale does."""

    def workload(self, *, threads: int, requests_per_thread: int) -> Workload: ...

    def open(self) -> AbstractContextManager[Backend[AddressT]]: ...

    def claims(self, runs: Sequence[Run], workload: Workload, address: AddressT) -> list[Claim]:
        """Return what is claimed, beside what was measured in *runs*, or is now."""

    def finale(self, workload: Workload, address: AddressT) -> Finale: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a scene showed."""

    title: str
    backend: str
    request: str
    workload: Workload
    runs: Sequence[Run]
    claims: Sequence[Claim]
    finale: Finale


def play(scene: Scene[AddressT], workload: Workload, *, until: float, display: Display) -> Outcome:
    """Play *scene* to its end.

    The contenders share evenly the time that is left *until* an instant of :func:`time.monotonic`.
    """
    with ExitStack() as stack:
        with display.step(f"start {scene.title} and create data"):
            backend = stack.enter_context(scene.open())
        runs = []
        for number, contender in enumerate(scene.contenders):
            left = len(scene.contenders) - number
            seconds = min(scene.patience, max(1.0, (until - monotonic()) / left))
            runs.append(_run(contender, backend, workload, seconds, display))
        description = backend.description
        claims = scene.claims(runs, workload, backend.address)
        with display.step(scene.last_step):
            finale = scene.finale(workload, backend.address)
        return Outcome(
            title=scene.title,
            backend=description,
            request=scene.request,
            workload=workload,
            runs=runs,
            claims=claims,
            finale=finale,
        )


def _run(
    contender: Contender[AddressT],
    backend: Backend[AddressT],
    workload: Workload,
    seconds: float,
    display: Display,
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
        hit_rate=census.hit_rate,
    )
