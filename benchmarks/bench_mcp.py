"""500 concurrent calls of an MCP tool over streamable HTTP, one server process: what do three pools add to a no-op?

The load comes from this process, of which the server knows nothing: raw POSTs over kept-alive connections, in the
protocol without sessions, answered by plain JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

import redis

from benchmarks import answers
from benchmarks.answers import Answer
from benchmarks.asks import Ask, Expected, asking
from benchmarks.crew import Contender, Timing
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import P99, Target
from benchmarks.web import SMALL, served
from poolkit.embedded import PostgresServer, RedisServer

QUESTIONS = ("mcp_calls", "mcp_threads")
PACKAGES = ("mcp", "anyio", "uvicorn", "starlette", "pydantic")

CALLS = 500
KEYS = 1_000
VERSION = "2026-07-28"
PATIENCE = 60.0
TIMING = Timing(warmup=1.5, seconds=3.0, patience=PATIENCE)  # doubled with so many calls at once

NOOP = "no-op tool, plain MCPServer"
POOLED = "Redis + Postgres + HTTP, PooledServer"
FEW = 20
FITTED = f"{POOLED}, {FEW} threads"
"""With fewer threads than the default, which suits slow backends too: where they are fast, it hardly matters."""

TARGETS = (
    Target(name="mcp", contender=FITTED, peer=NOOP, threads=CALLS, measure=P99, at_most=2.0),
    Target(
        name="mcp, default", contender=POOLED, peer=NOOP, threads=CALLS, measure=P99, at_most=2.0
    ),
    Target(name="mcp", contender=FITTED, threads=CALLS, measure=P99),
    Target(name="mcp, default", contender=POOLED, threads=CALLS, measure=P99),
    Target(name="mcp", contender=NOOP, threads=CALLS, measure=P99),
)
THREADS = (5, 20, 250)
VALUES: Expected = [(number, f"v{number}") for number in range(KEYS)]


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start the backends and a server process for each contender, race, and answer."""
    plan = dataclasses.replace(plan, timing=_shorter(TIMING) if plan.quick else TIMING)
    with ExitStack() as running:
        environment = running.enter_context(_backends())
        plain = running.enter_context(_server("noop", environment))
        if "mcp_calls" in wanted:
            few = {**environment, "SHOP_THREADS": str(FEW)}
            with _server("pooled", environment) as pooled, _server("pooled", few) as fitted:
                ports = {NOOP: plain, POOLED: pooled, FITTED: fitted}
                question = f"{CALLS} concurrent tool calls: what do three pools add to a no-op?"
                yield _answer("mcp_calls", question, ports, plan, watcher, NOOP, TARGETS)
        if "mcp_threads" in wanted:
            ports = {NOOP: plain, POOLED: running.enter_context(_server("pooled", environment))}
            for threads in THREADS:
                settings = {**environment, "SHOP_THREADS": str(threads)}
                ports[f"the same, {threads} threads"] = running.enter_context(
                    _server("pooled", settings)
                )
            question = f"{CALLS} concurrent tool calls: how many threads?"
            yield _answer("mcp_threads", question, ports, plan, watcher, NOOP, ())


def _answer(
    name: str,
    question: str,
    ports: dict[str, int],
    plan: Plan,
    watcher: Watcher,
    reference: str,
    targets: Sequence[Target],
) -> Answer:
    contenders = [
        Contender(
            who, partial(asking, partial(_asks, port), VALUES), ours=who != NOOP, floor=who == NOOP
        )
        for who, port in ports.items()
    ]
    race = Race(name=f"mcp.{name}", contenders=contenders, threads=(CALLS,), budget=180.0)
    results = race.run(plan, watcher)
    answer = answers.speed(f"mcp.{name}", question, results, reference, targets)
    leaks = [
        f"{who}: {count} connections leaked or are still held"
        for who, port in ports.items()
        if who != NOOP and (count := _leaks(port))
    ]
    return dataclasses.replace(answer, failures=[*answer.failures, *leaks])


def _shorter(timing: Timing) -> Timing:
    return dataclasses.replace(timing, warmup=timing.warmup / 2, seconds=timing.seconds / 2)


@contextmanager
def _backends() -> Iterator[dict[str, str]]:
    """Run what the tool asks, and give the settings of a server that asks them."""
    with RedisServer() as url, PostgresServer() as conninfo, served() as web:
        with closing(redis.Redis.from_url(url)) as client:
            client.mset({f"k{number}": value for number, value in VALUES})
        yield {
            "POOLKIT_REDIS_URL": url,
            "POOLKIT_POSTGRES_CONNINFO": conninfo,
            "SHOP_SERVICE": web.url(SMALL),
        }


@contextmanager
def _server(kind: str, settings: dict[str, str]) -> Iterator[int]:
    """Run a server process, and give its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)  # who comes before the server is ready waits
        port: int = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.mcp_shop", kind, str(listener.fileno())],
            env={**os.environ, **settings},
            pass_fds=[listener.fileno()],
        )
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _asks(port: int, threads: int) -> Iterator[Sequence[Ask]]:
    with ExitStack() as connections:
        yield [_look_up(connections.enter_context(closing(Line(port)))) for _ in range(threads)]


def _look_up(line: Line) -> Ask:
    return lambda number: line.call("look_up", {"number": number})


def _leaks(port: int) -> int:
    with closing(Line(port)) as line:
        return int(line.call("leaks", {}))


class Line:
    """One connection to a server, over which tools are called with as little as possible."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Return the text that *tool* returns. Raises RuntimeError for anything but that."""
        self._socket.sendall(_request(tool, arguments))
        head, body = self._answer()
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{head.splitlines()[0]!r}: {body[:200]!r}")
        result = json.loads(body)["result"]
        text: str = result["content"][0]["text"]
        if result.get("isError"):
            raise RuntimeError(text)
        return text

    def close(self) -> None:
        self._socket.close()

    def _answer(self) -> tuple[bytes, bytes]:
        received = self._socket.recv(65536)
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        _, _, after = head.lower().partition(b"content-length:")
        length = int(after.split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._more()
        return head, body

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server hung up")
        return data


def _request(tool: str, arguments: dict[str, Any]) -> bytes:
    about = "io.modelcontextprotocol/"
    meta = {
        f"{about}protocolVersion": VERSION,
        f"{about}clientInfo": {"name": "bench", "version": "1"},
        f"{about}clientCapabilities": {},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    body = json.dumps(message).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: application/json, text/event-stream\r\n"
        f"Content-Type: application/json\r\nMCP-Protocol-Version: {VERSION}\r\n"
        f"Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
