"""What the kernel knows of a plain socket: how long its reads may take."""

from __future__ import annotations

from time import monotonic

import pytest

from poolkit.core import kernel_time
from poolkit.core.kernel_time import SLACK, KernelTime

LATE = 0.2  # seconds that a busy machine may add


def test_a_read_ends_in_its_time_and_a_later_one_in_its_own(ends):
    near, far = ends
    time = KernelTime(near)
    for seconds in (0.2, 0.05):
        time.allow(near, seconds)
        began = monotonic()
        with pytest.raises(BlockingIOError):
            near.recv(1)
        assert seconds - 0.005 <= monotonic() - began < seconds + SLACK + LATE
    time.allow(near, 5.0)
    far.send(b"x")
    assert near.recv(1) == b"x"


def test_the_kernel_is_told_only_what_makes_a_difference(ends, monkeypatch):
    near, _ = ends
    time = KernelTime(near)
    told = []

    class Spy:
        def setsockopt(self, *args: object) -> None:
            told.append(args)

    for seconds in (10.0, 9.999, 9.991, 12.0, 19.0):
        time.allow(Spy(), seconds)
    assert len(told) == 1
    time.allow(Spy(), 9.98)
    time.allow(Spy(), 20.0)
    assert len(told) == 3


def test_what_can_not_be_sent_in_time_is_not_sent(ends):
    near, _ = ends
    while kernel_time.send(near, bytes(1 << 20), 0.01):
        pass
    began = monotonic()
    assert kernel_time.send(near, b"x", 0.05) == 0
    assert 0.045 <= monotonic() - began < 0.05 + LATE
