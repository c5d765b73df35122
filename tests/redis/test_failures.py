"""What a failure means, by its class and by how far the command had come."""

from __future__ import annotations

import ssl

import pytest
import redis
from redis import exceptions
from redis._parsers.base import BaseParser

from poolkit import (
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PoolClosed,
    PoolTimeout,
    RedisPool,
)
from poolkit.core.verdict import Again, Phase, Verdict
from poolkit.redis.failures import NotSent, classify, is_busy, is_full

from .scripted import ScriptedRedis

NOT_NOW = Verdict(Again.SAFE, throttled=True)
NOT_RUN = Verdict(Again.SAFE)
UNKNOWN = Verdict(Again.IF_IDEMPOTENT, unknown=True)
HOPELESS = Verdict(Again.NEVER, hopeless=True)
OWN = Verdict(Again.NEVER)


def said(line):
    """Return what redis-py makes of an error that a server sends."""
    return BaseParser.parse_error(line)


LOADING = "LOADING Redis is loading the dataset in memory"
READONLY = "READONLY You can't write against a read only replica."
CLUSTERDOWN = "CLUSTERDOWN The cluster is down"
TRYAGAIN = "TRYAGAIN Multiple keys request during rehashing of slot"
MASTERDOWN = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
NOAUTH = "NOAUTH Authentication required."
WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."
NOPERM = "NOPERM User app has no permissions to run the 'get' command"
OOM = "OOM command not allowed when used memory > 'maxmemory'."
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
FULL = "ERR max number of clients reached"
FULL_CLUSTER = "ERR max number of clients + cluster connections reached"


@pytest.mark.parametrize(
    ("line", "kind", "verdict"),
    [
        (LOADING, exceptions.BusyLoadingError, NOT_NOW),
        (READONLY, exceptions.ReadOnlyError, NOT_NOW),
        (CLUSTERDOWN, exceptions.ClusterDownError, NOT_NOW),
        (TRYAGAIN, exceptions.TryAgainError, NOT_NOW),
        (MASTERDOWN, exceptions.MasterDownError, NOT_NOW),
        (BUSY, redis.ResponseError, NOT_NOW),
        ("MOVED 3999 127.0.0.1:6381", exceptions.MovedError, NOT_RUN),
        ("ASK 3999 127.0.0.1:6381", exceptions.AskError, NOT_RUN),
        (NOAUTH, redis.AuthenticationError, OWN),
        (NOPERM, exceptions.NoPermissionError, OWN),
        (OOM, redis.OutOfMemoryError, OWN),
        (WRONGTYPE, redis.ResponseError, OWN),
        ("CROSSSLOT Keys in request don't hash", exceptions.ClusterCrossSlotError, OWN),
        ("EXECABORT Transaction discarded", exceptions.ExecAbortError, OWN),
        ("NOSCRIPT No matching script.", exceptions.NoScriptError, OWN),
        ("BUSYGROUP Consumer Group name already exists", redis.ResponseError, OWN),
        ("BUSYKEY Target key name already exists.", redis.ResponseError, OWN),
        ("ERR value is not an integer or out of range", redis.ResponseError, OWN),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_a_server_answers_to_a_command(line, kind, verdict):
    error = said(line)

    assert type(error) is kind
    assert classify(error, Phase.RUNNING) == verdict


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (LOADING, NOT_NOW),
        (MASTERDOWN, NOT_NOW),
        (CLUSTERDOWN, NOT_NOW),
        (READONLY, NOT_NOW),
        (FULL, NOT_NOW),
        (FULL_CLUSTER, NOT_NOW),
        (BUSY, NOT_NOW),
        (NOAUTH, HOPELESS),
        (WRONGPASS, HOPELESS),
        (NOPERM, HOPELESS),
        ("ERR invalid password", HOPELESS),
        ("ERR DB index is out of range", HOPELESS),
        ("ERR unknown command 'HELLO'", HOPELESS),
    ],
    ids=lambda value: "-".join(value.split()[:4]) if isinstance(value, str) else "",
)
def test_what_a_server_answers_while_connecting(line, verdict):
    assert classify(said(line), Phase.CONNECTING) == verdict


@pytest.mark.parametrize("kind", [redis.ConnectionError, redis.TimeoutError])
def test_a_loss_is_harmless_only_before_anything_was_sent(kind):
    assert classify(kind("lost"), Phase.CONNECTING) == NOT_RUN
    assert classify(kind("lost"), Phase.RUNNING) == UNKNOWN
    assert classify(NotSent("lost"), Phase.RUNNING) == NOT_RUN
    assert classify(NotSent("lost"), Phase.CONNECTING) == NOT_RUN


@pytest.mark.parametrize("reply", [b">0\r\n", b"-MOVED\r\n", b"-ASK 1\r\n", b"nonsense\r\n"])
def test_a_write_that_was_answered_with_what_is_no_reply_has_an_outcome_unknown(reply):
    with ScriptedRedis(lambda _: reply) as server, RedisPool(server.url) as cache:
        with pytest.raises(OutcomeUnknown):
            cache.execute("INCR", "k")

        assert server.count(b"INCR") == 1


def test_nonsense_for_an_answer_leaves_the_outcome_unknown():
    assert classify(exceptions.InvalidResponse("HTTP/1.1"), Phase.RUNNING) == UNKNOWN


@pytest.mark.parametrize(
    ("cause", "verdict"),
    [
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), HOPELESS),
        (ssl.SSLError(1, "wrong version number"), NOT_RUN),
        (ConnectionRefusedError(111, "Connection refused"), NOT_RUN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_certificate_that_does_not_verify_needs_a_person(cause, verdict):
    with pytest.raises(redis.ConnectionError) as caught:
        try:
            raise cause
        except OSError as error:
            raise redis.ConnectionError("Error 1 connecting to cache:6379.") from error

    assert classify(caught.value, Phase.CONNECTING) == verdict


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (BackendUnavailable("down"), OWN),
        (PoolTimeout("full"), OWN),
        (PoolClosed("closed"), OWN),
        (ConfigError("wrong"), OWN),
        (DeadlineExceeded("late", stage="running"), OWN),
        (OutcomeUnknown("lost"), UNKNOWN),
        (DeadlineOutcomeUnknown("late", stage="running"), UNKNOWN),
        (ValueError("the caller's"), OWN),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), OWN),
        (KeyboardInterrupt(), OWN),
        (OSError("not redis-py's"), OWN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_rediss_is_not_tried_again(error, phase, verdict):
    assert classify(error, phase) == verdict


def test_busy_is_a_script_that_runs_and_not_a_name_that_begins_alike():
    assert is_busy(said(BUSY))
    assert not is_busy(said("BUSYGROUP Consumer Group name already exists"))
    assert not is_busy(said("BUSYKEY Target key name already exists."))
    assert not is_busy(redis.ConnectionError("BUSY "))


def test_full_is_a_server_that_takes_no_more_connections():
    assert is_full(said(FULL))
    assert is_full(said(FULL_CLUSTER))
    assert not is_full(said(OOM))
