"""The channels of one pool: which is the least busy, and whether the server can be reached.

A channel is one connection. One that is lost is closed, not mended: a new one has no memory of failures, and so
decides nothing by itself about when to connect again. Calls that still run on it may end first.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import grpc

from ..core.deadline import Deadline
from ..core.errors import BackendUnavailable, PoolClosed
from ..core.events import Connected, Events, Failed, Removed
from ..core.gate import Waited
from ..core.housekeeper import housekeeper
from ..core.lease import Lease, LeaseBook
from ..core.outage import Outage
from ..core.prober import PROBE_TIMEOUT, Prober
from ..core.stats import Tally
from . import channels
from .channels import State
from .config import FirestoreConfig
from .credentials import Identity
from .methods import Method

logger = logging.getLogger("poolkit.firestore")

MOMENT = 0.25
"""Seconds that a first call waits for more than one channel."""

MORE_PAUSE = 0.1
"""Seconds between attempts to replace channels that were lost, while others can be used."""

LOST = "its connection was lost"


class Link:
    """One channel, and what is known of it."""

    __slots__ = ("began", "busy", "callables", "channel", "dies", "idle_since", "ready", "retired")

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.callables: dict[Method, Any] = {}
        self.began = perf_counter()
        self.dies = 0.0
        # Guarded by the fleet's lock:
        self.busy = 0
        self.idle_since = monotonic()
        self.ready = False
        self.retired = False

    def callable(self, method: Method, kind: str) -> Any:
        """Return what makes calls of *method* on this channel; *kind* is grpc's: ``unary_unary``, say."""
        made = self.callables.get(method)
        if made is None:
            made = getattr(self.channel, kind)(method.path, method.serialize, method.deserialize)
            self.callables[method] = made
        return made


class Slot:
    """The right to make one call on one channel: what is lent."""

    __slots__ = ("__weakref__", "_fleet", "call", "given_up", "lease", "link")

    def __init__(self, fleet: Fleet, link: Link) -> None:
        self._fleet = fleet
        self.link = link
        self.call: Any = None
        """The call, where it can be cancelled."""
        self.lease: Lease[Slot] | None = None
        self.given_up = False
        """Whether the call was cancelled because it took too long."""

    def give_up(self) -> None:
        """End the call, which takes too long."""
        self.given_up = True
        if self.call is not None:
            self.call.cancel()

    def __del__(self) -> None:
        lease = getattr(self, "lease", None)  # an interruption may come before there is one
        if lease is not None:
            self._fleet.book.forgotten.append(
                (lease, self)
            )  # it lives on there until it is reclaimed


class Fleet:
    """Up to ``config.channels`` channels, for the :class:`~poolkit.core.lending.Lender`."""

    def __init__(
        self, config: FirestoreConfig, identity: Identity, *, tally: Tally, events: Events
    ) -> None:
        self.name = config.name
        self.book: LeaseBook[Slot] = LeaseBook()
        self._prober = Prober(config.name, self._look, outage=lambda: self.outage)
        self.outage = Outage(config.name, housekeeper(), events=events, probe=self._prober.probe)
        self.turn_away: Callable[[Callable[[], BaseException]], None] = lambda error: None  # noqa: ARG005
        """Called with what makes an error, to fail everybody who waits: the server can't be reached."""
        self._config = config
        self._identity = identity
        self._tally = tally
        self._events = events
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._links: list[Link] = []
        self._stopped = False
        self._dialing: threading.Event | None = None  # set when it is over
        self._more_at = 0.0

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "down" if self.outage.cause else "up"
        return f"<Fleet {self.name!r} {state}, {len(self._links)} channels>"

    # -- what the lender asks ------------------------------------------------------------------------

    def take(self, deadline: Deadline, patience: float) -> Slot:
        """Return the right to a call on the least busy channel, connecting first where none is ready."""
        link = self._claim()
        if link is None:
            link = self._dial(deadline, patience)
        return Slot(self, link)

    def put(self, slot: Slot) -> None:
        """Take a right back: its call has ended."""
        link = slot.link
        with self._lock:
            link.busy -= 1
            if not link.busy:
                link.idle_since = monotonic()
            close = link.retired and not link.busy
        if close:
            link.channel.close()

    def discard(self, slot: Slot) -> None:
        """Take a right back whose holder can't end the call: end it."""
        if slot.call is not None:
            channels.end_call(slot.call)
        self.put(slot)

    # -- use -------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether its channels are closed for good."""
        return self._stopped

    def suspect(self, link: Link) -> None:
        """Look at a channel on which a call was lost."""
        if not link.retired and channels.state(link.channel) is not State.READY:
            self._retire(link, LOST)

    def hold(self) -> Link:
        """Return the least busy channel for a call that is no lease, because it may last for days."""
        return self._claim() or self._dial(Deadline.after(self._config.connect_timeout), 1e9)

    def let_go(self, link: Link) -> None:
        """End what :meth:`hold` began."""
        self.put(Slot(self, link))

    def sweep(self) -> None:
        """Look after idle channels: those that have lost their connection, and those that are too old."""
        now = monotonic()
        for link in list(self._links):
            if not link.ready:
                self._settle(link, channels.state(link.channel))
            elif channels.state(link.channel) is not State.READY:
                self._retire(link, LOST)
            elif not link.busy and now - link.idle_since > self._config.idle_timeout:
                self._retire(link, "was idle for too long")
            elif now > link.dies:
                self._retire(link, "reached its maximum lifetime")
                self._connect_more()

    # -- close -----------------------------------------------------------------------------------------

    def stop(self, deadline: Deadline) -> None:
        """Close all channels, and with them the calls that still run."""
        with self._lock:
            self._stopped = True
            links, self._links = self._links, []
        self._prober.end()
        for link in links:
            self._close(link, "closed")
        self._prober.join(deadline)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        for link in self._links:
            channels.disown(link.channel)

    # -- private ---------------------------------------------------------------------------------------

    def _claim(self) -> Link | None:
        """Claim the least busy channel, if one is ready, and none is about to be."""
        while True:
            with self._lock:
                ready = [link for link in self._links if link.ready]
                if not ready or self._dialing is not None:
                    return None
                link = min(ready, key=_busy)
                link.busy += 1
                wants_more = link.busy > 1 and len(ready) < self._config.channels
            if channels.state(link.channel) is State.READY:
                break
            with self._lock:
                link.busy -= 1
            self._retire(link, LOST)
        if wants_more and monotonic() > self._more_at:
            self._connect_more()
        return link

    def _connect_more(self) -> None:
        """Have channels that are missing connect, and wait for none."""
        self._more_at = monotonic() + MORE_PAUSE
        for link in self._fill():
            self._settle(link, channels.state(link.channel))

    def _dial(self, deadline: Deadline, patience: float) -> Link:
        """Claim a channel, connecting; one thread does that, the others wait for it."""
        until = Deadline.after(patience).earlier(deadline)
        began = monotonic()
        while True:
            if self.outage.cause is not None:
                raise self.outage.error()
            with self._lock:
                dialing, mine = self._dialing, threading.Event()
                if dialing is None:
                    self._dialing = mine
            if dialing is None:
                try:
                    self._connect_all(until)
                finally:
                    self._dialing = None
                    mine.set()
            link = self._claim()
            if link is not None:
                return link
            if deadline.expired:
                raise deadline.exceeded(f"pool {self.name!r}", stage="connecting")
            if until.expired:
                raise Waited(monotonic() - began)
            if dialing is not None:
                dialing.wait(until.stretch())

    def _connect_all(self, until: Deadline) -> None:
        """Have all channels connect side by side, and wait for them; raise when not one can.

        Calls that come meanwhile spread over all then, instead of asking more of the first than its server allows.
        But when the first is ready, the others get a moment only.
        """
        bound = Deadline.after(self._config.connect_timeout).earlier(until)
        cause: Exception | None = None
        for link in self._fill():
            cause = self._settle(link, channels.wait_ready(link.channel, bound)) or cause
            if link.ready:
                bound = Deadline.after(MOMENT).earlier(bound)
        if self._stopped:
            raise self._closed()
        if any(link.ready for link in self._links):
            return
        if cause is None and until.expired:
            return  # the caller's time was too short to tell
        limit = self._config.connect_timeout
        raise self._give_up(cause or TimeoutError(f"no connection within {limit:g} s"))

    def _fill(self) -> list[Link]:
        """Have as many channels as there should be; return those that are not ready, and connect."""
        with self._lock:
            if self._stopped:
                raise self._closed()
            while len(self._links) < self._config.channels:
                self._links.append(Link(channels.open_channel(self._config, self._identity)))
            waited_for = [link for link in self._links if not link.ready]
        for link in waited_for:
            channels.connect(link.channel)
        return waited_for

    def _closed(self) -> PoolClosed:
        return PoolClosed(f"pool {self.name!r} is closed; make a new one")

    def _settle(self, link: Link, state: State) -> Exception | None:
        """Take note of what became of a channel that was to connect; return why it can't, if so."""
        if state is State.READY:
            self._welcome(link)
            return None
        if state in (State.IDLE, State.CONNECTING):
            return None
        cause = ConnectionError(channels.why(link.channel) or "the connection was refused")
        self._retire(link, "can't connect")
        return cause

    def _welcome(self, link: Link) -> None:
        """Lend a channel that has connected."""
        seconds = perf_counter() - link.began
        with self._lock:
            if link.ready or link.retired:
                return
            link.ready = True
            link.dies = monotonic() + self._config.max_lifetime * random.uniform(0.95, 1.0)
        shard = self._tally.mine()
        shard.created += 1
        shard.create.add(seconds)
        self._events.tell(Connected, seconds=seconds)
        self.outage.up()()

    def _give_up(self, cause: Exception) -> BackendUnavailable:
        """Tell all that wait that the server can't be reached, and return the error that says so."""
        tell = self.outage.down(cause)
        self.turn_away(self.outage.error)
        self._events.tell(Failed, error=cause)
        tell()
        for link in list(self._links):
            if not link.ready:
                self._retire(link, "can't connect")
        return self.outage.error()

    def _retire(self, link: Link, reason: str) -> None:
        """Lend a channel no more, and close it when its last call has ended."""
        with self._lock:
            if link.retired:
                return
            if link in self._links:
                self._links.remove(link)
            link.retired = True
            close, was_ready = not link.busy, link.ready
        if close:
            link.channel.close()
        if was_ready:
            self._tally.mine().closed += 1
            self._events.tell(Removed, reason=reason)

    def _close(self, link: Link, reason: str) -> None:
        """Close a channel now, whatever runs on it."""
        with self._lock:
            was_ready = link.ready and not link.retired
            link.retired = True
        link.channel.close()
        if was_ready:
            self._tally.mine().closed += 1
            self._events.tell(Removed, reason=reason)

    def _look(self) -> Callable[[], object]:
        """Look whether the server is back; return what tells that."""
        try:
            link = Link(channels.open_channel(self._config, self._identity))
            state = channels.wait_ready(link.channel, Deadline.after(PROBE_TIMEOUT))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not back
            return partial(self._is_away, error)
        with self._lock:
            kept = state is State.READY and not self._stopped
            if kept:
                self._links.append(link)
        if kept:
            return partial(self._welcome, link)
        cause = ConnectionError(channels.why(link.channel) or "no connection in time")
        self._close(link, "can't connect")
        return partial(self._is_away, cause)

    def _is_away(self, cause: Exception) -> None:
        self.outage.down(cause)()


def _busy(link: Link) -> int:
    return link.busy
