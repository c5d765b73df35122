"""What the campaign knows of a pool: the same few things of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from poolkit import OutcomeUnknown
from poolkit.core.pool import Pool
from poolkit.embedded.server import Server
from tests.core.support import Interrupted
from tests.interruptions import Struck

NAMES = (
    *("postgres", "pgbouncer", "standby"),
    *("redis", "sentinel", "cluster"),
    *("http", "https", "firestore"),
)
"""Those that :func:`every` makes."""

SIZE = 4
"""Connections that each pool may have; fewer than there are callers."""

ACQUIRE_TIMEOUT = 2.0

HOST = "chaos.test"
"""The name under which pools know their server, where it is poolkit that looks names up."""

ELSEWHERE = "127.0.0.2"
"""Another host, which may take over under the same port."""

Midway = Callable[[], None]


class BodyLost(Exception):
    """The head of an answer had come, so that it was done; what followed was lost."""


UNKNOWN: tuple[type[BaseException], ...] = (OutcomeUnknown, BodyLost, Interrupted, Struck)
"""What leaves a caller in doubt. Any other error says that nothing was done."""


class Subject(Protocol):
    """A server, and a pool that reaches it over an address which leads there through a proxy.

    What is asked of the server itself goes past pool and proxy. Ids are ``cell.number``, and no two alike.
    """

    name: str
    server: Server
    block: str
    """What :meth:`in_block` is: ``transaction`` is all or nothing, others are not."""
    looks_names_up: bool
    """Whether poolkit looks names up for it; if not, its driver does, out of reach."""
    forgets: bool
    """Whether all that the server holds is gone with its process."""
    errors: tuple[type[BaseException], ...]
    """What its callers may see: poolkit's errors, and the driver's."""
    pool: Pool[Any, Any]

    @property
    def secrets(self) -> Sequence[str]:
        """What must not be seen in any log."""

    def open(self, cell: str, host: str, port: int) -> None:
        """Make the pool; what it writes belongs to *cell*, and to no other."""

    def write(self, id: str) -> str:
        """Have an effect that must not be had twice; return what was answered, which is the id."""

    def upsert(self, id: str) -> str:
        """Have an effect that may be asked for twice, and is had once; return the id as it was answered."""

    def read(self, id: str) -> str:
        """Return the id as the server tells it."""

    def in_block(self, ids: Sequence[str], midway: Midway) -> Sequence[str] | None:
        """Write all of *ids* in a block, and call *midway* in it; return what was answered, if anything was."""

    def hold(self) -> AbstractContextManager[object]:
        """Hold a connection for the length of a block."""

    def seed(self) -> None:
        """Give the server anew what it needs to be read and written, in the present cell."""

    def answers(self) -> None:
        """Raise if the server does not answer."""

    def effects(self) -> Mapping[str, int]:
        """Return how often each id of the present cell took effect."""

    def connections(self) -> int:
        """Return how many connections the server has of pools."""


class Crowded(Protocol):
    """A server that takes so many connections, and no more."""

    def crowd(self) -> AbstractContextManager[None]:
        """Have it take no more connections for the length of a block."""


class Grudging(Protocol):
    """A server that can be made to refuse writes."""

    def refuse_writes(self) -> AbstractContextManager[None]:
        """Have it refuse all writes for the length of a block, and serve reads."""


class Confined(Protocol):
    """A server whose disk can be full."""

    def fill_disk(self) -> AbstractContextManager[None]:
        """Have it find no room for what is written, for the length of a block, and serve reads."""


class Replaced(Protocol):
    """A server that another one stands by for."""

    def take_over(self) -> None:
        """Have the other one be the server, or wait until it is."""


class Followed(Replaced, Protocol):
    """A server that has done what it is asked when another one has it too."""

    def lag(self) -> AbstractContextManager[None]:
        """Have the other one hear of nothing for the length of a block."""


class Certified(Protocol):
    """A server that shows a certificate."""

    def expire(self) -> AbstractContextManager[None]:
        """Have it show one that is out of date for the length of a block."""


class Evicting(Protocol):
    """A server that can be told to end the connections it has."""

    def evict(self) -> None:
        """End all that it has of pools."""


class Divided(Protocol):
    """Servers that share what is held, each a part."""

    def move_slots(self) -> None:
        """Move parts of it from one to another, and back."""


class Fronted(Protocol):
    """A server that passes on to another one."""

    behind: Server
    """The other one."""


def until(true: Callable[[], Any], within: float) -> bool:
    """Wait until *true* is, at most *within* seconds; tell whether it is."""
    limit = time.monotonic() + within
    while not true():
        if time.monotonic() > limit:
            return False
        threading.Event().wait(0.005)
    return True


def every() -> Mapping[str, Callable[[], Subject]]:
    """Return what makes each of them, by name."""
    from tests.faults.subjects.firestore import Firestore
    from tests.faults.subjects.http import Http, Https
    from tests.faults.subjects.pgbouncer import PgBouncer
    from tests.faults.subjects.postgres import Postgres, Standby
    from tests.faults.subjects.redis import Cluster, Redis, Sentinel

    kinds = (Postgres, PgBouncer, Standby, Redis, Sentinel, Cluster, Http, Https, Firestore)
    return {kind.name: kind for kind in kinds}
