"""Folders that servers can use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder for temporary files that all users may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="poolkit-test-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)
