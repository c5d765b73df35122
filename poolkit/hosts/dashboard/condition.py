"""How it is with a pool: in a word, with the reasons; and of an exhausted one, who has it all and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...core.errors import PoolOverloaded, PoolTimeout
from ...core.lease import Holder
from ...core.lending import ServerState
from ...core.stats import PoolStats
from ...kit.backends import AnyPool
from ...kit.health import PoolHealth, Status
from ...kit.recent import RecentEvent, first_line

WITHOUT_CONNECTION = (PoolTimeout.__name__, PoolOverloaded.__name__)
"""Reasons why a check failed that say nothing of the backend: it got no connection, as others."""

NAMED = 5
"""Servers that can't be reached and are named as reasons; the others are counted."""

LONG_USE = 1.0
"""Seconds of use from which on to hold a connection for less is a better remedy than to have more of them."""


@dataclass(frozen=True)
class Condition:
    """A pool's condition: ``not opened``, ``closed``, ``unavailable``, ``exhausted``, ``degraded`` or ``healthy``."""

    word: str
    reasons: Sequence[str] = field(default_factory=list)


def condition_of(
    pool: AnyPool,
    servers: Sequence[ServerState],
    health: PoolHealth | None,
    events: Iterable[RecentEvent],
) -> Condition:
    """Return the condition of *pool*: as it is now where that is known, else as the last check found it."""
    if pool.state != "open":
        return Condition("not opened" if pool.state == "new" else "closed")
    away = [(server.name, server.cause) for server in servers if server.cause is not None]
    reasons = [f"{name} can't be reached: {first_line(cause)}" for name, cause in away[:NAMED]]
    if len(away) > NAMED:
        reasons.append(f"… and {len(away) - NAMED} more can't be reached")
    found = dict(health.reasons) if health is not None else {}
    if "backend" in found and not away and health is not None:
        back = any(
            event.pool == pool.name and event.kind == "ready" and event.last > health.checked_at
            for event in events
        )
        if back:
            del found["backend"]  # it is back since then
    if away and len(away) == len(servers):
        return Condition("unavailable", reasons)
    reasons += found.values()
    if any(server.exhausted for server in servers):
        return Condition("exhausted", reasons)
    if "backend" in found and not found["backend"].startswith(WITHOUT_CONNECTION):
        return Condition("unavailable", reasons)
    return Condition("degraded" if reasons else "healthy", reasons)


def severity(word: str) -> Status:
    """Return how bad a condition is."""
    if word == "unavailable":
        return Status.UNAVAILABLE
    return Status.DEGRADED if word in ("exhausted", "degraded") else Status.HEALTHY


@dataclass(frozen=True)
class Shortage:
    """Why a pool is exhausted: what is so, who has the connections, and what to do, in sentences."""

    what: str
    who: str
    todo: Sequence[str]


def explain(
    pool: AnyPool,
    servers: Sequence[ServerState],
    holders: Sequence[Holder],
    minute: PoolStats | None,
    now: PoolStats,
) -> Shortage | None:
    """Explain why *pool* is exhausted; None if it is not. *minute* is how it was a minute ago."""
    short = [server for server in servers if server.exhausted]
    if not short or not holders:
        return None
    held, waiting = sum(s.in_use for s in short), sum(s.waiting for s in short)
    names = "" if len(servers) == 1 else f" of {', '.join(server.name for server in short[:3])}"
    what = (
        f"{_all(held)}{names} {_is_are(held)} lent, and {_threads(waiting)} "
        f"for at most {pool.config.acquire_timeout:g} s."
    )
    given_up = now.timeouts - (minute.timeouts if minute is not None else 0)
    if given_up > 0:
        what += f" {given_up} gave up in the last minute."
    longest = holders[0]
    who = (
        f"Held longest by thread {longest.thread_name!r}, for {longest.held_for:.1f} s: acquired at "
        f"{_short(longest.call_site)}, now at {_short(longest.now_at)}."
    )
    return Shortage(what, who, list(_remedies(pool, holders, minute, now)))


def _remedies(
    pool: AnyPool, holders: Sequence[Holder], minute: PoolStats | None, now: PoolStats
) -> Iterable[str]:
    threshold = pool.config.leak_threshold
    late = [holder for holder in holders if holder.held_for >= threshold]
    if late:
        have = "has" if len(late) == 1 else "have"
        yield (
            f"{len(late)} of {len(holders)} holders {have} had a connection for longer than leak_threshold "
            f"({threshold:g} s). If they have no use for it any more, it leaks: take connections in a with block."
        )
    places = [holder.call_site for holder in holders]
    most = max(places, key=places.count)
    if places.count(most) > 1:
        yield f"{places.count(most)} of them were acquired at {_short(most)}: look there first."
    use = now.use.since(minute.use) if minute is not None else now.use
    longest = max(use.p50 if use.count else 0.0, holders[len(holders) // 2].held_for)
    if longest >= LONG_USE:
        yield (
            "Connections are held for seconds: do what needs none (calls to other services, computing) "
            "before or after the block, and set a deadline."
        )
    else:
        yield (
            f"They are held for {_milliseconds(longest)} at the median, so there is more work than {now.max_size} "
            f"connections can do: raise max_size from {pool.config.max_size}, if the server admits more, or send less."
        )


def _short(site: str) -> str:
    """Return a place in the code as seen from the folder that the program began in."""
    return site.removeprefix(_BEGAN_IN)


def _folder() -> str:
    """Return the folder that the program is in, with a separator at its end; nothing if it is gone."""
    try:
        return os.path.join(os.getcwd(), "")
    except OSError:  # an old release's, say, that was removed while it ran
        return ""


_BEGAN_IN = _folder()


def _all(count: int) -> str:
    return "The only connection" if count == 1 else f"All {count} connections"


def _is_are(count: int) -> str:
    return "is" if count == 1 else "are"


def _threads(count: int) -> str:
    return "1 thread waits" if count == 1 else f"{count} threads wait"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if math.isfinite(seconds) else "ever"
