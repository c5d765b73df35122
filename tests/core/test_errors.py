"""The errors: what they are, what they carry, and what they say."""

from __future__ import annotations

import pickle
import threading

import pytest

import poolkit
from poolkit import errors
from poolkit.core.lease import Holder
from poolkit.core.stats import PoolStats, Tally


def stats():
    return PoolStats.of(Tally(), name="db", max_size=20, in_use=3, waiting=7)


def holder(number):
    return Holder(
        thread_name=f"worker-{number}",
        call_site=f"app.py:{number} in handle",
        held_for=1.5,
        now_at=f"app.py:{number + 5} in wait",
        thread=threading.current_thread(),
    )


def test_every_error_is_a_poolkit_error_and_exported_in_both_places():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.PoolKitError)
        assert getattr(poolkit, name) is getattr(errors, name)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.PoolTimeout, TimeoutError),
        (errors.DeadlineExceeded, TimeoutError),
        (errors.BackendUnavailable, ConnectionError),
    ],
)
def test_errors_are_caught_as_what_they_are_in_python_too(error, builtin):
    assert issubclass(error, builtin)


def test_a_deadline_that_leaves_the_outcome_open_is_both():
    error = errors.DeadlineOutcomeUnknown("late", stage="running")

    assert isinstance(error, errors.DeadlineExceeded)
    assert isinstance(error, errors.OutcomeUnknown)
    assert error.stage == "running"


def test_pool_timeout_prints_the_stats_and_every_holder():
    error = errors.PoolTimeout("no connection", stats=stats(), holders=[holder(1), holder(2)])

    lines = str(error).splitlines()

    assert lines[0] == "no connection"
    assert "'db'" in lines[1]
    assert "3 in use" in lines[1]
    assert "7 waiting" in lines[1]
    assert (
        "'worker-1' for 1.500 s, acquired at app.py:1 in handle, now at app.py:6 in wait"
        in lines[2]
    )
    assert "app.py:2 in handle" in lines[3]
    assert len(lines) == 4


def test_pool_timeout_with_hundreds_of_holders_stays_readable():
    error = errors.PoolTimeout("no connection", holders=[holder(n) for n in range(200)])

    lines = str(error).splitlines()

    assert len(lines) == 1 + 20 + 1
    assert "180 more" in lines[-1]
    assert len(error.holders) == 200


def test_pool_timeout_without_details_prints_its_message_only():
    assert str(errors.PoolTimeout("no connection")) == "no connection"


def test_backend_unavailable_says_when_to_come_back():
    assert errors.BackendUnavailable("down").retry_after is None
    assert errors.BackendUnavailable("down", retry_after=0.5).retry_after == 0.5


@pytest.mark.parametrize(
    ("error", "details"),
    [
        (errors.DeadlineExceeded("late", stage="waiting"), {"stage": "waiting"}),
        (errors.DeadlineOutcomeUnknown("late", stage="running"), {"stage": "running"}),
        (errors.BackendUnavailable("down", retry_after=0.5), {"retry_after": 0.5}),
        (errors.OutcomeUnknown("who knows"), {}),
        (errors.ConfigError("wrong"), {}),
        (errors.PoolTimeout("no connection", stats=stats()), {"holders": []}),
    ],
)
def test_errors_survive_the_way_out_of_a_worker_process(error, details):
    back = pickle.loads(pickle.dumps(error))

    assert type(back) is type(error)
    assert str(back) == str(error)
    for name, value in details.items():
        assert getattr(back, name) == value


def test_pool_timeout_leaves_a_worker_process_with_its_holders_in_words():
    error = errors.PoolTimeout("no connection", stats=stats(), holders=[holder(1)])

    back = pickle.loads(pickle.dumps(error))

    assert type(back) is errors.PoolTimeout
    assert "acquired at app.py:1 in handle" in str(back)
