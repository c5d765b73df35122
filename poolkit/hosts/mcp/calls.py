"""One call of a tool, or of anything else that a client asks for: its deadline, its end, and what its failure means."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Coroutine, Iterable
from time import perf_counter
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ...core.deadline import Cancellation, Deadline, deadline
from ...kit.backends import AnyPool
from ..held import recall
from .failures import CallFailed, explained, leaves
from .threads import Threads

logger = logging.getLogger("poolkit.hosts")

MARK = "__poolkit_bounded__"
"""Set on functions that are bounded, to themselves: what copies their attributes is another function."""

AsyncFunction = Callable[..., Coroutine[Any, Any, Any]]


class Surroundings(Protocol):
    """What a call needs of the server that it is made in."""

    @property
    def threads(self) -> Threads:
        """The worker threads of the running event loop."""

    @property
    def in_use(self) -> Iterable[AnyPool]:
        """The pools whose connections a call may hold."""


def bounded(
    fn: Callable[..., Any], *, name: str, seconds: float, within: Surroundings
) -> AsyncFunction:
    """Return *fn* as a coroutine function: with a deadline, ended by cancellation, its failures told to a model.

    Its signature, annotations and docstring stay. One that is not a coroutine function runs in a worker thread.
    """
    what = f"tool {name!r}"
    blocks = not is_async(fn)

    @functools.wraps(fn)
    async def bound(*args: Any, **kwargs: Any) -> Any:
        cancellation = Cancellation()
        with deadline(seconds, cancellation=cancellation) as until:
            try:
                work = functools.partial(fn, *args, **kwargs)
                if blocks:
                    return await _in_thread(within, what, work, until, cancellation)
                return await _awaited(work, cancellation)
            except Exception as error:
                told = explained(error, until.budget if until.expired else None)
                if told is None:
                    raise
                await checkpoint_if_cancelled()  # then nobody waits to be told
                _log(what, error, told)
                raise told from error

    setattr(bound, MARK, bound)
    return bound


def is_bounded(fn: Callable[..., Any]) -> bool:
    """Whether *fn* came from :func:`bounded`, or is a method that did."""
    fn = getattr(fn, "__func__", fn)
    return getattr(fn, MARK, None) is fn


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether *fn* is, or is called as, a coroutine function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def _log(what: str, error: Exception, told: CallFailed) -> None:
    """Log all of *error*. Its traceback only for who debugs: in an outage, many of them would be the next one."""
    logger.warning(
        "%s failed, %s (reference %s): %s",
        what,
        told.reason,
        told.reference,
        "; ".join(f"{type(each).__name__}: {each}" for each in leaves(error)),
        exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
        extra={"reference": told.reference},
    )


async def _in_thread(
    within: Surroundings,
    what: str,
    work: Callable[[], Any],
    until: Deadline,
    cancellation: Cancellation,
) -> Any:
    def leaving_nothing() -> Any:
        began = perf_counter()
        try:
            return work()
        finally:
            recall(within.in_use, [(began, math.inf)], reason=f"{what} ended")

    return await within.threads.run(
        leaving_nothing, name=what, until=until, cancellation=cancellation
    )


async def _awaited(work: AsyncFunction, cancellation: Cancellation) -> Any:
    """Await *work*. What it waits for may be shielded, in a thread; so another task looks out for a cancellation."""
    result: Any = None
    error: BaseException | None = None
    ended = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_look_out, ended, cancellation)
        try:
            result = await work()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as raised:  # noqa: BLE001 - raised below, for the group would wrap it
            error = raised
        await checkpoint_if_cancelled()
        ended.set()
    if error is not None:
        raise error
    return result


async def _look_out(ended: anyio.Event, cancellation: Cancellation) -> None:
    """Pass a cancellation on. Not the call's end: tasks that it has started may go on after it."""
    try:
        await ended.wait()
    except anyio.get_cancelled_exc_class():
        cancellation.cancel()
        raise
