"""What a Redis sends: whatever comes is a value or an error of Redis, and the next command has its own answer."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from poolkit import PoolKitError, RedisPool
from tests.core.support import LONG
from tests.generated import examples
from tests.redis.scripted import ScriptedRedis, Torn

from .support import LONG_NUMBER

WORDS = (
    b"+OK\r\n",
    b"$5\r\nhello\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"$-5\r\n",
    b"$999999999999\r\n",
    b"$5\r\n",
    b":1\r\n",
    b":x\r\n",
    b"-ERR it says\r\n",
    b"-LOADING it says\r\n",
    b"-READONLY it says\r\n",
    b"-NOAUTH it says\r\n",
    b"-MOVED 1 a:1\r\n",
    b"-MOVED\r\n",
    b"-\r\n",
    b"*1\r\n",
    b"*-1\r\n",
    b"*-9\r\n",
    b"*2\r\n+a\r\n+b\r\n",
    b"%1\r\n",
    b"~1\r\n",
    b"|1\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n+x\r\n",
    b">1\r\n+x\r\n",
    b">0\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b",x\r\n",
    b"(12\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"!5\r\nERR x\r\n",
    b"\r\n",
    b"\n",
    b"?",
    b"\0",
    b"\xff",
)
REPLIES = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.binary(max_size=2)), max_size=4
).map(b"".join)
HANGS_UP = st.sampled_from((True, True, False))
HOSTILE = b"hostile"


class Scene:
    """A pool over a server that answers ECHO as it should, but for :data:`HOSTILE`."""

    def __init__(self, **options):
        self.says = b""
        self.hangs_up = False
        self.tags = itertools.count()
        self.server = ScriptedRedis(self.answer)
        self.server.__enter__()
        self.pool = RedisPool(
            self.server.url,
            max_size=1,
            max_retries=0,
            command_timeout=0.05,
            acquire_timeout=LONG,
            **options,
        )

    def answer(self, words):
        said = words[-1]
        if said != HOSTILE:
            return b"$%d\r\n%s\r\n" % (len(said), said)
        return Torn(self.says, lambda: None, resets=False) if self.hangs_up else self.says

    def assert_the_next_has_its_own_answer(self):
        tag = f"tag {next(self.tags)}"
        try:
            answer = self.pool.execute("ECHO", tag)
        except redis.ConnectionError:  # the server had hung up, and it was not seen before
            answer = self.pool.execute("ECHO", tag)
        assert answer == tag
        assert self.pool.stats().in_use == 0


@pytest.fixture(scope="module", params=[True, False], ids=["combined", "apart"])
def scene(request):
    """Give a pool, and a server that says what the test wants."""
    scene = Scene(combine=request.param)
    with scene.pool:
        yield scene
    scene.server.__exit__(None, None, None)


@examples(80)
@given(replies=REPLIES, hangs_up=HANGS_UP)
@example(replies=b"(" + LONG_NUMBER.encode() + b"\r\n", hangs_up=False)
@example(replies=b"*1\r\n" * 10_000, hangs_up=False)
@example(replies=b"$5\r\n\xff\xfe\xfd\xfc\xfb\r\n", hangs_up=False)
@example(replies=b"+OK\r\n+OK\r\n", hangs_up=False)
@example(replies=b">0\r\n", hangs_up=False)
@example(replies=b"%1\r\n*2\r\n+a\r\n+b\r\n+c\r\n", hangs_up=False)
def test_whatever_a_command_is_answered_the_next_has_an_answer_of_its_own(scene, replies, hangs_up):
    scene.says, scene.hangs_up = replies, hangs_up

    with suppress(redis.RedisError, PoolKitError, UnicodeDecodeError):
        scene.pool.execute("ECHO", HOSTILE)

    scene.assert_the_next_has_its_own_answer()


@examples(50)
@given(replies=REPLIES, hangs_up=HANGS_UP, before=st.integers(0, 2), after=st.integers(0, 2))
def test_whatever_a_pipeline_is_answered_the_next_has_an_answer_of_its_own(
    scene, replies, hangs_up, before, after
):
    scene.says, scene.hangs_up = replies, hangs_up
    commands = [("ECHO", "a")] * before + [("ECHO", HOSTILE)]
    if hangs_up:  # else answers too many might come when they can't be told from the next command's
        commands += [("ECHO", "z")] * after

    with suppress(redis.RedisError, PoolKitError, UnicodeDecodeError):
        answers = scene.pool.pipeline(commands)
        assert len(answers) == len(commands)

    scene.assert_the_next_has_its_own_answer()
