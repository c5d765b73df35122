"""What concerns a single view: a deadline of its own, and the response that an error in it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import current_app, request
from werkzeug.exceptions import default_exceptions

from ...core.errors import PoolKitError
from ..answers import answer_to, log_answer
from ..budget import limit
from ..scope import current_scope

ViewT = TypeVar("ViewT", bound=Callable[..., Any])

_MARK = "_poolkit_deadline"


@dataclass(frozen=True)
class OwnDeadline:
    """The ``seconds`` that requests for a view have, None for no limit."""

    seconds: float | None


def request_deadline(seconds: float | None) -> Callable[[ViewT], ViewT]:
    """Give the requests for a view *seconds* from their arrival instead of ``POOLKIT_DEADLINE``, None for no limit.

    A decorator, beneath the route. What the client asks for by the deadline's header holds if it is less.
    """
    own = OwnDeadline(limit("request_deadline", seconds))

    def mark(view: ViewT) -> ViewT:
        setattr(view, _MARK, own)
        return view

    return mark


def own_deadline(view: Callable[..., Any] | None) -> OwnDeadline | None:
    """Return the deadline that *view* was given, None if it was not."""
    return getattr(view, _MARK, None)


def answered(error: Exception) -> Any:
    """Return the response that *error* means.

    What the app does with each :class:`~poolkit.PoolKitError` comes first, then what it does with the status.
    """
    own = current_app.error_handler_spec[None][None].get(PoolKitError)
    if own is not None:
        return current_app.ensure_sync(own)(error)
    answer = answer_to(error)
    if answer is None:
        raise error
    scope = current_scope()
    log_answer(answer, error, scope.name if scope is not None else f"the view {request.endpoint!r}")
    headers, body = answer.render(request.headers.get("Accept", ""))
    response = current_app.response_class(body, answer.status, headers)
    abort = default_exceptions[answer.status](answer.message, response)
    abort.__cause__ = error
    return current_app.handle_http_exception(abort)
