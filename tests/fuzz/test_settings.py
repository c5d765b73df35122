"""The environment and files: what they say is taken, or refused by an error that names where, and shows no secret."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolkit import PoolKit
from poolkit.core.retry import RetryPolicy
from poolkit.kit.backends import BACKENDS
from tests.generated import examples

from .support import LONG_NUMBER, ODD, SECRET, anything, attempt, nearly

FIELDS = {
    backend: {
        **{
            item.name: not item.repr
            for item in dataclasses.fields(BACKENDS[backend].config_type)
            if item.init
        },
        **{f"retry_{item.name}": False for item in dataclasses.fields(RetryPolicy)},
    }
    for backend in BACKENDS
}
"""The fields of each backend, and whether they are secret."""

PLACES = [(backend, field) for backend, fields in FIELDS.items() for field in fields]
SECRETS = [
    (backend, field)
    for backend, field in PLACES
    if FIELDS[backend][field] and field not in ("listeners", "credentials_file", "client_cert")
]  # a file's name is no secret, though it is not in the repr
LOCATED = {
    "postgres": ("conninfo", "host=db"),
    "redis": ("url", "redis://cache"),
    "firestore": ("project", "p-1"),
}
"""A field of each backend that makes a kit have it, and a value."""

TEXTS = (
    anything
    | nearly(
        ("1", "0", "-", ".", "e", "true", "off", "inf", "nan", ",", "{", "}", '"', "[", "]", ":")
    )
    | st.sampled_from(
        (
            LONG_NUMBER,
            "1e999",
            "-1",
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"X": 1}',
            '{"X": null}',
            '{"X\\n": "1"}',
            '{"X": "1\\n2"}',
            "redis://cache",
            "http://a/b",
        )
    )
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("PGHOST", "PGSERVICE", "FIRESTORE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def variable(backend, field):
    return f"POOLKIT_{backend.upper()}_{field.upper()}"


def environment(places):
    """Return the variables for these, and those that make a kit have the backends."""
    variables = {variable(backend, field): text for (backend, field), text in places.items()}
    for backend, (field, value) in LOCATED.items():
        if any(backend == place for place, _ in places):
            variables.setdefault(variable(backend, field), value)
    return variables


# -- the environment -----------------------------------------------------------------------------------


@examples(250)
@given(st.sampled_from(PLACES), TEXTS)
@example(("http", "headers"), "[" * 100_000)
@example(("postgres", "min_size"), LONG_NUMBER)
@example(("firestore", "credentials_file"), LONG_NUMBER)
def test_a_variable_is_taken_or_named_in_the_refusal(place, text):
    _, said = attempt(PoolKit.from_env, environment({place: text}))

    backend, field = place
    assert not said or variable(backend, field) in said or said.startswith(f"{backend}: "), said


@examples(60)
@given(st.dictionaries(st.sampled_from(PLACES), TEXTS, max_size=6))
def test_variables_in_any_combination_are_taken_or_refused(places):
    _, said = attempt(PoolKit.from_env, environment(places))

    assert not said or "POOLKIT_" in said or said.partition(":")[0] in BACKENDS


@examples(60)
@given(st.dictionaries(anything.map(lambda text: f"POOLKIT_{text}"), TEXTS, max_size=3))
def test_variables_of_any_name_are_taken_or_refused(variables):
    _, said = attempt(PoolKit.from_env, variables)

    assert not said or "POOLKIT_" in said


@examples(200)
@given(
    st.sampled_from(SECRETS),
    st.text(st.sampled_from(ODD + "aZ0"), max_size=3),
    st.text(st.sampled_from(ODD + "aZ0"), max_size=3),
    st.sampled_from(
        (
            "%s",
            "redis://:%s@cache",
            "postgresql://app:%s@db/app",
            "http://u:%s@host/",
            '{"X-Token": "%s"}',
            '{"X-Token": "%s',
            "u %s",
        )
    ),
)
def test_no_variable_that_may_be_secret_is_shown(place, before, after, form):
    secret = f"{before}{SECRET}{after}"
    variables = environment({place: form % secret})
    if place[1] not in ("url", "nodes", "sentinels"):
        variables.setdefault("POOLKIT_REDIS_URL", "redis://cache")
    kit, said = attempt(PoolKit.from_env, variables)
    if kit is not None:
        said = repr(kit) + repr(list(kit.settings))
        said += repr([pool.config for pool in kit.pools.values()])
    if form == "%s" or "@" not in form or form.partition(":")[0] not in said:
        where = [line for line in said.splitlines() if SECRET in line]
        assert not where, (variables, where)


# -- files ---------------------------------------------------------------------------------------------

WORDS = (
    "[postgres]\n",
    "[redis]\n",
    "[http]\n",
    "[firestore]\n",
    "[poolkit]\n",
    "[DEFAULT]\n",
    "[postgres",
    "preset",
    "production",
    "conninfo",
    "host=db",
    "max_size",
    "retry",
    "attempts",
    "headers",
    "nodes",
    "listeners",
    "before_request",
    "=",
    " = ",
    "\n",
    '"',
    "'",
    "3",
    "-1",
    "1e9",
    "true",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "1979-05-27",
    "0x" + "f" * 4000,
    LONG_NUMBER,
    "#",
    ";",
    ":",
    "\t",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=True)
    | st.sampled_from(("redis://cache", "host=db", "a b", "", "/")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("aX"), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("ending", ["toml", "ini"])
@examples(150)
@given(content=anything | nearly(WORDS, 30))
@example(content="a = " + "[" * 100_000)
@example(content=f"[postgres]\nmax_size = {LONG_NUMBER}")
@example(content="[postgres]\nconninfo = 'host=db'\nmin_size = 0x" + "f" * 4000)
@example(content="preset = 3")
def test_a_file_is_taken_or_named_in_the_refusal(tmp_path, ending, content):
    path = tmp_path / f"kit.{ending}"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")

    _, said = attempt(PoolKit.from_file, path)

    assert not said or str(path) in said or said.partition(":")[0] in BACKENDS, said


@examples(150)
@given(st.sampled_from(PLACES + [(backend, "retry") for backend in BACKENDS]), VALUES)
def test_a_value_of_any_type_is_taken_or_refused(place, value):
    backend, field = place
    fields = {field: value}
    if backend in LOCATED:
        fields.setdefault(*LOCATED[backend])

    def make(fields):
        return PoolKit.for_environment("development", **{backend: fields})

    _, said = attempt(make, fields)

    assert not said or backend in said


@pytest.mark.parametrize("ending", ["toml", "ini"])
@examples(150)
@given(
    before=nearly(WORDS, 5),
    key=st.sampled_from(
        ("password = ", "password", "  ", "", "password : ", "conninfo = host=db password=")
    ),
    quote=st.sampled_from(("", '"', "'", '"""\n')),
    after=nearly(WORDS, 3),
)
def test_no_line_of_a_file_is_shown(tmp_path, ending, before, key, quote, after):
    path = tmp_path / f"kit.{ending}"
    content = f"{before}\n{key}{quote}{SECRET}{quote}\n{after}"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")

    _, said = attempt(PoolKit.from_file, path)

    named_by_it = f"{SECRET}'" in said and ("no setting" in said or "no backend" in said)
    assert SECRET not in said or named_by_it, said


@examples(60)
@given(
    st.integers(1, 1000),
    st.floats(0.001, 1e6),
    st.booleans(),
    st.dictionaries(st.sampled_from(("X-A", "X-B")), st.text(st.sampled_from("ab 1"), max_size=5)),
)
def test_the_same_settings_are_read_from_each_source(
    tmp_path_factory, most, timeout, combine, headers
):
    variables = {
        "POOLKIT_POSTGRES_CONNINFO": "host=db",
        "POOLKIT_POSTGRES_MIN_SIZE": "0",
        "POOLKIT_POSTGRES_MAX_SIZE": str(most),
        "POOLKIT_POSTGRES_ACQUIRE_TIMEOUT": repr(timeout),
        "POOLKIT_POSTGRES_COMBINE": str(combine),
        "POOLKIT_HTTP_HEADERS": json.dumps(headers),
    }
    folder = tmp_path_factory.getbasetemp()
    toml = folder / "same.toml"
    toml.write_text(
        f"[postgres]\nconninfo = 'host=db'\nmin_size = 0\nmax_size = {most}\n"
        f"acquire_timeout = {timeout!r}\ncombine = {str(combine).lower()}\n[http.headers]\n"
        + "".join(f"{name} = {json.dumps(value)}\n" for name, value in headers.items())
    )
    ini = folder / "same.ini"
    ini.write_text(
        f"[postgres]\nconninfo = host=db\nmin_size = 0\nmax_size = {most}\n"
        f"acquire_timeout = {timeout!r}\ncombine = {combine}\n[http]\nheaders = {json.dumps(headers)}\n"
    )

    for kit in (PoolKit.from_env(variables), PoolKit.from_file(toml), PoolKit.from_file(ini)):
        db = kit.postgres.config
        assert (db.max_size, db.acquire_timeout, db.combine) == (most, timeout, combine)
        assert dict(kit.http.config.headers) == headers
