"""What the tests of MCP servers share: running them, in memory and as processes, and looking at what is left."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psycopg
from mcp import StdioServerParameters
from mcp_types import CallToolResult

from ..core.support import LONG, eventually

SHOP = Path(__file__).with_name("mcp_shop.py")
ROOT = Path(__file__).parents[2]

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]], *, seconds: float = 50.0) -> T:
    """Run *main* in an event loop; fail if it has not ended in so many *seconds*."""

    async def bounded() -> T:
        with anyio.fail_after(seconds):
            return await main()

    return anyio.run(bounded)


async def happens(condition: Callable[[], Any]) -> None:
    """Wait until *condition* holds, off the event loop."""
    await anyio.to_thread.run_sync(eventually, condition)


def said(result: Any) -> str:
    """Return the text of a result, without its reference to the log."""
    assert isinstance(result, CallToolResult)
    return re.sub(
        r" \(Reference [0-9a-f]{8}\.\)", "", "\n".join(part.text for part in result.content)
    )


def failure(result: Any) -> dict[str, Any]:
    """Return what a program is told of a failure."""
    assert result.is_error
    told = dict(result.meta["poolkit/failure"])
    assert f"(Reference {told.pop('reference')}.)" in result.content[0].text
    return told


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a server process."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("POOLKIT_")
    }
    # Google's libraries say goodbye to Python 3.10, at their import.
    warnings = "default,ignore:You are using a non-supported Python version:FutureWarning"
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": warnings, **settings}


def over_stdio(
    script: Path = SHOP, *, arguments: Sequence[str] = ("stdio",), **settings: str
) -> StdioServerParameters:
    """Return how a client starts *script* and speaks to it over its pipes."""
    return StdioServerParameters(
        command=sys.executable, args=[str(script), *arguments], env=environment(**settings)
    )


class HttpProcess:
    """A server process that speaks HTTP."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def stop(self) -> None:
        """Tell it to end, and wait until it has."""
        self.process.terminate()
        status = self.process.wait(LONG)
        assert status == -signal.SIGTERM  # uvicorn raises it again once it has shut down


@contextmanager
def over_http(
    log: Path, *, arguments: Sequence[str] = (), **settings: str
) -> Iterator[HttpProcess]:
    """Run the shop as a process that speaks HTTP and logs to *log*; end it at the end, whatever happens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)  # who comes before the server is ready waits
        listener.set_inheritable(True)
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, str(SHOP), "http", str(listener.fileno()), *arguments],
                env=environment(**settings),
                stdout=errors,
                stderr=errors,
                text=True,
                pass_fds=[listener.fileno()],
            )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    try:
        yield HttpProcess(process, url)
    finally:
        process.kill()
        process.wait(LONG)


class Watch:
    """Sees what goes on in a PostgreSQL server."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def running(self, mark: str) -> int:
        """Return how many statements with *mark* run."""
        return self._count("state = 'active' and query like %s", f"%{mark}%")

    def connections(self, application: str) -> int:
        """Return how many connections that call themselves *application* are open."""
        return self._count("application_name = %s", application)

    def _count(self, condition: str, value: str) -> int:
        row = self._connection.execute(
            f"select count(*) from pg_stat_activity where pid <> pg_backend_pid() and {condition}",
            [value],
        ).fetchone()
        assert row is not None
        return int(row[0])
