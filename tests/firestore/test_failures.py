"""Which gRPC status means what."""

from __future__ import annotations

import grpc
import pytest
from google.api_core import exceptions

from poolkit import OutcomeUnknown, PoolClosed
from poolkit.core.verdict import Again, Phase
from poolkit.firestore.failures import (
    NotSent,
    Refused,
    classify,
    classify_part,
    is_precondition,
    was_refused,
)

Code = grpc.StatusCode
LOSSES = [Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.CANCELLED]
OWN = [
    Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT,
    Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.OUT_OF_RANGE, Code.UNIMPLEMENTED, Code.DATA_LOSS,
]  # fmt: skip
UNSENT = [
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: refused",
    "DNS resolution failed for nowhere: no such host",
    "Getting metadata from plugin failed with error: no token",
]


def of(code, text="as told"):
    return exceptions.from_grpc_status(code, text)


@pytest.mark.parametrize("code", LOSSES)
def test_a_lost_answer_is_unknown_unless_in_a_transaction(code):
    verdict = classify(of(code), Phase.RUNNING)
    assert (verdict.again, verdict.unknown) == (Again.IF_IDEMPOTENT, True)
    assert classify(of(code), Phase.COMMITTING).unknown
    for phase in (Phase.CONNECTING, Phase.IN_TRANSACTION):
        verdict = classify(of(code), phase)
        assert (verdict.again, verdict.unknown) == (Again.SAFE, False)


@pytest.mark.parametrize("code", OWN)
@pytest.mark.parametrize("phase", Phase)
def test_a_refusal_is_the_callers(code, phase):
    verdict = classify(of(code), phase)
    assert (verdict.again, verdict.unknown) == (Again.NEVER, False)


@pytest.mark.parametrize("phase", Phase)
def test_aborted_and_no_quota_are_tried_again_later(phase):
    for code in (Code.ABORTED, Code.RESOURCE_EXHAUSTED):
        verdict = classify(of(code), phase)
        assert (verdict.again, verdict.throttled, verdict.unknown) == (Again.SAFE, True, False)
    too_large = of(Code.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)")
    assert classify(too_large, phase).again is Again.NEVER


def test_a_call_of_a_transaction_that_was_aborted_is_not_tried_again():
    assert classify_part(of(Code.ABORTED), Phase.RUNNING).again is Again.NEVER
    assert classify_part(of(Code.UNAVAILABLE), Phase.RUNNING).again is Again.IF_IDEMPOTENT


@pytest.mark.parametrize("text", UNSENT)
def test_what_never_left_is_safe(text):
    verdict = classify(of(Code.UNAVAILABLE, text), Phase.RUNNING)
    assert (verdict.again, verdict.unknown) == (Again.SAFE, False)
    assert classify(of(Code.INTERNAL, text), Phase.RUNNING).unknown


def test_a_channel_closed_before_the_call_is_safe():
    assert classify(NotSent("closed channel"), Phase.RUNNING).again is Again.SAFE


def test_a_stream_that_was_refused_was_not_looked_at():
    text = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
    assert was_refused(Code.UNAVAILABLE, text)
    assert not was_refused(Code.UNAVAILABLE, text.replace("7", "8"))
    assert not was_refused(Code.INTERNAL, text)
    assert not was_refused(Code.UNAVAILABLE, None)
    assert classify(Refused(text), Phase.COMMITTING).again is Again.SAFE


def test_poolkits_own_errors_are_told_as_they_are():
    assert classify(PoolClosed("x"), Phase.RUNNING).again is Again.NEVER
    assert classify(OutcomeUnknown("x"), Phase.COMMITTING).unknown
    assert not classify(OutcomeUnknown("x"), Phase.IN_TRANSACTION).unknown
    assert classify(ValueError("x"), Phase.RUNNING).again is Again.NEVER


def test_preconditions():
    for code in (Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.NOT_FOUND):
        assert is_precondition(of(code))
    assert not is_precondition(of(Code.ABORTED))
    assert not is_precondition(ValueError())
