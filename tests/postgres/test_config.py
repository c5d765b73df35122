"""Bad settings are found when they are given, the message helps, and no secret is ever shown."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from poolkit import (
    BackendUnavailable,
    ConfigError,
    PoolTimeout,
    PostgresConfig,
    PostgresPool,
    RetryPolicy,
    deadline,
)
from poolkit.postgres.address import parse
from tests.core.support import named

from .observing import Watch, at, unique

SECRET = "s3cret"
UNPARSABLE = [
    f"postgresql://app:{SECRET}@db:port:5432/app%zz",
    f"host=db password={SECRET} nonsense",
    f"host=db pasword={SECRET}",
    f"postgresql://app:{SECRET}@db/app?nosuch=1",
    f"host=db password='{SECRET}",
    f"host=db password={SECRET}\udcff",  # not UTF-8, from the environment
    f"postgresql://app:{SECRET}%ff@db/app",
    f"host=db\0password={SECRET}",  # libpq would read no further
]
MISREAD = [
    f"postgresql://app:{SECRET}/x@db/app",  # host "app", port "s3cret"
    f"postgresql://app:1/{SECRET}@db/app",  # database "s3cret@db/app"
    f"postgresql://app:x@{SECRET}@db/app",  # host "s3cret@db"
    f"host=db port={SECRET}",
]


@pytest.mark.parametrize("conninfo", [*UNPARSABLE, *MISREAD])
def test_conninfo_that_can_not_be_right_is_refused_without_being_shown(conninfo: str) -> None:
    with pytest.raises(ConfigError, match="conninfo") as caught:
        PostgresPool(conninfo)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "percent-encoded" in str(caught.value)


@pytest.mark.parametrize(
    "conninfo",
    [
        f"postgresql://app:{SECRET}%2F%40@db:5432/app",
        f"postgres://app:{SECRET}@a:1,b:2,c/app",
        f"host=db password=a://{SECRET}@x@y",
        "postgresql:///app?host=/tmp&port=5433",
        "postgresql://[::1]:5432/app",
        "",
    ],
)
def test_conninfo_that_is_right_is_taken(conninfo: str) -> None:
    assert PostgresConfig(conninfo=conninfo).address is not None


@pytest.mark.parametrize("conninfo", [None, 5, b"host=db", ["host=db"]])
def test_conninfo_must_be_text(conninfo: Any) -> None:
    with pytest.raises(ConfigError, match=r"conninfo must be a string, not a value of type|None"):
        PostgresConfig(conninfo=conninfo)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"min_size": 6, "max_size": 5}, r"min_size \(6\).*max_size \(5\)"),
    ({"min_size": -1}, "min_size"),
    ({"max_size": 0, "min_size": 0}, "max_size"),
    ({"max_size": True, "min_size": 0}, "max_size.*bool"),
    ({"max_size": 5.0}, "max_size.*float"),
    ({"max_size": "20"}, "max_size.*str"),
    ({"max_waiting": -1}, "max_waiting"),
    ({"acquire_timeout": -1}, "acquire_timeout"),
    ({"acquire_timeout": 0}, "acquire_timeout"),
    ({"acquire_timeout": math.nan}, "acquire_timeout.*NaN"),
    ({"acquire_timeout": True}, "acquire_timeout.*bool"),
    ({"acquire_timeout": "5"}, "acquire_timeout.*str"),
    ({"acquire_timeout": None}, "acquire_timeout.*None"),
    ({"idle_timeout": -0.1}, "idle_timeout"),
    ({"max_lifetime": math.nan}, "max_lifetime"),
    ({"statement_timeout": -1}, "statement_timeout"),
    ({"statement_timeout": math.inf}, "statement_timeout.*finite"),
    ({"slow_query": math.nan}, "slow_query"),
    ({"leak_threshold": 0}, "leak_threshold"),
    ({"retry": 3}, "retry.*RetryPolicy"),
    ({"combine": 1}, "combine.*True or False"),
    ({"pgbouncer": "yes"}, "pgbouncer.*True or False"),
    ({"name": 7}, "name.*string"),
    ({"listeners": [object()]}, "listeners"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=lambda value: named(value)[:40])
def test_wrong_value_names_its_field(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PostgresPool("host=localhost", **settings)
    with pytest.raises(ConfigError, match=message):
        PostgresConfig(conninfo="host=localhost", **settings)


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'max_sise'; did you mean 'max_size'"):
        PostgresPool("host=localhost", max_sise=5)
    with pytest.raises(ConfigError, match=r"'timeout'; did you mean '.*timeout'"):
        PostgresPool("host=localhost", timeout=5)
    with pytest.raises(ConfigError, match=r"the fields are .*max_size"):
        PostgresPool("host=localhost", xyzzy=5)


def test_config_and_fields_can_not_be_mixed() -> None:
    config = PostgresConfig(conninfo="host=localhost")
    assert PostgresPool(config).config is config
    with pytest.raises(ConfigError, match="not both"):
        PostgresPool(config, max_size=5)
    with pytest.raises(ConfigError, match="twice"):
        PostgresPool("host=localhost", conninfo="host=localhost")


@pytest.mark.parametrize("seconds", [-1, math.nan, True, "5", None])
def test_deadline_and_close_refuse_what_is_no_time(db: PostgresPool, seconds: Any) -> None:
    with pytest.raises(ConfigError):
        deadline(seconds)
    with pytest.raises(ConfigError):
        db.close(seconds)
    assert db.query("select 1") == [(1,)], "a refused close() must leave the pool open"


@pytest.mark.parametrize("sizes", [(6, 5), (-1, 5), (0, 0), (True, 5), (1, 2.5)])
def test_resize_refuses_what_the_config_would_refuse(db: PostgresPool, sizes: Any) -> None:
    with pytest.raises(ConfigError):
        db.resize(min_size=sizes[0], max_size=sizes[1])
    assert db.stats().max_size == 1


def test_retry_policy_is_checked() -> None:
    for wrong in ({"attempts": 0}, {"base": -1}, {"cap": math.nan}, {"base": 5, "cap": 1}):
        with pytest.raises(ConfigError, match="RetryPolicy"):
            RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_config_is_frozen_and_its_name_is_where_it_leads() -> None:
    config = PostgresConfig(conninfo=f"postgresql://app:{SECRET}@localhost:5433/shop")
    assert config.name == "localhost/shop"
    with pytest.raises(AttributeError):
        config.max_size = 7  # type: ignore[misc]


def test_no_repr_shows_a_password() -> None:
    conninfo = f"postgresql://app:{SECRET}@localhost:5433/shop"
    config = PostgresConfig(conninfo=conninfo, max_size=7)
    pool = PostgresPool(config)
    shown = repr(config) + repr(pool) + str(config) + repr(parse(conninfo)) + repr(vars(pool))
    assert SECRET not in shown
    assert "max_size=7" in repr(config)
    assert "localhost/shop" in repr(pool)


def test_wrong_password_is_not_shown_and_not_retried(
    conninfo: str, make_pool: Callable[..., PostgresPool], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        db = make_pool(at(conninfo, password=SECRET), min_size=1, max_size=2)
        with pytest.raises(BackendUnavailable, match="password authentication failed") as caught:
            db.query("select 1")
    assert caught.value.retry_after is None
    assert SECRET not in caplog.text + "".join(traceback.format_exception(caught.value))


def test_run_with_failures_shows_no_secret_anywhere(
    conninfo: str,
    watch: Watch,
    make_pool: Callable[..., PostgresPool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    role = unique("role")
    watch.ask(f"create role {role} login password '{SECRET}'")
    shown: list[str] = []

    def failing(use: Callable[[], object], kind: type[Exception]) -> None:
        with pytest.raises(kind) as caught:
            use()
        shown.append("".join(traceback.format_exception(caught.value)))
        shown.append(repr(caught.value))

    parameter = "pr1vate"
    try:
        with caplog.at_level(logging.DEBUG):
            db = make_pool(
                at(conninfo, user=role, password=SECRET),
                min_size=1,
                max_size=1,
                acquire_timeout=0.5,
                slow_query=0.0,
            )
            assert db.query("select %s::text", [parameter]) == [(parameter,)]
            failing(lambda: db.query("select 1 / 0"), psycopg.errors.DivisionByZero)
            failing(lambda: expire(db, parameter), TimeoutError)
            with db.connection() as conn:
                shown.append(repr(conn))
                failing(lambda: db.query("select %s", [parameter]), PoolTimeout)
                watch.terminate({conn.info.backend_pid})
                failing(lambda: conn.execute("select 1"), psycopg.OperationalError)
            watch.ask(f"alter role {role} nologin")
            db.health_check()
            db.drain()
            watch.terminate(watch.backends("poolkit"))
            failing(lambda: exhaust(db), BackendUnavailable)
            shown += [repr(db), repr(db.stats()), repr(db.leases()), repr(db.config)]
            db.close()
    finally:
        watch.ask(f"drop role {role}")
    everything = caplog.text + "".join(shown) + "".join(repr(vars(r)) for r in caplog.records)
    assert "slow statement" in caplog.text
    assert SECRET not in everything
    assert parameter not in everything


def expire(db: PostgresPool, parameter: str) -> None:
    with deadline(0.05):
        db.query("select pg_sleep(42), %s::text", [parameter])


def exhaust(db: PostgresPool) -> None:
    while True:
        db.query("select 1", idempotent=True)
