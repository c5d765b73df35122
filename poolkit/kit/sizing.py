"""How many connections: the rule of thumb for PostgreSQL, and what it gives each instance of a program."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core import checks


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """What :func:`pool_size` says: connections in ``total``, and of one instance ``per_instance`` at most.

    Of those it keeps ``min_size``.
    """

    total: int
    per_instance: int
    min_size: int
    overcommitted: bool
    """Whether all instances together may open more than ``total``."""


def pool_size(*, cores: int = 4, spindles: int = 1, instances: int = 1) -> PoolSize:
    """Return how many connections a database server of so many *cores* and *spindles* (disks) serves best.

    That is cores × 2 + spindles (PostgreSQL wiki, "Number Of Database Connections"), shared by all *instances*
    of the program: the nearest number for each, at least 1, and a quarter of that, rounded up, to be kept.
    """
    checks.count("cores", cores, at_least=1)
    checks.count("spindles", spindles)
    checks.count("instances", instances, at_least=1)
    total = cores * 2 + spindles
    each = max(1, math.floor(total / instances + 0.5))
    return PoolSize(
        total=total,
        per_instance=each,
        min_size=least_for(each),
        overcommitted=each * instances > total,
    )


def least_for(most: int) -> int:
    """Return how many connections to keep of *most*: a quarter, rounded up."""
    return math.ceil(most / 4)
