"""A command is known however it is written, and its key is where the server finds it."""

from __future__ import annotations

import math

import pytest
import redis

from poolkit.redis.commands import Session, traits_of

CALLS = [
    ("GET", "k"),
    ("SET", "k", "v", "EX", 10),
    ("BLPOP", "k", 2.5),
    ("BLMPOP", 3, 1, "k", "LEFT"),
    ("XREAD", "COUNT", 2, "BLOCK", 200, "STREAMS", "s1", "s2", "0", "0"),
    ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 100, "STREAMS", "s1", ">"),
    ("ZUNION", 2, "k", "z2"),
    ("BITOP", "NOT", "out", "k"),
    ("EVAL", "return 1", 1, "k"),
    ("OBJECT", "ENCODING", "k"),
    ("MEMORY", "USAGE", "k"),
    ("XINFO", "STREAM", "k"),
    ("XGROUP", "CREATE", "k", "g", "$"),
]


def spellings(call):
    """Yield *call* in all the ways in which redis-py, and poolkit, send the same."""
    name, *rest = call
    names = [name, name.lower(), name.title(), name.encode(), name.lower().encode()]
    yield from ((spelled, *rest) for spelled in names)
    yield (name, *(word.encode() if isinstance(word, str) else word for word in rest))
    if name in ("OBJECT", "MEMORY", "XINFO", "XGROUP"):
        joined = f"{name} {rest[0]}"
        yield (joined, *rest[1:])
        yield (joined.lower(), *rest[1:])
        yield (joined.encode(), *rest[1:])
        yield (name.lower(), rest[0].lower(), *rest[1:])


def as_text(word):
    return word.decode() if isinstance(word, bytes) else word


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_the_first_key_is_the_servers_however_the_command_is_written(redis_url, call):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        key = client.execute_command("COMMAND GETKEYS", *call)[0]

    found = {spelled: as_text(traits_of(spelled).first_key(spelled)) for spelled in spellings(call)}

    assert {spelled: k for spelled, k in found.items() if k != key} == {}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_all_else_is_the_same_however_the_command_is_written(call):
    def known(words):
        traits = traits_of(words)
        return traits.name, traits.repeatable(words), traits.session, traits.blocks(words)

    expected = known(call)

    assert {spelled: known(spelled) for spelled in spellings(call)} == dict.fromkeys(
        spellings(call), expected
    )


@pytest.mark.parametrize(
    "words",
    [
        ("XREADGROUP", "GROUP", "streams", "c", "STREAMS", "s1", ">"),
        ("MIGRATE", "127.0.0.1", 6379, "", 0, 100, "KEYS", "k1", "k2"),
    ],
    ids=lambda words: words[0],
)
def test_the_first_key_is_found_behind_arguments_that_look_like_options(redis_url, words):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        keys = client.execute_command("COMMAND GETKEYS", *words)

    assert traits_of(words).first_key(words) == keys[0]


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (("XREAD", "STREAMS", "block", "0"), 0),  # a stream of that name
        (("XREADGROUP", "GROUP", "block", "c", "BLOCK", 100, "STREAMS", "s", ">"), 0.1),
        (("WAIT", 1, 0), math.inf),
        (("WAITAOF", 1, 0, 250), 0.25),
        (("BRPOP", "a", "b", 1), 1),
        (("BZPOPMIN", "z", b"0.5"), 0.5),
        (("BZMPOP", 0, 1, "z", "MIN"), math.inf),
        (("BLMOVE", "a", "b", "LEFT", "RIGHT", 4), 4),
    ],
    ids=str,
)
def test_only_an_option_lets_a_command_block(words, seconds):
    assert traits_of(words).blocks(words) == pytest.approx(seconds)


@pytest.mark.parametrize("first", ["CLIENT", "client", b"CLIENT", "Client"])
def test_a_name_that_was_seen_alone_hides_no_subcommand(first):
    assert traits_of((first,)).session is Session.KEEPS
    assert traits_of((first, "ID")).repeatable((first, "ID"))

    assert traits_of((first, "REPLY", "OFF")).session is Session.CHANGES
    assert traits_of((first, b"reply", "OFF")).session is Session.CHANGES
    assert not traits_of((first, "KILL", "x")).repeatable((first, "KILL", "x"))


@pytest.mark.parametrize("name", ["FT.SEARCH", "JSON.GET", "NOSUCH", "GET NOSUCH", "GETX", "", " "])
def test_what_is_not_known_counts_as_a_write(name):
    words = (name, "k")

    assert not traits_of(words).repeatable(words)
    assert traits_of(words).session is Session.KEEPS


@pytest.mark.parametrize(
    ("options", "repeatable"),
    [
        (("EX", 5), True),
        (("ex", "5"), True),
        ((b"PX", b"5"), True),
        (("EXAT", 2_000_000_000), True),
        (("PXAT", 2_000_000_000_000), True),
        (("KEEPTTL",), True),
        (("nx",), False),
        ((b"XX",), False),
        (("EX", 5, "GET"), False),
        (("KEEPTTL", "nx"), False),
        (("IFEQ", "5"), False),
        (("IFDEQ", "5"), False),
        (("SOMETHING", "NEW"), False),
    ],
    ids=str,
)
def test_set_may_be_sent_again_unless_an_option_asks_what_there_is(options, repeatable):
    words = ("SET", "k", "v", *options)

    assert traits_of(words).repeatable(words) is repeatable
