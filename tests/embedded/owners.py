"""Processes that own an embedded server, to be killed, forked and interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import poolkit
from poolkit.embedded import guardian, process

SOON = 10.0  # seconds within which what must happen has happened

PREAMBLE = """
    import os, signal, sys, time
    def tell(*words):
        print(*words, flush=True)
"""


@contextmanager
def owner(
    *scripts: str, python: str = sys.executable, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run the scripts, one after the other, in a process; it ends with the block at the latest."""
    program = "".join(textwrap.dedent(script) + "\n" for script in (PREAMBLE, *scripts))
    with subprocess.Popen(
        [python, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as owning:
        try:
            yield owning
        except BaseException:
            owning.kill()
            raise


def as_nobody(wheel: str, temporary: Path) -> dict[str, Any]:
    """Return the options for an owner that is the user nobody; skip the test where that can't be."""
    nobody = process.account()
    assert nobody is not None
    folders = [Path(poolkit.__file__).parents[1], process.installation(wheel).parent]
    if not all(nobody.reaches(folder / "x") for folder in folders):
        pytest.skip("this working copy is in a folder that no other user can enter")
    user: dict[str, Any] = {"user": nobody.uid, "group": nobody.gid, "extra_groups": []}
    pythons = [sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"]
    python = next((each for each in pythons if _runs_as(each, user)), None)
    if python is None:
        pytest.skip("no Python 3.10 or later that another user can run")
    environment = {"PYTHONPATH": os.pathsep.join(map(str, folders)), "TMPDIR": str(temporary)}
    return {"python": python, "cwd": "/", "env": environment, **user}


def _runs_as(python: str, user: dict[str, Any]) -> bool:
    check = "import sys; sys.exit(sys.version_info < (3, 10))"
    try:
        return subprocess.run([python, "-c", check], cwd="/", check=False, **user).returncode == 0
    except OSError:
        return False


def told(owning: subprocess.Popen[str]) -> str:
    """Read a line that it tells."""
    assert owning.stdout is not None
    return owning.stdout.readline().strip()


def go_on(owning: subprocess.Popen[str]) -> None:
    """Send it the line that it waits for."""
    assert owning.stdin is not None
    owning.stdin.write("\n")
    owning.stdin.flush()


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
