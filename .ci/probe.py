"""Look at an installed poolkit, with the extras that are named: package.py runs this in each environment.

Every public name is there. What an extra brings works if it was named; else it says which extra it needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path

import poolkit

LOADED = {name.partition(".")[0] for name in sys.modules}
"""What ``import poolkit`` has loaded."""

from poolkit import HttpPool, PostgresPool, RedisPool, embedded  # noqa: E402

DRIVERS = {"google", "grpc", "psycopg", "psycopg_pool", "redis", "requests", "tenacity", "urllib3"}

OPTIONAL = {
    "poolkit.observe.prometheus": ("prometheus_client", "prometheus"),
    "poolkit.observe.opentelemetry": ("opentelemetry", "otel"),
    "poolkit.hosts.flask": ("flask", "flask"),
    "poolkit.hosts.dashboard.blueprint": ("flask", "flask"),
    "poolkit.hosts.mcp": ("mcp", "mcp"),
}
"""What each optional module needs beside poolkit's own dependencies, and the extra that brings it."""


def main(extras: set[str]) -> str:
    """Return what was found to be right, or raise."""
    installed = Path(poolkit.__file__).parent
    must("site-packages" in installed.parts, f"{installed} is not the installed one")
    must((installed / "py.typed").exists(), "py.typed is missing")
    must(not LOADED & DRIVERS, f"import poolkit loads {LOADED & DRIVERS}")
    for name in poolkit.__all__:
        getattr(poolkit, name)
    for module, (needed, extra) in OPTIONAL.items():
        if is_there(module):
            probe_module(module, extra, works=is_there(needed), wanted=extra in extras)
    if "binary" in extras:
        psycopg = importlib.import_module("psycopg")
        must(psycopg.pq.__impl__ == "binary", f"psycopg's implementation is {psycopg.pq.__impl__}")
        importlib.import_module("hiredis")
    servers = probe_servers(with_wheels="embedded" in extras)
    return f"{len(poolkit.__all__)} names; {', '.join(servers)} served"


def is_there(module: str) -> bool:
    """Whether *module* could be imported, without importing what optional packages do at import."""
    parent = module.rpartition(".")[0]
    return (not parent or is_there(parent)) and importlib.util.find_spec(module) is not None


def probe_module(module: str, extra: str, *, works: bool, wanted: bool) -> None:
    """Import *module*; if it can't work, its error has to name the *extra*."""
    must(works or not wanted, f"[{extra}] does not bring what {module} needs")
    try:
        importlib.import_module(module)
    except ImportError as error:
        must(not works, f"{module}: {error}")
        must(f"poolkit[{extra}]" in str(error), f"{module} does not name its extra: {error}")
    else:
        must(works, f"{module} was imported without what it needs")


def probe_servers(*, with_wheels: bool) -> list[str]:
    """Use a pool on each server that comes with poolkit, and with the wheels of ``embedded`` if they are there."""
    with embedded.http() as url, HttpPool(url) as http:
        must(http.get("/json").status == 200, "HTTP")
    if with_wheels:
        with embedded.redis() as address, RedisPool(address) as cache:
            must(cache.set("k", "v") and cache.get("k") == "v", "Redis")
        with embedded.postgres() as conninfo, PostgresPool(conninfo) as db:
            must(db.query("select 1") == [(1,)], "PostgreSQL")
        return ["http", "redis", "postgres"]
    for server in (embedded.redis(), embedded.postgres()):
        with ExitStack() as stack:
            try:
                stack.enter_context(server)
            except embedded.EmbeddedError as error:
                must("poolkit[embedded]" in str(error), f"it does not name its extra: {error}")
            else:
                must(False, f"{server!r} ran without its wheel")
    return ["http"]


def must(right: bool, otherwise: str) -> None:
    """Raise, saying *otherwise*, unless all is *right*."""
    if not right:
        raise AssertionError(otherwise)


if __name__ == "__main__":
    print(main(set(sys.argv[1:])))
