"""The world that the pages speak of: an application's database, its cache, an API that it calls.

Pages name servers that don't exist, such as ``postgresql://app@db/app``. When their blocks are run, each address in the
table that :meth:`World.addresses` returns is exchanged for that of a real server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

from poolkit.embedded import PostgresServer, RedisCluster

SCHEMA = """
    create table users (id int primary key, org int, name text, seen timestamptz);
    insert into users values (1, 7, 'Ada', null), (2, 7, 'Bob', null), (3, 8, 'Cy', null);
    create table audit (at timestamptz default now(), who int);
    create table accounts (id int primary key, balance int check (balance >= 0));
    insert into accounts values (1, 100), (2, 100);
    create function slow_report(org int) returns int language sql as 'select org';
"""

USERS = [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bob"}]


@contextmanager
def database(server: PostgresServer) -> Iterator[str]:
    """Make a database for the length of a block, which gets its conninfo."""
    with psycopg.connect(server.conninfo, autocommit=True) as conn:
        conn.execute("create database app")
        conninfo = server.conninfo.rpartition("/")[0] + "/app"
        try:
            yield conninfo
        finally:
            conn.execute("drop database app with (force)")


def fill(conninfo: str) -> None:
    """Put the application's tables into its database, in the place of whatever is there."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute("drop schema public cascade; create schema public;" + SCHEMA)


class _Service(BaseHTTPRequestHandler):
    """The API: users to be read and made, orders that are never confirmed, an export, somebody who isn't there."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/users"):
            self._answer(200, json.dumps(USERS).encode())
        elif path.endswith("/users/7"):
            self._answer(200, json.dumps({"id": 7, "name": "Eve"}).encode())
        elif path.endswith("/export"):
            self._answer(200, bytes(100_000))
        elif path.endswith("/"):
            self._answer(200, b"{}")
        else:
            self._answer(404, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/orders"):
            self.close_connection = True  # taken, but nobody is told
            return
        self._answer(201, b'{"id": 8}')

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client may leave a body unread."""


@contextmanager
def service() -> Iterator[str]:
    """Run the API for the length of a block, which gets its URL."""
    with _Server(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(5)


def addresses(postgres: str, redis: str, api: str) -> dict[str, str]:
    """Return what is written in the pages, and what it stands for."""
    return {
        "postgresql://app@db.internal/app": postgres,
        "postgresql://app@db/app": postgres,
        "postgresql://app@db/shop": postgres,
        "postgresql+psycopg://app@db/app": postgres.replace("://", "+psycopg://"),
        "redis://:password@cache:6379/0": redis,
        "redis://cache:6379/0": redis,
        "redis://cache:6379": redis,
        "https://api.example.com": api,
    }


def cluster_addresses(cluster: RedisCluster) -> dict[str, str]:
    """Return the same for a cluster, of which pages name two nodes."""
    first, second = cluster.nodes[:2]
    password = cluster.servers[0].password
    return {"a:6379": first, "b:6379": second, 'password="password"': f'password="{password}"'}
