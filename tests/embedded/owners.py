"""Processes that own an embedded server, to be killed, forked and interrupted."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poolkit.embedded import guardian

SOON = 10.0  # seconds within which what must happen has happened

PREAMBLE = """
    import os, signal, sys, time
    def tell(*words):
        print(*words, flush=True)
"""


@contextmanager
def owner(*scripts: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the scripts, one after the other, in a process; it ends with the block at the latest."""
    program = "".join(textwrap.dedent(script) + "\n" for script in (PREAMBLE, *scripts))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def told(process: subprocess.Popen[str]) -> str:
    """Read a line that it tells."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    """Send it the line that it waits for."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def remains(folder: Path) -> list[str]:
    """Return what is left in the folder, or of it under the name that the guardian gives it."""
    return [path.name for path in folder.parent.iterdir() if path.name.startswith(folder.name)]


def gone(pid: int, folder: Path) -> bool:
    """Tell whether neither the server nor its folder is there."""
    return guardian.none_runs([pid]) and not remains(folder)


def running_below(folder: Path) -> list[str]:
    """Return the command lines of all processes that name the folder."""
    found = subprocess.run(
        ["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return [line for line in found.stdout.splitlines() if str(folder) in line]
