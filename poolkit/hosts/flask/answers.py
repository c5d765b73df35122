"""What an app has no handler for among poolkit's errors, as Flask's own 503 and 504."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, default_exceptions

from ..answering import Answering
from ..answers import Answer
from ..scope import current_scope

Handled = Union[HTTPException, ResponseReturnValue]  # noqa: UP007 - its parts are no types in Python 3.10


def with_answers(app: Flask) -> Callable[[Exception], Handled]:
    """Return what *app* does with an error in a view, with an answer to one that it says nothing of.

    Which of its handlers comes before which remains Flask's to decide. One of ``Exception`` says nothing of errors
    of poolkit: it is for what nobody expected, and gets the answer, as it gets all HTTP errors.
    """
    handle = app.handle_user_exception
    answering = Answering()

    def handle_or_answer(error: Exception) -> Handled:
        answer = None if _has_handler(app, error) else answering.answer(error, _named())
        return handle(error) if answer is None else app.handle_http_exception(_abort(answer, error))

    return handle_or_answer


def _has_handler(app: Flask, error: Exception) -> bool:
    """Whether *app*, or a blueprint that the request is in, has a handler of that kind of *error*."""
    kinds = set(type(error).__mro__) - {Exception, BaseException, object}
    places = (*request.blueprints, None)
    return any(not kinds.isdisjoint(app.error_handler_spec[place][None]) for place in places)


def _named() -> str:
    scope = current_scope()
    return scope.name if scope is not None else f"the view {request.endpoint!r}"


def _abort(answer: Answer, error: Exception) -> HTTPException:
    """Return the HTTP error that is the *answer* to *error*."""
    headers, body = answer.render(request.headers.get("Accept", ""))
    response = current_app.response_class(body, answer.status, headers)
    abort = default_exceptions[answer.status](answer.message, response)
    abort.__cause__ = error
    return abort
