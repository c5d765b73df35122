"""A pool that fails and dawdles as a test says."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any

from ..core import checks
from ..core.errors import ConfigError


class Faulty:
    """Stands for *pool*, and does as that does, but for the calls that are to fail or to take longer.

    .. code-block:: python

        db = Faulty(PostgresPool("host=db"))
        db.fail(PoolTimeout("none"), calls=2, on="query")     # the next two calls of query()
        db.delay(0.2)                                         # each call takes 0.2 s longer
        db.heal()                                             # all is as it was
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        # Guarded by _lock: errors to raise, by the method that is to raise them; "" is any.
        self._errors: dict[str, deque[BaseException]] = {}
        self._delays: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Faulty {self._pool!r}>"

    def fail(self, error: BaseException, *, calls: int = 1, on: str = "") -> None:
        """Have the next *calls* raise *error*: those of the method *on*, or of any, before anything is done."""
        if not isinstance(error, BaseException):
            raise ConfigError(f"error must be an exception, not {checks.kind(error)}")
        checks.count("calls", calls, at_least=1)
        self._check_method(on)
        with self._lock:
            self._errors.setdefault(on, deque()).extend([error] * calls)

    def delay(self, seconds: float, *, on: str = "") -> None:
        """Have each call take so many *seconds* longer: those of the method *on*, or all."""
        checks.seconds("seconds", seconds)
        self._check_method(on)
        with self._lock:
            self._delays[on] = seconds

    def heal(self) -> None:
        """Have no call fail or take longer."""
        with self._lock:
            self._errors.clear()
            self._delays.clear()

    def __enter__(self) -> Faulty:
        self._pool.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._pool.__exit__(*reason)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pool, name)
        if name.startswith("_") or not callable(found) or isinstance(found, type):
            return found
        return self._troubled(name, found)

    def _troubled(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                seconds = self._delays.get(name, self._delays.get("", 0.0))
                error = self._next_error_locked(name) or self._next_error_locked("")
            if seconds:
                time.sleep(seconds)
            if error is not None:
                raise error
            return method(*args, **options)

        return call

    def _next_error_locked(self, name: str) -> BaseException | None:
        waiting = self._errors.get(name)
        return waiting.popleft() if waiting else None

    def _check_method(self, name: str) -> None:
        if name and not callable(getattr(self._pool, name, None)):
            raise ConfigError(f"on: {type(self._pool).__name__} has no method {name!r}")
