"""Names are looked up within a deadline, each once at a time."""

from __future__ import annotations

import os
import socket
import threading
from time import monotonic

import pytest

from poolkit.core import resolving
from poolkit.core.deadline import NEVER, Deadline
from poolkit.core.resolving import resolve

from .support import LONG, Task, eventually


class Names:
    """A name server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.error: Exception | None = None
        self._ask = socket.getaddrinfo

    def __call__(self, host, port, **options):
        self.asked.append(host)
        assert self.may_answer.wait(LONG)
        if self.error is not None:
            raise self.error
        return self._ask("127.0.0.1", port, **options)


@pytest.fixture
def names(monkeypatch):
    """Give a name server that is silent."""
    names = Names()
    monkeypatch.setattr(resolving.socket, "getaddrinfo", names)
    yield names
    names.may_answer.set()
    eventually(lambda: not resolving._under_way)


def test_a_name_is_resolved_as_getaddrinfo_does():
    assert resolve("localhost", 6379, NEVER) == socket.getaddrinfo(
        "localhost", 6379, type=socket.SOCK_STREAM
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_an_address_takes_no_thread(monkeypatch, host):
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    assert resolve(host, 6379, NEVER) == socket.getaddrinfo(host, 6379, type=socket.SOCK_STREAM)


def test_a_name_server_that_is_silent_holds_nobody_longer_than_the_deadline(names):
    began = monotonic()
    for _ in range(3):
        with pytest.raises(TimeoutError, match="'db' could not be looked up in time"):
            resolve("db", 6379, Deadline.after(0.1))

    assert 0.3 <= monotonic() - began < 1.0
    assert names.asked == ["db"]


def test_those_who_want_the_same_name_wait_for_one_lookup(names):
    tasks = [Task(resolve, "db", 6379, NEVER) for _ in range(10)]
    other = Task(resolve, "cache", 6379, NEVER)
    eventually(lambda: len(names.asked) == 2)

    names.may_answer.set()

    assert [task.result()[0][4] for task in (*tasks, other)] == [("127.0.0.1", 6379)] * 11
    assert names.asked.count("cache") == 1


def test_a_lookup_is_made_anew_after_the_last_has_ended(names):
    names.may_answer.set()
    for _ in range(3):
        resolve("db", 6379, NEVER)

    assert names.asked == ["db"] * 3


def test_an_error_is_told_to_all(names):
    names.error = socket.gaierror(socket.EAI_NONAME, "unknown")
    tasks = [Task(resolve, "db", 6379, NEVER) for _ in range(3)]
    eventually(lambda: names.asked)
    names.may_answer.set()

    errors = [task.end() for task in tasks]
    assert [(type(error), str(error)) for error in errors] == [
        (socket.gaierror, str(names.error))
    ] * 3
    assert len(set(map(id, errors))) == 3


def test_no_thread_to_be_had_is_an_error_of_this_lookup_alone(names, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="no thread can be had to look up 'db'"):
            resolve("db", 6379, NEVER)

    names.may_answer.set()
    assert resolve("db", 6379, NEVER)


def test_a_forked_child_asks_by_itself(names):
    with pytest.raises(TimeoutError):
        resolve("db", 6379, Deadline.after(0.01))

    pid = os.fork()
    if pid == 0:
        names.may_answer.set()
        os._exit(0 if resolve("db", 6379, Deadline.after(5)) else 1)
    assert os.waitpid(pid, 0)[1] == 0
