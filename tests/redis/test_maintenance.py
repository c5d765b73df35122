"""A server that announces its maintenance: what it pushes is never taken for an answer."""

from __future__ import annotations

from poolkit import RedisPool

from .scripted import ScriptedRedis

MOVING = b">4\r\n+MOVING\r\n:1\r\n:15\r\n$14\r\n127.0.0.1:6379\r\n"
MIGRATING = b">4\r\n+MIGRATING\r\n:2\r\n:10\r\n$1\r\n1\r\n"


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def test_it_is_not_asked_for_unless_it_is_wanted():
    with ScriptedRedis(lambda words: _bulk(words[1])) as server, RedisPool(server.url) as cache:
        assert cache.get("k") == "k"

    assert not any(b"MAINT_NOTIFICATIONS" in words for words in server.heard)


def test_it_is_asked_for_when_it_is_wanted():
    with (
        ScriptedRedis(lambda words: _bulk(words[1])) as server,
        RedisPool(server.url, maintenance_notifications=True) as cache,
    ):
        assert cache.get("k") == "k"

    assert any(b"MAINT_NOTIFICATIONS" in words for words in server.heard)


def test_an_announcement_before_an_answer_is_not_the_answer():
    with (
        ScriptedRedis(lambda words: MIGRATING + _bulk(words[1])) as server,
        RedisPool(server.url, maintenance_notifications=True) as cache,
    ):
        assert [cache.get(str(number)) for number in range(20)] == [str(n) for n in range(20)]


def test_an_announcement_after_an_answer_reaches_no_other_caller():
    with (
        ScriptedRedis(lambda words: _bulk(words[1]) + MIGRATING) as server,
        RedisPool(server.url, maintenance_notifications=True) as cache,
    ):
        assert [cache.get(str(number)) for number in range(20)] == [str(n) for n in range(20)]


def test_connections_are_replaced_when_the_server_says_that_it_moves():
    said = iter([MOVING])

    def answer(words):
        return next(said, b"") + _bulk(words[1])

    with (
        ScriptedRedis(answer) as server,
        RedisPool(server.url, maintenance_notifications=True) as cache,
    ):
        assert [cache.get(str(number)) for number in range(3)] == ["0", "1", "2"]

        assert server.connections == 2
        assert cache.stats().closed == 1
