"""Addresses: whatever is given for one is read, or refused by an error that shows nothing of its password."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolkit.postgres.address import parse as parse_conninfo
from poolkit.postgres.config import PostgresConfig
from poolkit.redis.address import parse_list, parse_url
from poolkit.redis.config import RedisConfig
from tests.generated import examples

from .support import LONG_NUMBER, SECRET, anything, attempt, nearly, secrets

CONNINFOS = anything | nearly(
    (
        "postgresql://",
        "postgres://",
        "user",
        ":",
        "@",
        "db",
        "/",
        "?",
        "&",
        "=",
        ",",
        "5432",
        "%20",
        "%ff",
        "%00",
        "%",
        "[::1]",
        "host",
        "port",
        "password",
        "dbname",
        "sslmode",
        "service",
        "hostaddr",
        "127.0.0.1",
        "require",
        "'",
        " ",
        "\\",
    )
)
REDIS_URLS = anything | nearly(
    (
        "redis://",
        "rediss://",
        "unix://",
        "user",
        ":",
        "@",
        "cache",
        "/",
        "0",
        "?",
        "db=",
        "&",
        "#",
        ",",
        "6379",
        "%20",
        "%ff",
        "%00",
        "%",
        "[::1]",
        "[",
        "]",
        LONG_NUMBER,
    )
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE", "PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)


@examples(300)
@given(CONNINFOS)
def test_a_conninfo_is_read_or_refused(conninfo):
    _, said = attempt(parse_conninfo, conninfo)

    assert not said or said.startswith("conninfo ")


@examples(300)
@given(REDIS_URLS)
@example(f"redis://cache/{LONG_NUMBER}")
def test_a_redis_url_is_read_or_refused(url):
    _, said = attempt(parse_url, url)

    assert not said or said.startswith("url")


@examples(150)
@given(
    st.sampled_from(("nodes", "sentinels")),
    REDIS_URLS
    | st.lists(REDIS_URLS, max_size=3)
    | st.lists(st.none() | st.integers() | st.binary(max_size=3), max_size=2),
)
def test_a_list_of_redis_servers_is_read_or_refused(name, given):
    _, said = attempt(parse_list, name, given)

    assert not said or said.startswith(name)


# -- passwords -----------------------------------------------------------------------------------------


@examples(150)
@given(secrets, st.sampled_from(("/app", "", "?sslmode=require", ":5432/app", "/app?port=x")))
@example(f"?@{SECRET}", "/app")
@example(f"5432?password=x@{SECRET}", "/app")
def test_no_part_of_a_password_in_a_postgres_url_is_shown(password, rest):
    for written in (quote(password, safe="", errors="replace"), password):
        url = f"postgresql://app:{written}@db{rest}"
        _, said = attempt(parse_conninfo, url)
        if not said:
            said = repr(PostgresConfig(conninfo=url)) + repr(parse_conninfo(url))
        assert SECRET not in said, url


@examples(150)
@given(secrets, st.sampled_from(("", " dbname=app", " port=x", " nonsense", " dbname='")))
def test_no_part_of_a_password_in_a_conninfo_is_shown(password, rest):
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    for written in (f"'{quoted}'", password):
        conninfo = f"host=db password={written}{rest}"
        _, said = attempt(parse_conninfo, conninfo)
        if not said:
            said = repr(PostgresConfig(conninfo=conninfo)) + repr(parse_conninfo(conninfo))
        assert SECRET not in said, conninfo


@examples(150)
@given(secrets, st.sampled_from(("", "/0", ":6379/0", "/x", ":x", "?db=1", "?x=1")))
def test_no_part_of_a_password_in_a_redis_url_is_shown(password, rest):
    for written in (quote(password, safe="", errors="replace"), password):
        for field in ("url", "nodes", "sentinels"):
            given = f"redis://app:{written}@cache{rest}"
            _, said = attempt(RedisConfig, **{field: given})
            if not said:
                config = RedisConfig(**{field: given})
                said = repr(config) + config.name + repr(config.servers)
            assert SECRET not in said, (field, given)


# -- there and back ------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,10}(\.[a-z]{2,5})?", fullmatch=True)
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10)


@examples(100)
@given(
    NAMES, st.none() | st.integers(1, 65535), st.none() | st.integers(0, 10**6), NAMES, PASSWORDS
)
def test_what_a_redis_url_was_made_of_is_what_is_read(host, port, db, user, password):
    url = f"redis://{user}:{quote(password, safe='')}@{host}"
    url += f":{port}" if port is not None else ""
    url += f"/{db}" if db is not None else ""

    address = parse_url(url)

    (server,) = address.servers
    assert (server.host, server.port) == (host, port or 6379)
    assert (address.username, address.password, address.db) == (user, password, db)


@examples(100)
@given(NAMES, st.integers(1, 65535), NAMES, NAMES, PASSWORDS)
def test_what_a_conninfo_was_made_of_is_what_is_read(host, port, database, user, password):
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    for conninfo in (
        f"postgresql://{user}:{quote(password, safe='')}@{host}:{port}/{database}",
        f"host={host} port={port} dbname={database} user={user} password='{quoted}'",
    ):
        address = parse_conninfo(conninfo)

        parameters = {name: address.parameters[name] for name in ("host", "port", "dbname", "user")}
        assert list(parameters.values()) == [host, str(port), database, user]
        assert address.parameters["password"] == password
        assert address.name == f"{host}/{database}"
