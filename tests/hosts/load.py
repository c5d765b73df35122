"""Clients of a web server: one connection a request, so that what became of each is beyond doubt."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from tests.core.support import LONG, Task

PATIENCE = LONG
"""Seconds after which a client no longer waits for its answer: workers that load an app on a busy machine take some."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request. Without a *status* it got no whole answer, and *error* says why."""

    path: str
    began: float
    seconds: float
    status: int = 0
    body: str = ""
    retry_after: str | None = None
    error: str = ""


def ask(port: int, path: str, headers: Iterable[tuple[str, str]] = ()) -> Outcome:
    """Send one GET on a connection of its own."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Connection": "close", **dict(headers)})
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        seconds = time.monotonic() - began
        return Outcome(path=path, began=began, seconds=seconds, error=repr(error))
    finally:
        connection.close()
    return Outcome(
        path=path,
        began=began,
        seconds=time.monotonic() - began,
        status=answer.status,
        body=body,
        retry_after=answer.headers["Retry-After"],
    )


class Load:
    """Asks from *clients* threads, each as soon as it has its last answer, for the length of a block.

    *path* makes the path of a request from its number.
    """

    def __init__(self, port: int, path: Callable[[int], str], *, clients: int) -> None:
        self._port = port
        self._path = path
        self._clients = clients
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._tasks: list[Task] = []
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Load:
        self._tasks = [Task(self._work) for _ in range(self._clients)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Ask nothing more, and wait for the answers that are due."""
        self._over.set()
        for task in self._tasks:
            task.result()

    @property
    def served(self) -> int:
        """How many requests were answered with 200."""
        return sum(outcome.status == 200 for outcome in list(self.outcomes))

    def _work(self) -> None:
        while not self._over.is_set():
            outcome = ask(self._port, self._path(next(self._numbers)))
            self.outcomes.append(outcome)
            if outcome.status != 200:
                self._over.wait(0.01)  # refused at once, it may be: no busy loop


def arrivals(
    port: int, path: Callable[[int], str], *, rate: float, seconds: float, clients: int
) -> list[Outcome]:
    """Send requests at a *rate*, whatever becomes of those before (an open loop); return all outcomes.

    *clients* are the threads that send them: more than there are requests under way at any time.
    """
    numbers = itertools.count()
    start = time.monotonic()
    total = int(rate * seconds)
    outcomes: list[Outcome] = []

    def work() -> None:
        while (number := next(numbers)) < total:
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            outcomes.append(ask(port, path(number)))

    tasks = [Task(work) for _ in range(clients)]
    for task in tasks:
        task.result(seconds + PATIENCE)
    return outcomes


def statuses(outcomes: Iterable[Outcome]) -> dict[int, int]:
    """Return how many outcomes had which status; 0 is for no answer."""
    return dict(Counter(outcome.status for outcome in outcomes))


def quantile(outcomes: Iterable[Outcome], share: float) -> float:
    """Return the seconds within which that *share* of the outcomes came."""
    ordered = sorted(outcome.seconds for outcome in outcomes)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
