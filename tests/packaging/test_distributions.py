"""What is built has all that belongs in it, and says what it needs. ``make package`` installs it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

from poolkit import __version__

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (
    ".git",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "*.egg-info",
    "_build",
    "build",
    "dist",
    "results",
)


class Built(NamedTuple):
    """The names of the files in both distributions, and what the wheel says of itself."""

    source: set[str]
    wheel: set[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    house = tmp_path_factory.mktemp("build") / "house"
    shutil.copytree(ROOT, house, ignore=shutil.ignore_patterns(*LEFT_OUT))
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "../dist", "."],
        cwd=house,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,  # its output is what tells
    )
    assert done.returncode == 0, done.stdout
    dist = house.parent / "dist"
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        wheel = set(archive.namelist())
        said = archive.read(f"poolkit-{__version__}.dist-info/METADATA").decode()
    return Built(source, wheel, Parser().parsestr(said))


@pytest.fixture
def settings() -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


def files_under(folder: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "_build", "results"}.intersection(path.parts)
    }


def test_the_wheel_has_the_package_its_data_and_nothing_else(built):
    info = f"poolkit-{__version__}.dist-info/"
    inside = {name for name in built.wheel if not name.startswith(info)}

    assert inside == files_under("poolkit")
    assert "poolkit/py.typed" in inside


def test_the_source_has_what_it_takes_to_test_and_document_it(built):
    for folder in ("poolkit", "tests", "examples", "benchmarks", "docs", ".ci"):
        assert files_under(folder) - built.source == set()
    assert {"README.rst", "CHANGELOG.rst", "LICENSE", "Makefile", "setup.cfg"} <= built.source
    assert not [name for name in built.source if "__pycache__" in name or name.endswith(".pyc")]


def test_the_metadata_is_that_of_the_settings(built, settings):
    said = built.metadata

    assert said["Name"] == "poolkit"
    assert said["Version"] == __version__
    assert said["Requires-Python"] == ">=3.10"
    assert said["Description-Content-Type"] == "text/x-rst"
    assert said.get_payload().strip() == (ROOT / "README.rst").read_text().strip()
    assert set(said.get_all("Provides-Extra")) == set(settings["options.extras_require"])


def test_each_dependency_has_a_lower_bound(built):
    needed = [line for line in built.metadata.get_all("Requires-Dist") if "extra ==" not in line]

    assert len(needed) >= 8
    assert [line for line in needed if not re.search(r">=\d", line)] == []


def test_the_command_is_installed(built):
    assert f"poolkit-{__version__}.dist-info/entry_points.txt" in built.wheel


WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
try:
    import {module}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("poolkit.observe.prometheus", ["prometheus_client"], "prometheus"),
        ("poolkit.observe.opentelemetry", ["opentelemetry"], "otel"),
        ("poolkit.postgres.pool", ["psycopg_binary", "psycopg_c", "ctypes.util"], "binary"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(module, missing, extra):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(module=module, missing=missing)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=True,
        cwd=ROOT,
    )

    assert f"poolkit[{extra}]" in done.stdout
