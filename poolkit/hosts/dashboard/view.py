"""What the page shows, as JSON has it. Nothing in it is secret: no address with a password, no value, no key."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...core.lease import Holder
from ...core.lending import ServerState
from ...core.stats import PoolStats
from ...kit.backends import AnyPool
from ...kit.health import PoolHealth, Status
from ...kit.kit import PoolKit
from ...kit.recent import RecentEvent
from .condition import condition_of, explain, severity
from .sampling import SERIES, WINDOW, Recording, Sampler

MOST = 50
"""Rows of a table that are shown."""

_UNUSED = {"new": "not opened", "closed": "closed"}
"""The condition of a kit that does not work now."""

Json = dict[str, Any]


class View:
    """Shows a kit, as it is in this process."""

    def __init__(self, kit: PoolKit, sampler: Sampler) -> None:
        self._kit = kit
        self._sampler = sampler

    def data(self, *, process: str = "", after: int = 0, stacks: Collection[str] = ()) -> Json:
        """Return all that is shown.

        Of what *process* has told, when it is this one, only what came *after* so many frames; of the holders in
        *stacks*, where they are.
        """
        recording = self._sampler.recording
        host, pid = socket.gethostname(), os.getpid()
        unused = f"{host}-{pid}-unused"
        me = recording.id if recording is not None else unused
        events = self._kit.events()
        health = self._kit.last_health()
        pools = [
            _pool(
                backend,
                pool,
                health=health.pools.get(backend),
                events=events,
                recording=recording,
                stacks=stacks,
            )
            for backend, pool in self._kit.pools.items()
        ]
        worst = max(
            (severity(pool["condition"]) for pool in pools),
            key=lambda status: status.severity,
            default=Status.HEALTHY,
        )
        frames = recording.frames(after if process == me else 0) if recording is not None else []
        return {
            "process": {"id": me, "unused": unused, "pid": pid, "host": host},
            "kit": {
                "name": self._kit.name,
                "state": self._kit.state,
                "status": _UNUSED.get(self._kit.state, worst.value),
            },
            "now": time.time(),
            "since": recording.began if recording is not None else None,
            "every": self._sampler.every,
            "window": WINDOW,
            "pools": pools,
            "frames": [
                [frame.number, round(frame.at, 2), list(frame.values.values())] for frame in frames
            ],
            "series": SERIES,
            "events": [_event(event) for event in events],
        }


def _pool(
    backend: str,
    pool: AnyPool,
    *,
    health: PoolHealth | None,
    events: Sequence[RecentEvent],
    recording: Recording | None,
    stacks: Collection[str],
) -> Json:
    stats, holders, servers = pool.stats(), pool.leases(), pool.servers()
    ago = recording.minute_ago(backend) if recording is not None else None
    condition = condition_of(pool, servers, health, events)
    shortage = explain(pool, servers, holders, ago[1] if ago is not None else None, stats)
    budgets = pool.retry_budgets()
    return {
        "backend": backend,
        "name": pool.name,
        "condition": condition.word,
        "reasons": list(condition.reasons),
        "shortage": None if shortage is None else [shortage.what, shortage.who, *shortage.todo],
        "checked": health.checked_at if health is not None else None,
        "latency": health.latency if health is not None else None,
        "now": _now(stats),
        "minute": _minute(stats, ago),
        "budget": min(budgets.values(), default=None),
        "holders": [_holder(pool, holder, stacks) for holder in holders[:MOST]],
        "more_holders": max(0, len(holders) - MOST),
        "servers": _servers(servers, budgets) if len(servers) > 1 else [],
    }


def _now(stats: PoolStats) -> Json:
    names = ("max_size", "size", "in_use", "idle", "waiting", "operations", "errors", "retries")
    return {name: getattr(stats, name) for name in (*names, "leaked", "largest_batch")}


def _minute(now: PoolStats, ago: tuple[float, PoolStats] | None) -> Json | None:
    """Return what a pool did in the last minute, or in what is known of it."""
    if ago is None:
        return None
    seconds, before = ago
    counted = ("operations", "errors", "retries", "timeouts", "refused", "leaked", "created")
    found: Json = {name: max(0, getattr(now, name) - getattr(before, name)) for name in counted}
    found["seconds"] = round(seconds, 1)
    batches = now.batches - before.batches
    batched = now.mean_batch * now.batches - before.mean_batch * before.batches
    found["mean_batch"] = round(batched / batches, 2) if batches > 0 else None
    for name in ("wait", "use"):
        taken = getattr(now, name).since(getattr(before, name))
        quantiles = (taken.p50, taken.p99) if taken.count else (None, None)
        found[f"{name}_p50"], found[f"{name}_p99"] = quantiles
    return found


def _holder(pool: AnyPool, holder: Holder, stacks: Collection[str]) -> Json:
    name = f"{holder.thread.ident}-{holder.since:.6f}"
    return {
        "id": name,
        "thread": holder.thread_name,
        "site": holder.call_site,
        "now_at": holder.now_at,
        "held_for": holder.held_for,
        "overdue": holder.held_for >= pool.config.leak_threshold,
        "stack": _places(holder) if name in stacks else None,
    }


def _places(holder: Holder) -> list[str]:
    """Return where a thread is, the innermost last: files and functions, and no text of theirs, which may be secret."""
    return [f"{file}:{line} in {name}" for file, line, name in _FRAME.findall(holder.stack())]


_FRAME = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)


def _servers(servers: Sequence[ServerState], budgets: Mapping[str, float]) -> list[Json]:
    busy = sorted(servers, key=lambda s: (s.cause is None, -s.waiting, s.name))
    return [
        {
            "name": server.name,
            "in_use": server.in_use,
            "max_size": server.max_size,
            "waiting": server.waiting,
            "reachable": server.cause is None,
            "budget": budgets.get(server.name),
        }
        for server in busy[:MOST]
    ]


def _event(event: RecentEvent) -> Json:
    return {
        "pool": event.pool,
        "kind": event.kind,
        "level": event.level,
        "text": event.text,
        "first": round(event.first, 3),
        "last": round(event.last, 3),
        "count": event.count,
    }
