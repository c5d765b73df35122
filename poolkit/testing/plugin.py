"""Fixtures for pytest: real servers, one of a kind for the whole run, and pauses left out.

To use them, write ``pytest_plugins = ["poolkit.testing.plugin"]`` in ``conftest.py``. The servers need the extra
``embedded``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .. import embedded
from .pauses import no_pauses


@pytest.fixture(scope="session")
def poolkit_postgres() -> Iterator[str]:
    """Give the address of a private PostgreSQL."""
    with embedded.postgres() as address:
        yield address


@pytest.fixture(scope="session")
def poolkit_redis() -> Iterator[str]:
    """Give the address of a private Redis. What tests leave in it stays."""
    with embedded.redis() as address:
        yield address


@pytest.fixture(scope="session")
def poolkit_firestore() -> Iterator[str]:
    """Give the address of a private Firestore emulator, for ``emulator_host``. Skips where there is none."""
    server = embedded.firestore()
    try:
        server.start()
    except embedded.EmbeddedError as error:
        pytest.skip(str(error))
    with server as address:
        yield address


@pytest.fixture(scope="session")
def poolkit_http() -> Iterator[str]:
    """Give the address of a private HTTP server; :func:`poolkit.embedded.http` says what it serves."""
    with embedded.http() as address:
        yield address


@pytest.fixture
def poolkit_no_pauses() -> Iterator[None]:
    """Have retries follow one another at once during the test."""
    with no_pauses():
        yield
