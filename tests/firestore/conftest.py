"""What the tests of FirestorePool share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from poolkit import FirestorePool
from poolkit.embedded import FirestoreServer

_numbers = itertools.count()


@pytest.fixture
def project() -> str:
    """Give the name of a project that no other test uses, and which therefore is empty."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def make_store(
    firestore_server: FirestoreServer, project: str
) -> Iterator[Callable[..., FirestorePool]]:
    """Give a maker of pools over the shared emulator, in the project of this test."""
    with ExitStack() as pools:

        def make(**settings: Any) -> FirestorePool:
            settings = {"emulator_host": firestore_server.emulator_host, **settings}
            return pools.enter_context(FirestorePool(project, **settings))

        yield make


@pytest.fixture
def store(make_store: Callable[..., FirestorePool]) -> FirestorePool:
    """Give a pool over the shared emulator, in a project of its own."""
    return make_store()
