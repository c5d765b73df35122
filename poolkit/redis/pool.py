"""RedisPool: redis-py's connections, lent with deadlines, safe retries, and names for who holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from ..core import checks
from ..core.config import config_from
from ..core.errors import ConfigError
from ..core.pool import Pool
from .blocks import Borrowed
from .client import HeldClient, make_client, make_held_client
from .commands import Argument, Command, Session, traits_of
from .config import RedisConfig
from .running import Running

if TYPE_CHECKING:
    from typing_extensions import Self

Key = str | bytes
Value = str | bytes | bytearray | memoryview | int | float
Ttl = int | float | timedelta
ItemT = TypeVar("ItemT")
KeyT = TypeVar("KeyT")

LARGEST = 512 * 1024 * 1024
"""Bytes of the largest argument that Redis takes (``proto-max-bulk-len``)."""


class RedisPool(Pool[RedisConfig, Running]):
    """A thread-safe pool of connections to a Redis server, a cluster, or the master that sentinels name.

    Takes a URL, or a :class:`~poolkit.RedisConfig`, or the config's fields as keywords. Opens itself on
    first use, in each process; ``with`` opens and closes it.

    Commands raise :class:`~poolkit.PoolTimeout`, :class:`~poolkit.PoolOverloaded`,
    :class:`~poolkit.BackendUnavailable`, :class:`~poolkit.PoolClosed`,
    :class:`~poolkit.DeadlineExceeded`, and :class:`~poolkit.OutcomeUnknown` when the answer to one that
    must not be repeated was lost. For one that may be repeated, and was in vain, that is redis-py's
    ``TimeoutError`` or ``ConnectionError``; what the server itself refuses is its ``ResponseError``.
    """

    def __init__(self, url: str | RedisConfig | None = None, /, **settings: Any) -> None:
        super().__init__(
            config_from(RedisConfig, "url", url, settings),
            start=self._start,
            ping=self._ask_for_pong,
        )
        # Clients, each made on first use. With no lock, since a cluster's has to wait for the servers: of
        # two that are made at the same time the first is kept.
        self._made: dict[str, Any] = {}

    def open(self) -> Self:
        """Get ready to connect; without ``lazy_connect``, connect now, and raise if that can't be done."""
        self._lifecycle.open()
        if not self.config.lazy_connect:
            self._ask_for_pong()
        return self

    # -- strings -------------------------------------------------------------------------------------

    def get(self, key: Key) -> str | None:
        """Return the value of *key*; None if there is none. ``bytes`` where ``decode_responses`` is off."""
        found: str | None = self._run(("GET", key))
        return found

    def get_bytes(self, key: Key) -> bytes | None:
        """Return the value of *key* as it is stored; None if there is none."""
        found: bytes | None = self._run(("GET", key), decode=False)
        return found

    def set(
        self,
        key: Key,
        value: Value,
        *,
        ttl: Ttl | None = None,
        nx: bool = False,
        xx: bool = False,
        keep_ttl: bool = False,
    ) -> bool:
        """Set *key*, for *ttl* seconds if given; return whether it was set.

        *nx*: only if there is none yet; *xx*: only if there is one; *keep_ttl*: leave its time to live.
        """
        if ttl is None and not (nx or xx or keep_ttl):
            return self._run(("SET", key, value)) is not None
        if nx and xx:
            raise ConfigError("nx and xx exclude each other")
        if ttl is not None and keep_ttl:
            raise ConfigError("ttl and keep_ttl exclude each other")
        words: list[Argument] = ["SET", key, value]
        if ttl is not None:
            words += ("PX", _milliseconds(ttl))
        for given, word in ((nx, "NX"), (xx, "XX"), (keep_ttl, "KEEPTTL")):
            if given:
                words.append(word)
        return self._run(words) is not None

    def delete(self, *keys: Key) -> int:
        """Delete *keys*; return how many there were."""
        return self._each("DEL", keys)

    def exists(self, *keys: Key) -> int:
        """Return how many of *keys* there are; one given twice counts twice."""
        return self._each("EXISTS", keys)

    def incr(self, key: Key, by: int = 1) -> int:
        """Add *by* to the number at *key*, 0 if there is none; return the sum."""
        total: int = self._run(("INCRBY", key, checks.integer("by", by)))
        return total

    def expire(self, key: Key, ttl: Ttl) -> bool:
        """Let *key* live for *ttl* seconds from now; return whether there is such a key."""
        return bool(self._run(("PEXPIRE", key, _milliseconds(ttl))))

    def mget(self, keys: Iterable[Key]) -> list[str | None]:
        """Return the values of *keys* in order, None where there is none. On a cluster not at one instant."""
        wanted = _listed("keys", keys)
        if not wanted:
            return []
        if self.config.is_cluster:
            return self.pipeline([("GET", key) for key in wanted])
        values: list[str | None] = self._run(("MGET", *wanted))
        return values

    def mset(self, items: Mapping[Key, Value]) -> None:
        """Set several keys, all at one instant; on a cluster one after the other."""
        if not _mapped(items):
            return
        if self.config.is_cluster:
            self.pipeline([("SET", key, value) for key, value in items.items()])
        else:
            self._run(("MSET", *(word for item in items.items() for word in item)))

    # -- hashes --------------------------------------------------------------------------------------

    def hget(self, key: Key, name: Key) -> str | None:
        """Return a field of the hash at *key*, None if there is none."""
        found: str | None = self._run(("HGET", key, name))
        return found

    def hset(self, key: Key, items: Mapping[Any, Value]) -> int:
        """Set fields of the hash at *key*; return how many are new."""
        if not _mapped(items):
            raise ConfigError("items must have at least one field")
        added: int = self._run(("HSET", key, *(word for item in items.items() for word in item)))
        return added

    def hgetall(self, key: Key) -> dict[str, str]:
        """Return the hash at *key*, empty if there is none."""
        found: dict[str, str] = self._run(("HGETALL", key))
        return found

    def hdel(self, key: Key, *names: Key) -> int:
        """Delete fields of the hash at *key*; return how many there were."""
        removed: int = self._run(("HDEL", key, *names)) if names else 0
        return removed

    # -- anything ------------------------------------------------------------------------------------

    def execute(self, *words: Argument, idempotent: bool = False, decode: bool = True) -> Any:
        """Run any single command: ``execute("HGETALL", "h")``. Return what the server answers, as RESP3 has it.

        *idempotent* says that it may be sent again when its answer was lost, though poolkit would not know
        that. Without *decode* the answer is ``bytes``. On a cluster, commands without a key go to one of the
        nodes; those about all of them are in :attr:`client`.
        """
        return self._run(words, idempotent=idempotent, decode=decode)

    def pipeline(
        self,
        commands: Iterable[Sequence[Argument]],
        *,
        raise_on_error: bool = True,
        idempotent: bool = False,
    ) -> list[Any]:
        """Run several commands in one round trip; return their answers in order.

        Each runs by itself; :attr:`client` has transactions. The first that the server refused is raised
        when all have run, or, without *raise_on_error*, errors are among the answers. On a cluster it is
        one round trip a node.
        """
        listed = []
        for number, words in enumerate(_listed("commands", commands)):
            if isinstance(words, (str, bytes)) or not isinstance(words, Sequence):
                raise ConfigError(
                    f"command {number} of the pipeline must be a tuple of words, not {checks.kind(words)}"
                )
            listed.append(_checked(words))
        if not listed:
            return []
        running = self._lifecycle.running or self._lifecycle.open()

        def raise_first(replies: list[Any]) -> None:
            for number, reply in enumerate(replies):
                if isinstance(reply, redis.RedisError):
                    raise _numbered(reply, number, listed[number][1].name) from reply

        return running.batch(
            listed, idempotent=idempotent, check=raise_first if raise_on_error else None
        )

    @property
    def client(self) -> redis.Redis | redis.RedisCluster:
        """The whole of redis-py's API over this pool: a ``redis.Redis``, or a ``redis.RedisCluster``."""
        client: redis.Redis | redis.RedisCluster | None = self._made.get("client")
        if client is None:
            client = make_client(self.config, self._lifecycle.open)
            client = self._made.setdefault("client", client)
        return client

    def connection(self, *, key: Key | None = None) -> Borrowed:
        """Hold one connection for a ``with`` block, as a ``redis.Redis``: for WATCH, BLPOP or pub/sub.

        It goes back if it is clean, and is closed if not. On a cluster, *key* says which node it is to.
        """
        if key is None and self.config.is_cluster:
            raise ConfigError(
                "in a cluster, say which node: connection(key=…) with one of its keys"
            )
        return Borrowed(self._lifecycle, self._held_client, key)

    # -- private -------------------------------------------------------------------------------------

    def _start(self) -> Running:
        return Running(self.config)

    def _ask_for_pong(self) -> None:
        with suppress(
            redis.exceptions.NoPermissionError
        ):  # a user that may not ask got an answer too
            self._run(("PING",))

    @property
    def _held_client(self) -> HeldClient:
        client: HeldClient | None = self._made.get("held client")
        if client is None:
            client = self._made.setdefault("held client", make_held_client(self.config))
        return client

    def _run(
        self, words: Sequence[Argument], *, idempotent: bool = False, decode: bool = True
    ) -> Any:
        words, traits = _checked(words)
        running = self._lifecycle.running or self._lifecycle.open()
        return running.command(words, traits, decode=decode, idempotent=idempotent)

    def _each(self, command: str, keys: Sequence[Key]) -> int:
        """Return the sum of what *command* counts for *keys*."""
        if not keys:
            return 0
        if self.config.is_cluster and len(keys) > 1:
            return sum(self.pipeline([(command, key) for key in keys]))
        count: int = self._run((command, *keys))
        return count


def _checked(words: Sequence[Argument]) -> Command:
    """Return *words*, and what is known of them, if they can be sent as one command by itself."""
    if not words or not isinstance(words[0], (str, bytes)) or not words[0]:
        raise ConfigError("a command begins with its name, as in ('GET', 'key')")
    for word in words:
        kind = type(word)
        if kind is str or kind is bytes:
            if len(word) * 4 > LARGEST:  # type: ignore[arg-type]  # UTF-8 has up to four bytes a character
                _check_length(words)
        elif kind is not int and kind is not float:
            return _checked([_plain(word, words, at) for at, word in enumerate(words)])
    traits = traits_of(words)
    if traits.session is not Session.KEEPS:
        raise ConfigError(
            f"{traits.name} changes the connection it is sent on: use one of your own, "
            "with pool.connection() as r: …"
        )
    return words, traits


def _check_length(words: Sequence[Argument]) -> None:
    """Raise if one of *words* is longer than Redis takes."""
    for position, word in enumerate(words):
        raw = word.encode() if isinstance(word, str) else word
        if isinstance(raw, bytes) and len(raw) > LARGEST:
            raise ConfigError(
                f"word {position} of {traits_of(words).name} is longer than the 512 MiB that Redis takes"
            )


def _plain(word: Any, words: Sequence[Argument], position: int) -> Argument:
    """Return *word* as what it stands for; hiredis knows no subclasses."""
    if isinstance(word, (bytearray, memoryview)):
        return bytes(word)
    if isinstance(word, str):
        return str.__str__(word)  # an enumeration's own says its name
    if isinstance(word, bytes):
        return bytes(word)
    if isinstance(word, int) and not isinstance(word, bool):
        return int(word)
    if isinstance(word, float):
        return float(word)
    raise ConfigError(
        f"word {position} of {traits_of(words).name} must be str, bytes or a number, "
        f"not {checks.kind(word)}; convert it first, with json.dumps say"
    )


def _numbered(error: redis.RedisError, number: int, name: str) -> redis.RedisError:
    """Return an error like *error*, that says which command of a pipeline it is about."""
    # MovedError and AskError can be made only of what a server said.
    kind = redis.ResponseError if isinstance(error, redis.exceptions.AskError) else type(error)
    return kind(f"command {number} of the pipeline, {name}: {error}")


def _milliseconds(ttl: Ttl) -> int:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else checks.seconds("ttl", ttl)
    if seconds < 0.001:
        raise ConfigError("ttl must be at least a millisecond; delete() deletes a key")
    return round(seconds * 1000)


def _listed(name: str, given: Iterable[ItemT]) -> list[ItemT]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} must be a list, not {checks.kind(given)}")
    return list(given)


def _mapped(given: Mapping[KeyT, Value]) -> Mapping[KeyT, Value]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"items must be a dict, not {checks.kind(given)}")
    return given
