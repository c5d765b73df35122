"""Describe the machine a figure was measured on, and read its counters."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path


def rss_bytes() -> int:
    """Return this process's resident memory; where there is no /proc, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_ticks() -> tuple[int, int]:
    """Return (stolen, all) ticks of all cores since boot; (0, 0) where the system doesn't say."""
    try:
        with open("/proc/stat") as stat:
            # user nice system idle iowait irq softirq steal; guests are counted within user
            ticks = [int(field) for field in stat.readline().split()[1:9]]
    except OSError:
        return 0, 0
    return ticks[7], sum(ticks)


def stolen(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the share of the cores' time, 0 to 1, that the hypervisor gave to others."""
    passed = after[1] - before[1]
    return (after[0] - before[0]) / passed if passed > 0 else 0.0


def describe(packages: Sequence[str]) -> dict[str, str]:
    """Say what the figures were measured on, ``packages`` with their versions."""
    load = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "switch interval": f"{sys.getswitchinterval() * 1000:g} ms",
        "load before": load,
        "packages": ", ".join(f"{name} {_version(name)}" for name in packages),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(missing)"
