"""What this process holds at one moment: memory, threads, descriptors, objects."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_process = psutil.Process()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One moment of a run: after so many seconds, answered ``operations`` and ``faults``.

    ``rss`` is in bytes, after what is garbage was collected and what is free was given back. ``threads`` are Python's,
    ``natives`` all of the process. ``connections`` are those that go to servers through the proxies.
    """

    at: float
    operations: int
    faults: int
    rss: int
    threads: int
    natives: int
    descriptors: int
    connections: int
    objects: int


@dataclass(frozen=True, kw_only=True)
class Rest:
    """A moment in which nobody does anything, and all pools have all connections: with what there is by kind."""

    sample: Sample
    objects: Mapping[str, int] = field(repr=False)
    threads: Mapping[str, int] = field(repr=False)
    descriptors: Mapping[str, int] = field(repr=False)
    """Those of connections, of which a pool may have fewer at one time than at another, are left out."""


def set_aside() -> None:
    """Have what lives as long as the process left alone: there is so much of it that to look at it stops everybody."""
    gc.collect()
    gc.freeze()


def take(*, began: float, operations: int, faults: int, connections: int) -> Sample:
    """Collect what is garbage, and measure."""
    gc.collect()
    objects = len(gc.get_objects())
    give_back()
    return Sample(
        at=time.monotonic() - began,
        operations=operations,
        faults=faults,
        rss=_process.memory_info().rss,
        threads=threading.active_count(),
        natives=_process.num_threads(),
        descriptors=_process.num_fds(),
        connections=connections,
        objects=objects,
    )


def rest(sample: Sample, ports: Collection[int] = ()) -> Rest:
    """Return what there is by kind, beside a *sample* that was taken just now; *ports* are those of the servers."""
    kinds = Counter(
        f"{kind.__module__}.{kind.__qualname__}" for kind in map(type, gc.get_objects())
    )
    return Rest(
        sample=sample,
        objects=dict(kinds),
        threads=dict(Counter(_called(thread.name) for thread in threading.enumerate())),
        descriptors=dict(descriptors(ports)),
    )


def give_back() -> None:
    """Have the allocator return what is free to the system: what is left is in use, or between what is."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return  # not glibc


def _called(name: str) -> str:
    """Return what a thread is called, without its number, if that is Python's."""
    return name.rstrip("0123456789") if name.startswith("Thread-") else name


def descriptors(ports: Collection[int] = ()) -> Counter[str]:
    """Return how many descriptors lead to what kind of thing, without connections to one of *ports*."""
    connections = _connections(ports)
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            found[int(number)] = os.readlink(Path("/proc/self/fd") / number)
    connections |= _connections(ports)  # a pool may have lost one meanwhile, or made one
    return Counter(
        target.partition(":[")[0]
        for number, target in found.items()
        # A thread looks for how long it was kept waiting: see control.py.
        if number not in connections and not target.startswith("/proc/")
    )


def _connections(ports: Collection[int]) -> set[int]:
    """Return the descriptors that are connections to one of *ports*."""
    return {
        each.fd
        for each in (_process.net_connections("tcp") if ports else ())
        if each.raddr and each.raddr.port in ports
    }
