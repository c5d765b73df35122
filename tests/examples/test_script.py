"""The script of the examples, as it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from poolkit import embedded

EXAMPLE = Path(__file__).parents[2] / "examples" / "script.py"


def test_it_counts_and_keeps_what_it_counted(conninfo):
    with embedded.http() as url:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), f"{url}/bytes/10", "http://127.0.0.1:1/"],
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
            env={**os.environ, "POOLKIT_POSTGRES_CONNINFO": conninfo},
        )
    try:
        assert done.returncode == 0, done.stderr
        assert f"{url}/bytes/10: 1 words" in done.stdout
        assert "http://127.0.0.1:1/: pool" in done.stdout
        assert "1 pages, 1 words" in done.stdout
    finally:
        with psycopg.connect(conninfo, autocommit=True) as conn:
            conn.execute("drop table if exists words")
