"""Statements sent together: values, rows, counts and errors are those that psycopg's own cursor gives."""
# ruff: noqa: DTZ001 - times without a zone are tested too

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.rows import (
    args_row,
    class_row,
    dict_row,
    kwargs_row,
    namedtuple_row,
    scalar_row,
    tuple_row,
)
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.numeric import Float4, Int2, Int4, Int8, Oid
from psycopg.types.range import Range

from poolkit import PostgresPool
from tests.core.support import Task

from .gathering import asking, combined, nobody_leads
from .observing import Watch, at, unique, until

MakePool = Callable[..., PostgresPool]

BATCH = 16
"""Statements that are compared at a time."""

RESULTS = [
    # numbers
    "0::int2, (-32768)::int2, 32767::int2, 2147483647, (-2147483648)::int4",
    "9223372036854775807::int8, (-9223372036854775808)::int8, 4294967295::oid",
    "'NaN'::float8, 'Infinity'::float8, '-Infinity'::float8, '-0'::float8, 5e-324::float8",
    "1.7976931348623157e308::float8, 0.1::float8, 0.1::float4, 'NaN'::float4, 3.4e38::float4",
    "'NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric, 0::numeric, '-0.000'::numeric",
    "1.10::numeric, 1e-100::numeric, (10::numeric ^ 200)::numeric, 123456789.123456789::numeric",
    "12.34::money",
    # text and bytes
    "'', ' ', 'it''s', E'\\\\ \\n \\t', '100 %', 'žluťoučký 🐎'",
    "'abc'::char(5), 'abc'::varchar(10), 'x'::\"char\", 'a name'::name, '<a/>'::xml",
    "'\\x'::bytea, '\\x00ff10'::bytea, decode(repeat('00ff', 300), 'hex')",
    "true, false, null, null::int, null::text, null::bytea",
    "'00000000-0000-0000-0000-000000000000'::uuid, 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF'::uuid",
    # times
    "'0001-01-01'::date, '9999-12-31'::date, '2024-02-29'::date",
    "'00:00'::time, '23:59:59.999999'::time, '12:30'::time(0)",
    "'00:00+00'::timetz, '23:59:59.999999+15:59'::timetz, '12:00-03:30'::timetz",
    "'0001-01-01'::timestamp, '9999-12-31 23:59:59.999999'::timestamp, '2024-02-29 12:00:00.5'::timestamp",
    "'2024-01-15 12:00+00'::timestamptz, '2024-07-15 12:00:00.123456+02'::timestamptz",
    "'2024-03-31 01:30+00'::timestamptz, '1883-11-18 12:00+00'::timestamptz",
    "'0'::interval, '1 year 2 months 3 days 04:05:06.789'::interval, '-1 month'::interval",
    "'-00:00:00.000001'::interval, '100 years'::interval, '-3 days +04:00'::interval",
    # json
    "'{\"a\": [1, 2.5, null, \"ž\"]}'::json, '{\"a\": {\"b\": true}}'::jsonb, 'null'::jsonb, '1'::json",
    # arrays
    "'{}'::int[], '{1,2,null}'::int[], '{{1,2},{3,4}}'::int[], '[2:3]={7,8}'::int[]",
    '\'{"","a,b","\\"",null,"NULL","{}"}\'::text[], \'{}\'::text[], null::text[]',
    "'{NaN,1.5,null}'::float8[], '{1.50,NaN}'::numeric[], '{t,f,null}'::bool[]",
    "array['\\x00'::bytea, null], '{2024-02-29,null}'::date[], '{\"2024-07-15 12:00+00\"}'::timestamptz[]",
    "array['{\"a\": 1}'::jsonb, 'null'::jsonb, null], array['1 day'::interval], array[gen_random_uuid() is null]",
    "array['((1,2),(0,0))'::box], '{127.0.0.1,::1/64}'::inet[], array[array[array[1]]]",
    # ranges
    "'[1,10)'::int4range, 'empty'::int4range, '(,)'::int8range, '[1.5,2.5]'::numrange, '[5,)'::int4range",
    "'[2024-01-01,2024-02-01)'::daterange, '[2024-01-01 10:00,)'::tsrange",
    "'[2024-01-01 10:00+00,2024-07-01 10:00+00)'::tstzrange, '[2024-01-01,infinity)'::text",
    "'{[1,3),[5,8)}'::int4multirange, '{}'::nummultirange, '{[2024-01-01,2024-02-01)}'::datemultirange",
    "array['[1,3)'::int4range, null, 'empty'], array['{[1,3)}'::int4multirange], '{(,)}'::tstzmultirange",
    # networks
    "'127.0.0.1'::inet, '10.0.0.7/8'::inet, '::1'::inet, '2001:db8::1/64'::inet, '10.0.0.0/8'::cidr",
    "'2001:db8::/32'::cidr, '08:00:2b:01:02:03'::macaddr, '{10.0.0.0/8}'::cidr[]",
    # and what psycopg leaves as text
    "'(1,2)'::point, '101'::bit(3), '110'::varbit, 'a & b'::tsquery, 'a b'::tsvector, '1,2'::point::text",
    "'pg_class'::regclass, 'int4'::regtype, '(0,1)'::tid, '1'::xid, '0/16B3748'::pg_lsn, '$.a'::jsonpath",
    # records
    "row(1, 'a', null), row(), row(row(1, 2.5), array[1, 2]), row('a,b', '\"', '')",
    # shapes
    '1 as a, 2 as a, 3 as "?", 4 as "a b"',
    "",
    "from generate_series(1, 3)",
    "1 where false",
    "from generate_series(1, 0)",
    "n, n::text, array[n] from generate_series(1, 500) n",
]


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


class Level(enum.IntEnum):
    low = 1


class Named(str):
    pass


@dataclass
class Custom:
    value: str


PARAMETERS: list[tuple[str, Any]] = [
    ("select %s, %s, %s, %s", [0, -32768, 32767, 32768]),
    ("select %s, %s, %s", [2**31 - 1, 2**31, -(2**63)]),
    ("select %s, %s, %s", [2**63, -(2**200), True]),
    ("select %s, %s, %s, %s", [float("nan"), float("inf"), -0.0, 5e-324]),
    ("select %s, %s, %s", [Decimal("NaN"), Decimal("1.10"), Decimal("-1e-50")]),
    ("select %s, %s, %s", [Decimal("Infinity"), Decimal("-0.00"), Decimal(10) ** 100]),
    ("select %s, %s, %s, %s, %s", [Int2(1), Int4(2), Int8(3), Oid(4), Float4(0.1)]),
    ("select %s, %s, %s", ["", "it's \\ \" % ž 🐎", Named("x")]),
    ("select %s, %s, %s", [b"", b"\x00\xff'\\", bytearray(b"\x00a")]),
    ("select %s, %s", [memoryview(b"\x00b"), b"x" * 5000]),
    ("select %s, %s, %s::int, %s::text", [None, None, None, None]),
    ("select %s, %s", [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)]),
    ("select %s, %s, %s", [dt.date.min, dt.date.max, dt.date(2024, 2, 29)]),
    ("select %s, %s", [dt.time(23, 59, 59, 999999), dt.time(1, tzinfo=dt.timezone.utc)]),
    (
        "select %s, %s",
        [dt.datetime(2024, 2, 29, 12, 30, 1, 5), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)],
    ),
    ("select %s, %s", [dt.datetime(2024, 7, 15, 12, tzinfo=dt.timezone.utc), dt.datetime(1, 1, 1)]),
    ("select %s, %s, %s", [dt.timedelta(0), dt.timedelta(-1, 5, 7), dt.timedelta(days=400)]),
    ("select %s, %s", [Json({"a": [1, None]}), Jsonb({"ž": 1.5})]),
    ("select %s, %s::int[], %s", [[1, 2], [], [[1, None], [3, 4]]]),
    ("select %s, %s::text[], %s", [["a", 'b"', "", "NULL", None], [], [1.5, float("nan")]]),
    ("select %s, %s", [[Decimal(1), Decimal("2.50")], [True, None]]),
    ("select %s, %s", [[b"\x00"], [dt.date(2024, 1, 1), None]]),
    ("select %s, %s", [[2**40, 1], [[["a"]], [["b"]]]]),
    ("select %s, %s::int4range", [Range(Int4(1), Int4(5)), Range(empty=True)]),
    ("select %s, %s", [Range(dt.date(2024, 1, 1), None), Range(Decimal("1.5"), None, "(]")]),
    ("select %s, %s", [Multirange([Range(Int4(1), Int4(3))]), [Range(1, 2), Range(3, 4)]]),
    (
        "select %s, %s, %s",
        [ip_address("10.0.0.1"), ip_interface("::1/64"), ip_network("10.0.0.0/8")],
    ),
    ("select %s, %s", [Mood.good, Level.low]),
    ("select %s, %s", [(1, "a", None), ((1, 2), [3])]),
    ("select %b, %t, %s", [7, 7, "x"]),
    ("select %b, %b, %b", ["ž", 1.5, dt.date(2024, 2, 29)]),
    ("select %(b)s, %(a)s, %(b)s", {"a": 1, "b": "x", "unused": 3}),
    ("select %(a)s", {"a": [1, 2]}),
    ("select 1, %s, '100 %%', 7 %% 4", ["x"]),
    ("select '100 %%'", []),
    ("select '100 %%', 7 %% 4", {}),
    ("select '100 %', 7 % 4, '%s'", None),
    ("select $1, %s", ["x"]),
    ("select %s::int + %s::int", ["1", 2]),
    ("select * from unnest(%s::int[], %s::text[]) as t (a, b)", ([1, 2], ["x", "y"])),
    ("select %s", (("a", 1),)),
    ("  -- a comment\n /* and */ select %s -- one more", ["x"]),
    ("(select %s) union all (select %s) order by 1", ["a", "b"]),
    ("with t as (select %s::int a) select a + 1 from t", [1]),
    ("values (%s, 1), (%s, 2)", ["a", "b"]),
    ("table pg_am", None),
    ("select %s;", [1]),
]
"""Statements and their parameters."""

ERRORS: list[tuple[str, Any]] = [
    ("select from where", None),
    ("select 1 +", None),
    ("select %s +", [1]),
    ("select 1 / 0", None),
    ("select 1 / %s::int", [0]),
    ("select * from no_such_table_of_poolkit", None),
    ("select no_such_function_of_poolkit(%s)", ["x"]),
    ("select %s::int", ["not a number"]),
    ("select ž_missing", None),
    ("select %s", []),
    ("select %s", [1, 2]),
    ("select 1", [1]),
    ("select %(a)s", {"b": 1}),
    ("select %(a)s", [1]),
    ("select %s, %(a)s", [1]),
    ("select %x", [1]),
    ("select 100 %", [1]),
    ("select %s", ["\x00"]),
    ("select %s", [object()]),
    ("select %s", [[1, "a"]]),
    ("select %s", [[1, [2]]]),
    ("select %s", "a"),
    ("select %s", 7),
    ("select %s", [Mood]),
    ("select '12345-01-01'::date", None),
    ("select 'infinity'::timestamptz", None),
    ("select pg_sleep('x')", None),
    ("with t as (select 1) update no_such_table set a = 1", None),
    ("select set_bit(b'1', 7, 1)", None),
]
"""Statements that fail, here or on the server."""


@contextlib.contextmanager
def plain(conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        yield conn


def exactly(value: Any) -> Any:
    """Return *value* in a form that differs if a type in it differs, and where NaN is equal to NaN."""
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(part) for part in value]
    if isinstance(value, dict):
        return type(value), [(exactly(key), exactly(part)) for key, part in value.items()]
    if isinstance(value, dt.datetime):
        return type(value), repr(value), value.fold, value.utcoffset()
    if isinstance(value, (Range, Multirange)):
        return type(value), repr(value), [exactly(part) for part in parts_of(value)]
    return type(value), repr(value)


def parts_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Multirange) else [value.lower, value.upper]


def as_told(error: BaseException) -> Any:
    """Return what a caller may look at in an error."""
    if not isinstance(error, psycopg.Error):
        return type(error), str(error)
    diag = error.diag
    told = [getattr(diag, name) for name in dir(diag) if not name.startswith("_")]
    return type(error), str(error), error.sqlstate, [each for each in told if not callable(each)]


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def fetched(conn: psycopg.Connection[Any], text: Any, params: Any, **options: Any) -> Any:
    cursor = conn.cursor(**options)
    cursor.execute(text, params)
    return cursor.fetchall() if cursor.description is not None else []


def assert_same(
    pool: PostgresPool, conn: psycopg.Connection[Any], statements: list[tuple[str, Any]]
) -> None:
    """Make sure that all *statements*, combined, give what psycopg gives for them one by one."""
    for start in range(0, len(statements), BATCH):
        some = statements[start : start + BATCH]
        results = combined(pool, *(asking(pool, *statement) for statement in some))
        for (text, params), result in zip(some, results, strict=True):
            expected = outcome(lambda: fetched(conn, text, params))  # noqa: B023
            if isinstance(expected, Exception):
                assert isinstance(result, Exception), text
                assert as_told(result) == as_told(expected), text
            else:
                assert exactly(result) == exactly(expected), text


@pytest.fixture
def pool(conninfo: str, make_pool: MakePool) -> PostgresPool:
    return make_pool(conninfo, min_size=1, max_size=4, acquire_timeout=15)


@pytest.fixture
def restored() -> Iterator[AdaptersMap]:
    """Give psycopg's own adapters, to be changed by the test: they are restored afterwards."""
    adapters = psycopg.adapters
    kept = AdaptersMap(adapters)
    yield adapters
    types = adapters.types
    vars(types).update(vars(kept.types))
    vars(adapters).update(vars(kept), types=types)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-c timezone=UTC",
        "-c timezone=Europe/Prague -c datestyle=German",
        "-c timezone=America/St_Johns -c datestyle=SQL,DMY -c bytea_output=escape",
        "-c timezone=Asia/Kathmandu -c intervalstyle=postgres -c extra_float_digits=0",
    ],
)
def test_results_are_what_psycopg_gives(conninfo: str, make_pool: MakePool, options: str) -> None:
    said = at(conninfo, options=options)
    statements = [(f"select {columns}", None) for columns in RESULTS]
    with plain(said) as conn:
        pool = make_pool(said, min_size=1, max_size=4)
        assert_same(pool, conn, statements)


def test_parameters_are_bound_as_psycopg_does_it(conninfo: str, pool: PostgresPool) -> None:
    with plain(conninfo) as conn:
        assert_same(pool, conn, PARAMETERS)


def test_errors_are_those_of_psycopg(conninfo: str, pool: PostgresPool) -> None:
    fail_here = []
    with plain(conninfo) as conn:
        for text, params in ERRORS:
            expected = outcome(lambda: fetched(conn, text, params))  # noqa: B023
            assert isinstance(expected, Exception), text
            alone = outcome(lambda: pool.query(text, params))  # noqa: B023
            assert as_told(alone) == as_told(expected), text
            if not isinstance(expected, psycopg.Error) or expected.sqlstate is None:
                fail_here.append((text, params))
        # What its owner did wrong may be told before anything is sent, so it may not be in a batch.
        on_server = [each for each in ERRORS if each not in fail_here]
        assert_same(pool, conn, on_server)
    before = pool.stats()
    for text, params in fail_here:
        expected = outcome(lambda: pool.query(text, params))  # noqa: B023
        (told,) = gathered_errors(pool, text, params)
        assert as_told(told) == as_told(expected), text
    after = pool.stats()
    assert after.retries == before.retries == 0
    assert after.in_use == after.waiting == 0


def gathered_errors(pool: PostgresPool, text: Any, params: Any) -> list[Any]:
    """Ask while nobody leads, so that the statement is packed."""
    with nobody_leads(pool) as combiner:
        thread = Task(asking(pool, text, params))
        until(lambda: not thread.is_alive() or combiner._queue)
    return [thread.outcome()]


class Point(NamedTuple):
    a: int
    b: str


def custom_row(cursor: psycopg.Cursor[Any]) -> Callable[[Any], Any]:
    names = [column.name for column in cursor.description or []]
    kind = cursor.pgresult.status if cursor.pgresult else None
    return lambda values: (names, deque(values), kind, cursor.rowcount, cursor.statusmessage)


def refuse(cursor: psycopg.Cursor[Any]) -> Callable[[Any], Any]:
    def make(values: Any) -> Any:
        raise LookupError(f"no row of {len(values)}")

    return make


FACTORIES = [
    tuple_row,
    dict_row,
    namedtuple_row,
    scalar_row,
    class_row(Point),
    args_row(Point),
    kwargs_row(Point),
    custom_row,
    refuse,
]


@pytest.mark.parametrize(
    "text",
    [
        "select n as a, 'x' || n as b from generate_series(1, 3) n",
        "select 1 as a, 'x' as b where false",
        "select",
        "select 1 as other",
    ],
)
def test_row_factories_make_the_rows_that_psycopgs_cursor_makes(
    conninfo: str, pool: PostgresPool, text: str
) -> None:
    many = [asking(pool, text, row_factory=factory) for factory in FACTORIES]
    results = combined(pool, *many)
    firsts = combined(
        pool,
        *(lambda f=f: pool.query_one(text, row_factory=f) for f in FACTORIES),  # type: ignore[misc]
    )
    with plain(conninfo) as conn:
        for factory, result, first in zip(FACTORIES, results, firsts, strict=True):
            expected = outcome(lambda: fetched(conn, text, None, row_factory=factory))  # noqa: B023
            if isinstance(expected, Exception):
                assert [as_told(result), as_told(first)] == [as_told(expected)] * 2
            elif factory is namedtuple_row:
                assert [row._asdict() for row in result] == [row._asdict() for row in expected]
            else:
                assert exactly(result) == exactly(expected)
                assert exactly(first) == exactly(expected[0] if expected else None)


def test_query_one_is_the_first_row_and_loads_no_other(pool: PostgresPool) -> None:
    # The second row can't be loaded: psycopg has no year 12345.
    text = "select d from (values ('2024-01-01'::date), ('12345-01-01')) as t (d)"
    one, none, nothing, whole = combined(
        pool,
        lambda: pool.query_one(text),
        lambda: pool.query_one("select 1 where false"),
        lambda: pool.query_one("select"),
        lambda: pool.query(text),
    )
    assert one == (dt.date(2024, 1, 1),)
    assert none is None
    assert nothing == ()
    assert type(whole) is psycopg.DataError


def test_counts_are_the_rows_that_were_touched(
    pool: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    t = table.as_string(None)
    insert, update = f"insert into {t} values (%s, %s)", f"update {t} set name = 'c'"

    def run(text: str, params: Any = None) -> Callable[[], Any]:
        return lambda: pool.execute(text, params)  # type: ignore[call-overload]

    assert combined(
        pool,
        run(insert, [1, "a"]),
        run(f"{insert}, (2, 'b'), (3, 'c')", [4, "d"]),
        run(f"{insert} on conflict do nothing", [1, "z"]),
        run(f"{insert} returning id", [5, "e"]),
        asking(pool, f"{insert} returning id, name", [6, "f"]),
        asking(pool, insert, [7, "g"]),
        lambda: pool.query_one(insert, [8, "h"]),
        run(f"{update} where id < 4"),
        run(f"{update} where id > 400"),
        run(f"delete from {t} where id = 2"),
        run(f"select * from {t}"),
        run("select '12345-01-01'::date"),
        run("select 1 where false"),
        run("select"),
        run(f"with d as (delete from {t} where id > 6 returning id) select count(*) from d"),
    ) == [1, 3, 0, 1, [(6, "f")], [], None, 3, 0, 1, 7, 1, 0, 1, 1]
    assert watch.ask(f"select id, name from {t} order by id") == [
        (1, "c"),
        (3, "c"),
        (4, "d"),
        (5, "e"),
        (6, "f"),
    ]


def test_statement_that_fails_fails_alone(
    pool: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    t = table.as_string(None)
    insert = f"insert into {t} values (%s, %s)"
    before = pool.stats()

    def put(*row: Any) -> Callable[[], Any]:
        return lambda: pool.execute(insert, row)

    outcomes = combined(
        pool,
        put(1, "a"),
        put(1, "again"),
        put(2, "b"),
        asking(pool, f"with i as ({insert} returning id) select 1 / 0 from i", [9, "x"]),
        put(3, "c"),
        asking(pool, "select from where"),
        put(4, "d"),
    )
    kinds = [each if isinstance(each, int) else type(each) for each in outcomes]
    assert kinds == [
        1,
        psycopg.errors.UniqueViolation,
        1,
        psycopg.errors.DivisionByZero,
        1,
        psycopg.errors.SyntaxError,
        1,
    ]
    assert watch.ask(f"select string_agg(name, '' order by id) from {t}") == [("abcd",)]
    after = pool.stats()
    assert after.errors - before.errors == 3
    assert after.retries == before.retries == 0


def test_composites_and_enums_of_the_database(
    conninfo: str, restored: AdaptersMap, watch: Watch, make_pool: MakePool
) -> None:
    pair, mood = unique("pair"), unique("mood")
    watch.ask(f"create type {mood} as enum ('good', 'bad')")
    watch.ask(f"create type {pair} as (n int, m {mood}, list text[])")
    statements: list[tuple[str, Any]] = [
        (f"select row(1, 'good', '{{a,null}}')::{pair}, null::{pair}, 'bad'::{mood}", None),
        (f"select array[row(1, null, null)::{pair}, null], array['bad', null]::{mood}[]", None),
        (f"select row(row(1, 'bad', null)::{pair}, 2)", None),
    ]
    try:
        with plain(conninfo) as conn:
            assert_same(make_pool(conninfo, min_size=1, max_size=4), conn, statements)
            composite, kind = CompositeInfo.fetch(conn, pair), EnumInfo.fetch(conn, mood)
        assert composite is not None
        assert kind is not None
        register_enum(kind, None, Mood)
        register_composite(composite)
        value = composite.python_type(7, Mood.bad, ["x"])
        statements += [
            (f"select %s, %s::{pair}, %s", [value, value, [value, None]]),
            ("select %s, %s, %s", [Mood.good, [Mood.bad, None], None]),
        ]
        with plain(conninfo) as conn:
            assert_same(make_pool(conninfo, min_size=1, max_size=4), conn, statements)
    finally:
        watch.ask(f"drop type {pair}; drop type {mood}")


class CustomDumper(Dumper):
    oid = psycopg.adapters.types["text"].oid

    def dump(self, obj: Custom) -> bytes:
        if obj.value == "bad":
            raise LookupError("a dumper that raises")
        return f"<{obj.value}>".encode()


class CustomLoader(Loader):
    def load(self, data: Any) -> Any:
        text = bytes(data).decode()
        if text == "666":
            raise LookupError("a loader that raises")
        return Custom(text)


def test_registered_dumpers_and_loaders_are_used(
    conninfo: str, restored: AdaptersMap, make_pool: MakePool
) -> None:
    restored.register_dumper(Custom, CustomDumper)
    restored.register_loader("int4", CustomLoader)
    pool = make_pool(conninfo, min_size=1, max_size=4)
    with plain(conninfo) as conn:
        assert_same(
            pool,
            conn,
            [
                ("select %s, 7, array[7, null]", [Custom("x")]),
                ("select %s", [[Custom("x"), Custom("y"), None]]),
                ("select %s, 7::int8", [Custom("x")]),
                ("select n from generate_series(665, 667) n", None),
                ("select 8", None),
            ],
        )
        assert exactly(pool.query("select 7")) == exactly([(Custom("7"),)])
    with nobody_leads(pool):
        with pytest.raises(LookupError, match="dumper that raises"):
            pool.query("select %s", [Custom("bad")])
    whole, count, one = combined(
        pool,
        asking(pool, "select n from generate_series(665, 667) n"),
        lambda: pool.execute("select n from generate_series(665, 667) n"),
        lambda: pool.query_one("select n from generate_series(665, 667) n"),
    )
    assert type(whole) is LookupError
    assert (count, one) == (3, (Custom("665"),))
    assert pool.stats().created == pool.stats().size, "no connection may be lost by it"
