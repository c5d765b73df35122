"""Where connections lie between two leases, while others come and go."""

from __future__ import annotations

import sys

from poolkit.core.events import Events
from poolkit.core.stats import Tally
from poolkit.redis.connection import TcpConnection
from poolkit.redis.shelf import Shelf


def test_the_connections_can_be_looked_at_while_others_come_and_go():
    """They come at each call that is made meanwhile, which is where another thread may take its turn."""
    shelf = Shelf(idle_timeout=30.0, tally=Tally(), events=Events("shelf", ()))
    there = []

    def come(frame=None, event="call", called=None):
        if event in ("call", "c_call"):
            there.append(TcpConnection(host="127.0.0.1", port=1))
            shelf.add(there[-1], 0.0)

    come()
    come()
    for look in (shelf.reaches_server, shelf.disown, lambda: len(shelf)):
        sys.setprofile(come)
        try:
            look()
        finally:
            sys.setprofile(None)

    assert len(shelf) == len(there) > 10
    for conn in there:
        shelf.close(conn, "over")
    assert len(shelf) == 0
