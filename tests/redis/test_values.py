"""What goes in and what comes out: words of all kinds, RESP3's shapes, text or bytes."""

from __future__ import annotations

import enum
import math
from datetime import timedelta

import pytest
import redis

from poolkit import ConfigError, RedisPool
from poolkit.redis import pool as pool_module

SECRET = "s3cret"


class Odd:
    def __repr__(self):
        return SECRET

    __str__ = __repr__


@pytest.fixture
def cache(redis_url):
    """Give a pool on the empty shared server."""
    with RedisPool(redis_url) as cache:
        yield cache


# -- in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, v: c.get(v), "word 1 of GET"),
        (lambda c, v: c.get_bytes(v), "word 1 of GET"),
        (lambda c, v: c.set("k", v, ttl=5), "word 2 of SET"),
        (lambda c, v: c.delete("a", v), "word 2 of DEL"),
        (lambda c, v: c.exists(v), "word 1 of EXISTS"),
        (lambda c, v: c.incr(v), "word 1 of INCRBY"),
        (lambda c, v: c.expire(v, 5), "word 1 of PEXPIRE"),
        (lambda c, v: c.mget(["a", v]), "word 2 of MGET"),
        (lambda c, v: c.mset({"a": "b", "c": v}), "word 4 of MSET"),
        (lambda c, v: c.hget("h", v), "word 2 of HGET"),
        (lambda c, v: c.hset("h", {"f": v}), "word 3 of HSET"),
        (lambda c, v: c.hdel("h", v), "word 2 of HDEL"),
        (lambda c, v: c.execute("CONFIG GET", v), r"word 1 of CONFIG\|GET"),
        (lambda c, v: c.pipeline([("INCR", "n"), ("GET", v)]), "word 1 of GET"),
    ],
    ids=[
        "get", "get_bytes", "set", "delete", "exists", "incr", "expire", "mget", "mset", "hget",
        "hset", "hdel", "execute", "pipeline",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "None"),
        (True, "a value of type bool"),
        (Odd(), "a value of type Odd"),
        ([SECRET], "a value of type list"),
        ({SECRET: 1}, "a value of type dict"),
        ((SECRET,), "a value of type tuple"),
        (1j, "a value of type complex"),
    ],
    ids=["None", "bool", "object", "list", "dict", "tuple", "complex"],
)
def test_what_is_no_text_bytes_or_number_is_refused_by_place_and_kind(
    redis_url, call, message, value, kind
):
    if isinstance(value, dict) and "MSET" in message:
        value = {SECRET: Odd()}
    cache = RedisPool(redis_url)

    with pytest.raises(ConfigError, match=message) as caught:
        call(cache, value)

    assert f"not {kind}" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert cache.stats().created == 0  # nothing was sent


@pytest.mark.parametrize("word", ["keys", b"keys", bytearray(b"keys"), memoryview(b"keys")])
@pytest.mark.parametrize("place", ["key", "value"])
def test_a_word_that_is_too_long_is_refused_before_it_is_sent(redis_url, monkeypatch, word, place):
    monkeypatch.setattr(pool_module, "LARGEST", 3)
    cache = RedisPool(redis_url)
    words = {"key": (word, "v"), "value": ("k", word)}[place]

    with pytest.raises(ConfigError, match=f"word {1 + (place == 'value')} of SET is longer than"):
        cache.pipeline([("SET", *words)])

    assert cache.stats().created == 0


def test_the_length_of_a_word_is_that_of_its_bytes(redis_url, monkeypatch):
    monkeypatch.setattr(pool_module, "LARGEST", 5)
    with RedisPool(redis_url) as cache:
        assert cache.set("k", "grün") is True  # five bytes

        with pytest.raises(ConfigError, match="longer than"):
            cache.set("k", "grüün")  # five characters in seven bytes


def test_a_512_mib_limit_is_what_the_server_has(cache):
    assert cache.execute("CONFIG", "GET", "proto-max-bulk-len") == {
        "proto-max-bulk-len": str(pool_module.LARGEST)
    }


class Colour(enum.IntEnum):
    GREEN = 7


class Suit(str, enum.Enum):
    """Text with a ``str()`` of its own."""

    HEARTS = "h"


class Share(float):
    """A number with a repr of its own, as numpy's float64 is."""

    def __repr__(self):
        return f"Share({float(self)})"


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Name("x"), b"x"),
        (Suit.HEARTS, b"h"),
        (Colour.GREEN, b"7"),
        (Share(1.5), b"1.5"),
        (2**63 - 1, b"9223372036854775807"),
        (-(10**30), b"-" + b"1" + b"0" * 30),
        (0.1 + 0.2, b"0.30000000000000004"),
        (math.inf, b"inf"),
        ("", b""),
        (b"\x00\r\n\xff", b"\x00\r\n\xff"),
        ("\N{GRINNING FACE}", b"\xf0\x9f\x98\x80"),
        (memoryview(b"abcdef")[::2], b"ace"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("way", ["set", "pipeline"])
def test_a_value_is_stored_as_what_it_is(cache, way, value, stored):
    if way == "set":
        assert cache.set("k", value) is True
    else:
        assert cache.pipeline([("SET", "k", value)]) == ["OK"]

    assert cache.get_bytes("k") == stored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": True}, "ttl must be a number of seconds, not a value of type bool"),
        ({"ttl": math.inf}, "ttl must be a finite number"),
        ({"ttl": timedelta(0)}, "ttl must be at least a millisecond"),
        ({"ttl": timedelta(seconds=-5)}, "ttl must be at least a millisecond"),
        ({"ttl": 0.0004}, "ttl must be at least a millisecond"),
    ],
    ids=str,
)
def test_a_time_to_live_that_makes_no_sense_is_refused(cache, options, message):
    cache.set("k", "before")
    for call in (lambda: cache.set("k", "v", **options), lambda: cache.expire("k", **options)):
        with pytest.raises(ConfigError, match=message):
            call()

    assert cache.get("k") == "before"


@pytest.mark.parametrize("by", [1.5, "1", None, True])
def test_a_counter_counts_in_whole_numbers(cache, by):
    with pytest.raises(ConfigError, match="by must be a whole number"):
        cache.incr("n", by)

    assert cache.incr("n", -3) == -3


# -- out -----------------------------------------------------------------------------------------------

SHAPES = [
    (("LPOP", "no such key"), None),
    (("RPUSH", "l", "a", "b"), 2),
    (("LRANGE", "l", 0, -1), ["a", "b"]),
    (("HSET", "h", "a", 1, "b", 2), 2),
    (("HGETALL", "h"), {"a": "1", "b": "2"}),
    (("ZADD", "z", 1, "a", 2.5, "b"), 2),
    (("ZRANGE", "z", 0, -1, "WITHSCORES"), [["a", 1.0], ["b", 2.5]]),
    (("ZSCORE", "z", "b"), 2.5),
    (("PING",), "PONG"),
    (("EVAL", "redis.setresp(3); return true", 0), True),
    (("EVAL", "return {1, {'two', {3}}}", 0), [1, ["two", [3]]]),
]


def test_answers_have_the_shapes_of_resp3(cache):
    assert [(words, cache.execute(*words)) for words, _ in SHAPES] == SHAPES

    cache.execute("FLUSHDB")
    assert cache.pipeline([words for words, _ in SHAPES]) == [answer for _, answer in SHAPES]


def test_a_set_has_its_members_each_once(cache):
    cache.execute("SADD", "s", "a", "b", "a")

    assert sorted(cache.execute("SMEMBERS", "s")) == ["a", "b"]


def test_undecoded_answers_are_bytes_at_any_depth(cache):
    cache.hset("h", {"a": 1})

    assert cache.execute("HGETALL", "h", decode=False) == {b"a": b"1"}
    assert cache.execute("EVAL", "return {'a', {'b'}}", 0, decode=False) == [b"a", [b"b"]]
    assert cache.execute("HGETALL", "h") == {"a": "1"}  # and that was for once


def test_a_pool_that_does_not_decode_gives_bytes_everywhere(redis_url):
    with RedisPool(redis_url, decode_responses=False) as cache:
        cache.mset({"a": 1, b"b": "two"})
        cache.hset("h", {"f": "v"})

        assert cache.get("a") == cache.get_bytes("a") == b"1"
        assert cache.mget(["a", "b", "no"]) == [b"1", b"two", None]
        assert cache.hget("h", "f") == b"v"
        assert cache.hgetall("h") == {b"f": b"v"}
        assert cache.execute("ECHO", "x") == b"x"
        assert cache.pipeline([("GET", "a"), ("PING",)]) == [b"1", b"PONG"]
        assert cache.set("a", "2", xx=True) is True
        assert cache.set("a", "2", nx=True) is False
        assert cache.incr("a", 2) == 4
        with cache.connection() as conn:
            assert conn.get("a") == b"4"
        assert cache.client.hgetall("h") == {b"f": b"v"}
        with pytest.raises(redis.ResponseError, match="command 0 of the pipeline, LPUSH: WRONG"):
            cache.pipeline([("LPUSH", "a", 1)])


def test_bytes_that_are_no_text_leave_the_next_answer_its_own(cache):
    cache.set("k", b"\xff\xfe")
    cache.set("next", "v")

    for _ in range(3):
        with pytest.raises(UnicodeDecodeError):
            cache.get("k")
        assert cache.get("next") == "v"
        with pytest.raises(UnicodeDecodeError):
            cache.pipeline([("GET", "k"), ("ECHO", "not lost on others")])
        assert cache.get("next") == "v"

    assert cache.get_bytes("k") == b"\xff\xfe"
    assert cache.stats().in_use == 0


# -- pipelines -----------------------------------------------------------------------------------------


def test_an_error_in_a_pipeline_keeps_its_kind_and_its_cause(cache):
    with pytest.raises(
        redis.exceptions.NoScriptError, match="command 1 of the pipeline, EVALSHA"
    ) as c:
        cache.pipeline([("PING",), ("EVALSHA", "0" * 40, 0), ("LPUSH",)])

    assert isinstance(c.value.__cause__, redis.exceptions.NoScriptError)


def test_errors_are_in_their_places_when_they_are_not_raised(cache):
    answers = cache.pipeline(
        iter([["SET", "k", "v"], ("INCR", "k"), ("nosuch", "x"), (b"GET", "k")]),
        raise_on_error=False,
    )

    assert [type(answer) for answer in answers] == [
        str,
        redis.ResponseError,
        redis.ResponseError,
        str,
    ]
    assert "not an integer" in str(answers[1])
    assert "unknown command" in str(answers[2])
    assert answers[3] == "v"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("GET k", "command 1 of the pipeline must be a tuple of words, not a value of type str"),
        (b"GET k", "command 1 of the pipeline must be a tuple of words, not a value of type bytes"),
        (None, "command 1 of the pipeline must be a tuple of words, not None"),
        ({"GET": "k"}, "command 1 of the pipeline must be a tuple of words, not a value of type"),
        ((), "a command begins with its name"),
        (("",), "a command begins with its name"),
        ((5, "k"), "a command begins with its name"),
        (("EXEC",), "EXEC changes the connection"),
    ],
    ids=str,
)
def test_a_pipeline_with_a_bad_command_runs_none(cache, bad, message):
    with pytest.raises(ConfigError, match=message):
        cache.pipeline([("SET", "a", 1), bad])

    assert cache.get("a") is None


def test_a_generator_that_raises_has_nothing_sent(cache):
    def commands():
        yield ("SET", "a", 1)
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        cache.pipeline(commands())

    assert cache.get("a") is None


@pytest.mark.parametrize(
    "words",
    [
        (" multi ",), (b"multi",), ("EXEC",), ("DISCARD",), ("unwatch",), ("PSUBSCRIBE", "c*"),
        ("SSUBSCRIBE", "c"), ("UNSUBSCRIBE",), ("MONITOR",), ("AUTH", SECRET), ("HELLO", 3),
        ("RESET",), ("QUIT",), ("CLIENT REPLY", "OFF"), (b"client reply", "OFF"),
        ("CLIENT", b"tracking", "ON"), ("CLIENT", "SETNAME", "x"), ("CLIENT", "NO-EVICT", "ON"),
        ("READONLY",), ("ASKING",), ("SYNC",), ("SCRIPT", "DEBUG", "YES"),
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_a_connection_is_refused_unsent_however_it_is_written(redis_url, words):
    cache = RedisPool(redis_url)
    for call in (lambda: cache.execute(*words), lambda: cache.pipeline([words])):
        with pytest.raises(ConfigError, match=r"with pool\.connection\(\)") as caught:
            call()
        assert SECRET not in str(caught.value)

    assert cache.stats().created == 0
