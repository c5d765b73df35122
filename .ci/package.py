"""Build the distributions, and install the wheel in empty environments: what a user will do.

On each Python from 3.10 to 3.13 that is found: without extras, and with all of them. On the first: with each
extra by itself, and the source distribution with the lowest versions that setup.cfg admits, with which a part of its
tests is run. It needs only the standard library, and the network; everything happens in a temporary folder, which
is removed.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Packages of ours; dev and docs are for this house.
FOR_USERS = ("binary", "embedded", "cli", "flask", "mcp", "prometheus", "otel")
LOWEST_TESTS = (
    "tests/kit",
    "tests/postgres/test_query.py",
    "tests/postgres/test_transaction.py",
    "tests/redis/test_api.py",
    "tests/http/test_request.py",
    "tests/firestore/test_operations.py",
    "tests/observe",
    "tests/hosts/test_flask.py",
    "tests/hosts/test_mcp.py",
    "tests/cli",
    "tests/examples",
    "tests/packaging",
)
LIMIT = 900  # seconds for one command


class Failed(Exception):
    """A command failed, and its output was shown; or it did not say what it must."""


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="poolkit-package-") as temporary:
        folder = Path(temporary)
        try:
            pythons = find_pythons()
            tools = make_tools(folder)
            source, wheel = build(folder, tools)
            for version, python in pythons.items():
                check(folder, tools, wheel, python, f"{version}, no extra", ())
                check(folder, tools, wheel, python, f"{version}, all extras", FOR_USERS)
            first, python = next(iter(pythons.items()))
            for extra in FOR_USERS:
                check(folder, tools, wheel, python, f"{first}, [{extra}]", (extra,))
            test_lowest(folder, tools, source, python, first)
        except Failed as failure:
            print(f"\nFailed: {failure}")
            return 1
    print(f"Passed in {time.monotonic() - began:.0f} s on Python {', '.join(pythons)}")
    return 0


def find_pythons() -> dict[str, str]:
    """Return the interpreters that there are; ``PYTHONS=3.12`` asks for some of them only."""
    asked = os.environ.get("PYTHONS", "").split() or VERSIONS
    found = {}
    for version in asked:
        done = subprocess.run(
            [HOUSE / ".ci" / "find-python", version], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode == 0:
            found[version] = done.stdout.strip()
        else:
            print(f"Python {version}: not found, skipped")
    if not found:
        raise Failed(f"none of Python {', '.join(asked)} was found")
    return found


def make_tools(folder: Path) -> Path:
    """Return the Python of an environment that builds, checks and installs."""
    step("tools: pip, build, twine")
    tools = folder / "tools"
    run(sys.executable, "-m", "venv", tools)
    python = tools / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip", "build", "twine")
    done()
    return python


def build(folder: Path, tools: Path) -> tuple[Path, Path]:
    """Build both distributions, the wheel from the source, of what git knows; return them in this order."""
    step("sdist and wheel")
    house = folder / "house"
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", at=HOUSE)
    for name in names.split("\0"):
        if name and (HOUSE / name).is_file():
            (house / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HOUSE / name, house / name)
    run(tools, "-W", "error", "-m", "build", "--outdir", folder / "dist", at=house)
    source, wheel = built = [next((folder / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl")]
    run(tools, "-m", "twine", "check", "--strict", *built)
    done(", ".join(f"{each.name} {each.stat().st_size // 1000} kB" for each in built))
    return source, wheel


def check(
    folder: Path, tools: Path, wheel: Path, python: str, what: str, extras: tuple[str, ...]
) -> None:
    """Install *wheel* with *extras* into an empty environment, and probe it."""
    step(what)
    mine = make_environment(folder, python)
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    pip(tools, mine, "install", wanted)
    pip(tools, mine, "check")
    # Google's libraries say goodbye to Python 3.10; that is no warning of ours.
    farewell = "ignore:You are using a non-supported Python version:FutureWarning"
    probe = HOUSE / ".ci" / "probe.py"
    said = run(mine, "-W", "error", "-W", farewell, "-I", probe, *extras, at=folder)
    check_command(mine.parent / "poolkit", folder, works="cli" in extras)
    shutil.rmtree(mine.parents[1])
    done(said.strip())


def check_command(command: Path, folder: Path, *, works: bool) -> None:
    """Run the *command* that was installed: all its parts come with the extra ``cli``, without which it names that."""
    if not works:
        said = run(command, "--version", at=folder, expect=2)
        must("poolkit[cli]" in said, f"the command does not name its extra: {said}")
        return
    must(run(command, "--version", at=folder).startswith("poolkit "), "poolkit --version")
    for part in ("demo", "check", "config", "completion"):
        run(command, part, "--help", at=folder)
    must("production" in run(command, "presets", at=folder), "poolkit presets")


def test_lowest(folder: Path, tools: Path, source: Path, python: str, version: str) -> None:
    """Run tests of the source distribution with the lowest versions of what poolkit and its extras need."""
    lowest = find_lowest()
    step(f"{version}, lowest: {' '.join(lowest)}")
    constraints = folder / "lowest.txt"
    constraints.write_text("\n".join(lowest))
    run(sys.executable, "-m", "tarfile", "-e", source, folder / "source")
    (house,) = (folder / "source").iterdir()
    mine = make_environment(folder, python)
    pip(tools, mine, "install", "-c", str(constraints), "--editable", f"{house}[dev]")
    pip(tools, mine, "check")
    done()
    step("their tests")
    said = run(
        mine, "-m", "pytest", "-q", "--numprocesses=2", "--dist=loadfile", *LOWEST_TESTS, at=house
    )
    done(said.strip().splitlines()[-1])


def find_lowest() -> list[str]:
    """Return the lower bounds of setup.cfg, those of its extras for users too, as constraints for pip."""
    settings = configparser.RawConfigParser()
    settings.read(HOUSE / "setup.cfg")
    extras = settings["options.extras_require"]
    needed = "\n".join(
        [settings["options"]["install_requires"], *(extras[name] for name in FOR_USERS)]
    )
    bounds = re.findall(r"^([\w-]+)(?:\[[\w,]+\])?>=([\w.]+)", needed, re.MULTILINE)
    return sorted({f"{name}=={bound}" for name, bound in bounds})


def make_environment(folder: Path, python: str) -> Path:
    """Return the Python of a new environment with nothing in it, not even pip."""
    place = Path(tempfile.mkdtemp(prefix="venv-", dir=folder))
    run(python, "-m", "venv", "--without-pip", place)
    return place / "bin" / "python"


def pip(tools: Path, mine: Path, command: str, *arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    run(tools, "-m", "pip", "--python", mine, command, *quiet, *arguments)


def run(*command: object, at: Path | None = None, expect: int = 0) -> str:
    """Run *command* and return what it says; its output is shown if its status is not the one to *expect*."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        ended = subprocess.run(
            [str(word) for word in command],
            cwd=at,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{' '.join(map(str, command))}: not done within {LIMIT} s") from late
    if ended.returncode != expect:
        print(f"\n{ended.stdout}")
        raise Failed(f"{' '.join(map(str, command))}: status {ended.returncode}, not {expect}")
    return ended.stdout


def must(right: bool, otherwise: str) -> None:
    if not right:
        raise Failed(otherwise)


def step(what: str) -> None:
    print(f"  {what} … ", end="", flush=True)


def done(what: str = "") -> None:
    print(what or "ok", flush=True)


if __name__ == "__main__":
    sys.exit(main())
