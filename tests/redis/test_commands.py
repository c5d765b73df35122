"""What is known of Redis's commands is what a real server says of them."""

from __future__ import annotations

import math

import pytest
import redis

from poolkit.redis.commands import IDEMPOTENT, INQUIRIES, READ_ONLY, Session, traits_of


@pytest.fixture
def table(redis_url):
    """Give the server's own table: name, with subcommands as NAME|SUB, to flags and first key."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        conn = client.connection_pool.get_connection()
        conn.send_command("COMMAND")
        listed = conn.read_response()
        client.connection_pool.release(conn)
    found = {}

    def add(entry):
        name = entry[0].decode().upper()
        found[name] = ({flag.decode() for flag in entry[2]}, entry[3])
        for subcommand in entry[9]:
            add(subcommand)

    for entry in listed:
        add(entry)
    return found


def test_the_read_only_commands_are_those_that_the_server_flags_so(table):
    assert {name for name, (flags, _) in table.items() if "readonly" in flags} == READ_ONLY


def test_no_inquiry_writes(table):
    # SCRIPT LOAD keeps a script, the same one each time.
    assert [name for name in INQUIRIES if "write" in table[name][0]] == []


def test_all_idempotent_writes_are_writes_of_the_server(table):
    assert [name for name in IDEMPOTENT if "write" not in table[name][0]] == []


def test_the_first_key_is_where_the_server_has_it(table):
    wrong = {}
    for name, (flags, first) in table.items():
        if "movablekeys" in flags or name in ("MEMORY", "OBJECT", "XGROUP", "XINFO"):
            continue  # told apart below, or nothing without their subcommands
        words = (*name.split("|"), *(f"word{number}" for number in range(len(name.split("|")), 9)))
        expected = words[first] if first else None
        found = traits_of(words).first_key(words)
        if found != expected and not name.endswith("HELP"):
            wrong[name] = (found, expected)
    assert wrong == {}


@pytest.mark.parametrize(
    "words",
    [
        ("EVAL", "return 1", 2, "k1", "k2", "arg"),
        ("EVALSHA", "0" * 40, 1, "k1"),
        ("FCALL", "f", 1, "k1"),
        ("XREAD", "COUNT", 2, "STREAMS", "s1", "s2", "0", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s1", ">"),
        ("ZUNION", 2, "z1", "z2"),
        ("ZINTERCARD", 1, "z1"),
        ("SINTERCARD", 1, "s1"),
        ("LMPOP", 1, "l1", "LEFT"),
        ("BLMPOP", 0, 1, "l1", "LEFT"),
        ("BZMPOP", 0, 1, "z1", "MIN"),
        ("SORT", "l1", "STORE", "l2"),
        ("ZUNIONSTORE", "out", 1, "z1"),
        ("GEORADIUS", "g1", 0, 0, 1, "m"),
        ("OBJECT", "ENCODING", "k1"),
        ("MEMORY", "USAGE", "k1"),
        ("BITOP", "NOT", "out", "k1"),
    ],
    ids=lambda words: words[0],
)
def test_the_first_key_of_what_moves_its_keys_is_the_servers(redis_url, words):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        keys = client.execute_command("COMMAND GETKEYS", *words)

    assert traits_of(words).first_key(words) == keys[0]


def test_a_script_without_keys_has_none():
    words = ("EVAL", "return 1", 0)

    assert traits_of(words).first_key(words) is None


@pytest.mark.parametrize(
    ("words", "repeatable"),
    [
        (("GET", "k"), True),
        (("get", "k"), True),
        ((b"GET", "k"), True),
        (("SET", "k", "v"), True),
        (("SET", "k", "v", "PX", 100), True),
        (("SET", "k", "v", "keepttl"), True),
        (("SET", "k", "v", "NX"), False),
        (("SET", "k", "v", "GET"), False),
        (("SET", "k", "v", "PX", 100, "XX"), False),
        (("MSET", "a", 1, "b", 2), True),
        (("EXPIRE", "k", 5), True),
        (("EXPIRE", "k", 5, "NX"), False),
        (("INCR", "n"), False),
        (("DEL", "k"), False),
        (("HSET", "h", "f", "v"), False),
        (("EVAL", "return 1", 0), False),
        (("EVAL_RO", "return 1", 0), True),
        (("PUBLISH", "c", "m"), False),
        (("CONFIG", "GET", "maxmemory"), True),
        (("CONFIG GET", "maxmemory"), True),
        (("CONFIG", "SET", "maxmemory", 0), False),
        (("JSON.SET", "k", "$", "1"), False),
        (("NOSUCHCOMMAND",), False),
        (("FLUSHALL",), False),
    ],
    ids=str,
)
def test_what_may_be_sent_again(words, repeatable):
    assert traits_of(words).repeatable(words) is repeatable


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (("GET", "k"), 0),
        (("BLPOP", "l", 2.5), 2.5),
        (("BLPOP", "l", "0"), math.inf),
        (("BLMPOP", 3, 1, "l", "LEFT"), 3),
        (("WAIT", 1, 1500), 1.5),
        (("XREAD", "BLOCK", 200, "STREAMS", "s", "$"), 0.2),
        (("XREAD", "BLOCK", 0, "STREAMS", "s", "$"), math.inf),
        (("XREAD", "STREAMS", "s", "0"), 0),
        (("BLPOP", "l", "soon"), 0),
    ],
    ids=str,
)
def test_how_long_a_command_blocks_on_purpose(words, seconds):
    assert traits_of(words).blocks(words) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("words", "session"),
    [
        (("GET", "k"), Session.KEEPS),
        (("watch", "k"), Session.WATCHES),
        (("MULTI",), Session.OPENS),
        (("EXEC",), Session.ENDS),
        (("SELECT", 1), Session.CHANGES),
        (("CLIENT", "REPLY", "OFF"), Session.CHANGES),
        (("client reply", "OFF"), Session.CHANGES),
        (("CLIENT", "ID"), Session.KEEPS),
    ],
    ids=str,
)
def test_what_a_command_does_to_its_connection(words, session):
    assert traits_of(words).session is session


def test_a_container_says_nothing_of_its_subcommands():
    assert traits_of(("CLIENT",)).session is Session.KEEPS

    assert traits_of(("CLIENT", "REPLY", "OFF")).session is Session.CHANGES
