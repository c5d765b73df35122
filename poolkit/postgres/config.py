"""What a PostgresPool can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..core import checks
from ..core.config import PoolConfig
from ..core.errors import ConfigError
from .address import Address, parse


@dataclass(frozen=True, kw_only=True)
class PostgresConfig(PoolConfig):
    """Settings of a :class:`~poolkit.PostgresPool`. Times are in seconds.

    Checked when built; :class:`~poolkit.ConfigError` names what is wrong. Its ``repr`` shows no password.

    ``conninfo``
        libpq's connection string or URL. A remote host without ``sslmode`` gets ``verify-full``.
    ``name``
        for logs, errors and metrics; by default host and database.
    ``min_size``, ``max_size``
        connections kept ready, and open at most.
    ``acquire_timeout``
        to wait for a connection, and to open one where the conninfo has no ``connect_timeout``.
    ``max_waiting``
        threads that may wait at a time; more are refused with :class:`~poolkit.PoolOverloaded`.
    ``idle_timeout``
        of connections above ``min_size`` that were not needed: one is closed each such period.
    ``max_lifetime``
        after which a connection is replaced, less up to 5 % so that not all go at once.
    ``statement_timeout``
        after which the server stops a statement; 0 for never. When the server itself does not answer,
        poolkit stops waiting half a second later.
    ``slow_query``
        from which on a statement is logged as slow, without its parameters.
    ``leak_threshold``
        from which on a :class:`~poolkit.PoolKit` names a lease as a leak.
    ``retry``
        how to try again what is safe to try again.
    ``combine``, ``lanes``
        send single statements of many threads together, over at most so many connections as long as answers
        are quick; see :doc:`/combining`. Not with ``pgbouncer``.
    ``pgbouncer``
        the server is PgBouncer, 1.18 or later, in transaction mode: no prepared statements, no startup options.
    ``listeners``
        :class:`~poolkit.Listener` objects, told what happens.
    """

    conninfo: str = field(default="", repr=False)
    min_size: int = 5
    statement_timeout: float = 10.0
    slow_query: float = 1.0
    combine: bool = True
    lanes: int = 4
    pgbouncer: bool = False

    address: Address = field(init=False, repr=False, compare=False)
    """Where ``conninfo`` leads, parsed."""

    def __post_init__(self) -> None:
        self._set(address=parse(self.conninfo))
        super().__post_init__()
        if not self.name:
            self._set(name=self.address.name)
        check_sizes(self.min_size, self.max_size)
        checks.seconds("statement_timeout", self.statement_timeout)
        checks.seconds("slow_query", self.slow_query, forever=True)
        checks.flag("combine", self.combine)
        checks.count("lanes", self.lanes, at_least=1)
        checks.flag("pgbouncer", self.pgbouncer)

    def __repr__(self) -> str:
        return self._describe(f"address={self.address.name!r}")

    @property
    def patience(self) -> float:
        """Seconds to wait for the answer to one statement where no deadline is in force."""
        if self.statement_timeout == 0:
            return math.inf
        return self.statement_timeout + 0.5


def check_sizes(min_size: object, max_size: object) -> tuple[int, int]:
    """Return the sizes if they make sense together, or raise :class:`~poolkit.ConfigError`."""
    least = checks.count("min_size", min_size)
    most = checks.count("max_size", max_size, at_least=1)
    if least > most:
        raise ConfigError(
            f"min_size ({least}) is more than max_size ({most}); lower the one or raise the other"
        )
    return least, most
