"""``import poolkit`` is cheap: it loads no driver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

DRIVERS = [
    "psycopg",
    "psycopg_pool",
    "redis",
    "urllib3",
    "requests",
    "google",
    "grpc",
    "tenacity",
]

LIMIT = 0.040
"""Seconds that ``import poolkit`` may take more than a bare interpreter."""


def modules_after(script):
    """Return the names of all modules that are loaded after *script*."""
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def cpu_seconds(script):
    """Return the processor time that an interpreter takes to run *script*: others can't add to it by waiting."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", script], os.environ)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def test_import_loads_no_driver():
    bare = modules_after("")
    loaded = modules_after("import poolkit") - bare

    assert not loaded.intersection(DRIVERS)
    assert "poolkit" in loaded


@pytest.mark.parametrize(
    "use", ["poolkit.deadline(1)", "poolkit.errors.PoolTimeout", "poolkit.Listener", "dir(poolkit)"]
)
def test_what_needs_no_driver_loads_none(use):
    loaded = modules_after(f"import poolkit; {use}") - modules_after("")

    assert not loaded.intersection(DRIVERS)


def test_a_pool_loads_its_own_driver_and_no_other():
    loaded = modules_after("import poolkit; poolkit.PostgresPool") - modules_after("")

    assert "psycopg" in loaded
    assert not loaded.intersection({"redis", "urllib3", "requests", "google", "grpc"})


def test_every_exported_name_is_there():
    import poolkit

    for name in poolkit.__all__:
        assert getattr(poolkit, name) is not None
        assert name in dir(poolkit)
    with pytest.raises(AttributeError, match="has no attribute 'MysqlPool'"):
        poolkit.MysqlPool  # noqa: B018


def test_import_costs_next_to_nothing():
    # The least of several turns, taken in turns: what a busy machine adds is in none or in both.
    bare, with_poolkit = [], []
    for _ in range(7):
        bare.append(cpu_seconds("pass"))
        with_poolkit.append(cpu_seconds("import poolkit"))

    assert min(with_poolkit) - min(bare) <= LIMIT
