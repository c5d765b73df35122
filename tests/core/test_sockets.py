"""What a socket tells of the other end, without a round trip."""

from __future__ import annotations

import select
import socket
import sys

import pytest

from poolkit.core.sockets import hung_up, is_silent


def wait_for_something(sock: socket.socket) -> None:
    assert select.select([sock], [], [], 5)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't count what comes")
class TestSilence:
    def test_all_that_came_was_read(self, ends):
        near, far = ends
        assert is_silent(near, 0)
        far.send(b"12345")
        wait_for_something(near)
        assert near.recv(10) == b"12345"
        assert is_silent(near, 5)

    def test_not_if_something_came_that_was_not_read(self, ends):
        near, far = ends
        far.send(b"12345")
        wait_for_something(near)
        near.recv(4)
        assert not is_silent(near, 4)

    def test_not_if_the_other_side_has_ended(self, ends):
        near, far = ends
        far.send(b"12345")
        wait_for_something(near)
        near.recv(10)
        far.close()
        wait_for_something(near)
        assert not is_silent(near, 5)

    def test_not_if_it_was_reset(self, ends):
        near, far = ends
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        wait_for_something(near)
        assert not is_silent(near, 0)


def test_it_is_not_known_of_other_sockets():
    near, far = socket.socketpair()
    with near, far:
        assert not is_silent(near, 0)


def test_who_has_hung_up_is_known_though_something_is_left_to_read(ends):
    near, far = ends
    assert not hung_up(near.fileno())
    far.send(b"12345")
    far.close()
    wait_for_something(near)
    assert hung_up(near.fileno())
    near.close()
    assert hung_up(near.fileno())
