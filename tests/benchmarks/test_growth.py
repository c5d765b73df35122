"""Curves of cost: how far work may grow, and what they look like; and servers that are some way off."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.charts import Curve, CurvePanel, Grid
from benchmarks.distance import away
from benchmarks.growth import Line, Plot
from benchmarks.targets import P99
from tests.benchmarks.support import a_cell, a_contender, a_round, results


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 10.0), (100, 1000.0)], 10.0),  # half-way, where both axes are logarithmic
        ([(1, 10.0), (10, 100.0), (100, 50.0)], 100.0),
        ([(1, 10.0)], 1.0),
        ([(1, 101.0), (10, 1.0)], None),
        ([], None),
    ],
)
def test_how_far_work_may_grow(points: growth.Points, expected: float | None) -> None:
    assert growth.reach(points, 100.0) == (None if expected is None else pytest.approx(expected))


def test_lines_leave_out_what_did_not_run() -> None:
    contender = a_contender("ours", ours=True)
    cells = {
        1.0: a_cell(contender, a_round(1, p99=0.001), a_round(1, p99=0.003), threads=1),
        10.0: a_cell(contender, None, threads=10),
    }
    line = Line(label="ours", cells=cells, ours=True)
    assert line.points(P99) == [(1.0, 2.0)]
    answer = growth.answer(
        "growth.x",
        "How?",
        results(*cells.values()),
        [Plot(title="Redis", lines=[line])],
        x_axis="threads",
        ticks={1: "1", 10: "10"},
        measures=(P99,),
    )
    assert answer.tables[0].rows == [["Redis: ours", "2.00", "–"]]


def test_curves_are_drawn_also_those_without_a_point(tmp_path: Path) -> None:
    panel = CurvePanel(
        title="Redis",
        x_axis="threads",
        y_axis="ms",
        curves=[
            Curve(label="ours", points=[(1, 1.0), (10, 2.0)], ours=True),
            Curve(label="theirs", points=[(1, 1.0), (10, 2.0)]),
            Curve(label="broken", points=[]),
        ],
        ticks={1: "1", 10: "10"},
        limit=1.5,
    )
    Grid(title="How?", rows=[[panel]]).draw(tmp_path / "x.png", "note")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_server_that_is_away_answers_a_round_trip_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        echo = threading.Thread(target=_echo, args=(server,))
        echo.start()
        with away(server.getsockname()[1], 0.1) as port:
            with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
                began = time.monotonic()
                client.sendall(b"a" * 100_000)
                assert _received(client, 100_000) == b"a" * 100_000
                first = time.monotonic() - began
                began = time.monotonic()
                client.sendall(b"b")
                assert _received(client, 1) == b"b"
                second = time.monotonic() - began
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        echo.join(10.0)
        assert not echo.is_alive()
    assert second >= 0.1
    assert first >= 0.2  # TCP's handshake too


def _echo(server: socket.socket) -> None:
    client, _ = server.accept()
    with client:
        while data := client.recv(65536):
            client.sendall(data)


def _received(client: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = client.recv(65536)
        assert piece
        data += piece
    return data
