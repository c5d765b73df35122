"""What the tests of HttpPool's bad days share."""

from __future__ import annotations

from poolkit import HttpPool
from poolkit.core.deadline import NEVER
from poolkit.core.gate import Waited
from poolkit.http.events import HttpListener
from poolkit.http.host import Host
from poolkit.http.target import parse
from tests.http.scripted import Conversation, Script, response
from tests.recorder import Recorder, recording

PROMISED = 0.05
"""Seconds after the deadline by which a call has ended."""

SCHEDULING = 0.2
"""Seconds that a busy machine may add to what is promised."""


class HttpRecorder(Recorder, HttpListener):
    """Remembers requests and answers too."""

    requested = recording("requested")
    answered = recording("answered")


def host_of(http: HttpPool, url: str) -> Host:
    """Return the host of *url*, which was called before."""
    running = http._lifecycle.running
    assert running is not None
    return running.hosts._hosts[parse(url).origin]


def sweep(http: HttpPool) -> None:
    """Do now what is done each second."""
    running = http._lifecycle.running
    assert running is not None
    running.hosts.sweep()


def turns_left(http: HttpPool, url: str) -> int:
    """Return how many connections to the host of *url* could be lent now."""
    gate = host_of(http, url).node.lender.gate
    entered = 0
    try:
        while True:
            gate.enter(NEVER, 0.0)
            entered += 1
    except Waited:
        return entered
    finally:
        for _ in range(entered):
            gate.leave()


def echo_path(talk: Conversation) -> None:
    """Answer each request with its target."""
    while True:
        talk.send(response(talk.request().target.encode()))


def silent(talk: Conversation) -> None:
    """Read one request, and say nothing."""
    talk.request()
    talk.stall()


def first_then(first: Script, others: Script) -> Script:
    """Return a script: the first connection has *first*, all others have *others*."""
    return lambda talk: first(talk) if talk.index == 0 else others(talk)
