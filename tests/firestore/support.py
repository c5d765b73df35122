"""What the tests of FirestorePool share."""

from __future__ import annotations

from google.cloud.firestore import Increment

from poolkit import FirestorePool
from poolkit.firestore.running import Running

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""

ONE_MORE = Increment(1)


def running_of(store: FirestorePool) -> Running:
    """Return what runs of a pool that is open."""
    running = store._lifecycle.running
    assert running is not None
    return running


def number_at(store: FirestorePool, path: str) -> int:
    """Return the number that a counter has come to, 0 if there is none."""
    data = store.get(path).to_dict()
    return 0 if data is None else data["n"]
