"""Names resolve as scripted, also for poolkit's own lookups; others as ever."""

from __future__ import annotations

import socket

import pytest

from poolkit.core.deadline import Deadline
from poolkit.core.resolving import resolve
from tests.http.dns import ScriptedDns


def found(name: str, seconds: float = 10.0) -> list[str]:
    return [each[4][0] for each in resolve(name, 80, Deadline.after(seconds))]


def test_addresses_come_in_their_order(dns: ScriptedDns) -> None:
    dns.answers("a.example", "192.0.2.1", "2001:db8::1")
    assert found("a.example") == ["192.0.2.1", "2001:db8::1"]
    assert socket.getaddrinfo("a.example", 1, family=socket.AF_INET6)[0][4][0] == "2001:db8::1"
    assert dns.asked == ["a.example", "a.example"]


def test_a_second_look_may_find_another(dns: ScriptedDns) -> None:
    dns.changes("a.example", "192.0.2.1", "10.0.0.1")
    assert [found("a.example") for _ in range(3)] == [["192.0.2.1"], ["10.0.0.1"], ["10.0.0.1"]]


def test_a_name_may_not_be_found(dns: ScriptedDns) -> None:
    dns.fails("a.example")
    with pytest.raises(socket.gaierror):
        found("a.example")


def test_a_lookup_hangs_until_it_is_released(dns: ScriptedDns) -> None:
    hang = dns.hangs("a.example", "192.0.2.1")
    with pytest.raises(TimeoutError):
        found("a.example", 0.05)
    assert hang.asked.is_set()
    hang.release()
    assert found("a.example") == ["192.0.2.1"]


def test_other_names_are_looked_up_as_ever(dns: ScriptedDns) -> None:
    assert "127.0.0.1" in found("localhost")
    assert dns.asked == []
