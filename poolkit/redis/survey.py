"""Ask the nodes of a cluster, one after the other, where the slots are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ClusterDownError, NoPermissionError
from redis.utils import str_if_bytes

from ..core.deadline import Deadline
from .address import Server
from .config import RedisConfig
from .dial import ask

ASK_TIMEOUT = 2.0
"""Seconds that one node may take to say what it knows of the cluster, before the next one is asked."""

SlotMap = list[tuple[int, int, Server]]
"""The first and the last slot of a range, and the master that serves it."""


def survey(
    servers: Sequence[Server],
    silent: Sequence[Server],
    config: RedisConfig,
    ended: Callable[[], bool],
) -> SlotMap:
    """Return where the slots are, as the first one says that knows.

    Those that were *silent* before are asked last, and only if no other one has answered: they may take their time.
    Raises why the last one was of no use.
    """
    last: Exception | None = None
    answered = False
    for server in dict.fromkeys((*servers, *silent)):
        if ended() or (answered and server in silent):
            break
        try:
            serves, reply = _ask(server, config)
        except Exception as error:  # noqa: BLE001 - the next one may know
            last = error
            continue
        answered = True
        if not serves:
            last = ClusterDownError(f"{server} says that the cluster does not serve")
            continue
        ranges = _parse(reply, server)
        if ranges:
            return ranges
        last = ClusterDownError(f"{server} knows of no slots: the cluster is not made yet")
    raise last or ClusterDownError("no node of the cluster can be asked")


def _ask(server: Server, config: RedisConfig) -> tuple[bool, Any]:
    """Return whether *server* says that the cluster serves, and where it says the slots are."""
    until = Deadline.after(ASK_TIMEOUT)
    slots = ("CLUSTER", "SLOTS")
    try:
        info, reply = ask(
            server, config, ("CLUSTER", "INFO"), slots, until=until, timeout=ASK_TIMEOUT
        )
    except NoPermissionError:  # of the two, this user needs to be allowed only CLUSTER SLOTS
        (reply,) = ask(server, config, slots, until=until, timeout=ASK_TIMEOUT)
        return True, reply
    return "cluster_state:ok" in str_if_bytes(info), reply


def _parse(reply: Any, asked: Server) -> SlotMap:
    """Return what ``CLUSTER SLOTS`` answered: ``[first, last, [host, port, …master], …replicas]`` each."""
    ranges = []
    for first, last, master, *_ in reply:
        host, port = master[0], master[1]
        host = host.decode() if isinstance(host, bytes) else host
        ranges.append((int(first), int(last), Server(host or asked.host, int(port))))
    return ranges
