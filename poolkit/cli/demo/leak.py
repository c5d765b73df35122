"""Leak a connection on purpose, and keep what the pool says of it."""

from __future__ import annotations

import runpy
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from poolkit import PostgresPool

from .scene import Leak

_SECONDS = 10.0


def leak_a_connection(conninfo: str) -> Leak:
    """Run :mod:`.leaky_program` on a pool of two connections until it has run out."""
    holding, finish = threading.Event(), threading.Event()
    with (
        TemporaryDirectory(prefix="poolkit-demo-") as folder,
        PostgresPool(conninfo, min_size=1, max_size=2, acquire_timeout=0.5) as db,
    ):
        # Looking for a call site, a pool passes over poolkit's own files: this one is to be a user's.
        copy = shutil.copy(Path(__file__).with_name("leaky_program.py"), folder)
        program = runpy.run_path(copy, run_name="leaky_program")
        culprit = threading.Thread(
            target=program["monthly_report"],
            args=(db, holding, finish),
            name="monthly-report",
            daemon=True,
        )
        culprit.start()
        try:
            if not holding.wait(_SECONDS):
                raise RuntimeError(f"the connection to leak did not come within {_SECONDS:g} s")
            # Put in words now, while the threads are where the error found them.
            error = str(program["front_page"](db))
            # What was used properly is out of the book again; the leaked one is all there is.
            (holder,) = db.leases()
            now_at = holder.stack()
        finally:
            finish.set()
            culprit.join(_SECONDS)
        return Leak(
            error=error,
            thread_name=holder.thread_name,
            call_site=holder.call_site,
            held_for=holder.held_for,
            stack=now_at,
            leases_after=len(db.leases()),
        )
