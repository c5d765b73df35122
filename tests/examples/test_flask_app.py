"""The Flask app of the examples, as it is run: by its commands, and as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from examples.flask_app import create_app

from ..core.support import LONG, eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_app.py"


@pytest.fixture
def app(conninfo, redis_url):
    """Give the app; what it made is dropped again."""
    app = create_app(
        POOLKIT_POSTGRES_CONNINFO=conninfo,
        POOLKIT_POSTGRES_MIN_SIZE=1,
        POOLKIT_REDIS_URL=redis_url,
    )
    yield app
    app.extensions["poolkit"].kit.close()
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute("drop table if exists customers")


def test_its_commands_find_its_servers(app):
    def flask(*arguments):
        result = app.test_cli_runner().invoke(args=arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "init-db" in flask("--help")
    flask("init-db")
    assert flask("pools", "check").count(" healthy ") == 3
    assert json.loads(flask("pools", "stats", "--json"))["postgres"]["operations"] > 0
    assert "in use" in flask("pools", "leaks")


def test_it_runs_with_servers_of_its_own(tmp_path):
    environ = {name: value for name, value in os.environ.items() if "POOLKIT" not in name}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environ, "PORT": "0"},
        )
    try:
        use(port_of(process, log))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(LONG)
        finally:
            process.kill()
            process.wait(LONG)


def use(port):
    """Do with the app at *port* what its users do."""
    status, text = ask(port, "POST", "/customers", {"name": "Ada"})
    assert (status, json.loads(text)) == (201, {"id": 1})
    for cached in (False, True):
        status, text = ask(port, "GET", "/customers/1")
        assert json.loads(text) == {"id": 1, "name": "Ada", "cached": cached}
    assert ask(port, "GET", "/customers/2")[0] == 404
    assert ask(port, "GET", "/customers.csv") == (200, "1,Ada\n")
    assert ask(port, "GET", "/livez")[0] == 200
    status, text = ask(port, "GET", "/readyz")
    assert (status, json.loads(text)["ready"]) == (200, True)


def ask(port, method, path, body=None):
    """Return status and body of what the app answers."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
    try:
        client.request(
            method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"}
        )
        response = client.getresponse()
        return response.status, response.read().decode()
    finally:
        client.close()


def port_of(process, log):
    """Wait until the app says where it listens."""

    def listens():
        return re.search(r"Running on http://127\.0\.0\.1:(\d+)", log.read_text())

    eventually(lambda: listens() or process.poll() is not None)
    found = listens()
    assert found, log.read_text()
    return int(found[1])
