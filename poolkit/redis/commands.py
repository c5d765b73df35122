"""What is known of Redis's commands: which may be sent again, which block, which change their connection.

The table of read-only commands is that of ``COMMAND`` (the flag ``readonly``) of Redis 8.2; a test holds it
against the real server. What is not known here, the commands of modules say, counts as a write.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Argument = str | bytes | bytearray | memoryview | int | float


class Session(enum.Enum):
    """What a command does to the connection that it is sent on."""

    KEEPS = "keeps"
    WATCHES = "watches"
    """The connection watches keys, until EXEC, DISCARD or UNWATCH."""
    UNWATCHES = "unwatches"
    """The watching is over; inside a transaction it goes on until EXEC or DISCARD."""
    OPENS = "opens"
    """The connection is in a transaction, until EXEC or DISCARD."""
    ENDS = "ends"
    """The transaction, and the watching, are over."""
    CHANGES = "changes"
    """The connection is not like a new one any more: it subscribed, say, or selected another database."""


@dataclass(frozen=True)
class Traits:
    """What is known of one command."""

    name: str
    """In capitals, with its subcommand: ``GET``, ``CONFIG|GET``."""
    repeatable: Callable[[Sequence[Argument]], bool]
    """Whether it may be sent again though it may have run: it changes nothing, or the same, and answers the same."""
    session: Session
    blocks: Callable[[Sequence[Argument]], float]
    """For how many seconds its arguments let it block on purpose; infinity for ever."""
    first_key: Callable[[Sequence[Argument]], Argument | None]
    """Its first key, which says which node of a cluster has it; None if it has none."""
    combines: bool = False
    """Whether it may share a connection with others' commands: it never blocks, and changes no connection."""


Command = tuple[Sequence[Argument], Traits]
"""A command's words, and what is known of it."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ_ONLY = _names(
    """
    BITCOUNT BITFIELD_RO BITPOS DBSIZE DUMP EVALSHA_RO EVAL_RO EXISTS EXPIRETIME FCALL_RO GEODIST GEOHASH GEOPOS
    GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN
    HMGET HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS KEYS LCS LINDEX LLEN LOLWUT LPOS LRANGE
    MEMORY|USAGE MGET OBJECT|ENCODING OBJECT|FREQ OBJECT|IDLETIME OBJECT|REFCOUNT PEXPIRETIME PFCOUNT PTTL
    RANDOMKEY SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO SRANDMEMBER SSCAN STRLEN
    SUBSTR SUNION TOUCH TTL TYPE VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VRANDMEMBER VSIM
    XINFO|CONSUMERS XINFO|GROUPS XINFO|STREAM XLEN XPENDING XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER
    ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX
    ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION
    """
)
"""Commands that the server flags ``readonly``."""

INQUIRIES = _names(
    """
    CLIENT|GETNAME CLIENT|ID CLIENT|INFO CLIENT|LIST CLUSTER|COUNTKEYSINSLOT CLUSTER|GETKEYSINSLOT CLUSTER|INFO
    CLUSTER|KEYSLOT CLUSTER|MYID CLUSTER|NODES CLUSTER|SHARDS CLUSTER|SLOTS COMMAND COMMAND|COUNT COMMAND|DOCS
    COMMAND|GETKEYS COMMAND|INFO COMMAND|LIST CONFIG|GET ECHO FUNCTION|LIST FUNCTION|STATS INFO LASTSAVE PING
    PUBSUB|CHANNELS PUBSUB|NUMPAT PUBSUB|NUMSUB ROLE SCRIPT|EXISTS SCRIPT|LOAD SLOWLOG|GET SLOWLOG|LEN TIME
    """
)
"""Commands about the server that leave all data as it is, and are not flagged ``readonly``."""

IDEMPOTENT = {"SETEX": 4, "PSETEX": 4, "EXPIRE": 3, "PEXPIRE": 3, "EXPIREAT": 3, "PEXPIREAT": 3}
"""Writes that do and answer the same when repeated, with just so many words; more are conditions."""

_IDEMPOTENT_WITH_ANY = frozenset({"MSET", "HMSET"})
_SET_OPTIONS = frozenset({"EX", "PX", "EXAT", "PXAT", "KEEPTTL"})

_SESSION = {
    "MULTI": Session.OPENS,
    "WATCH": Session.WATCHES,
    "UNWATCH": Session.UNWATCHES,
    **dict.fromkeys(("EXEC", "DISCARD"), Session.ENDS),
    **dict.fromkeys(
        _names(
            """
            ASKING AUTH CLIENT|CACHING CLIENT|NO-EVICT CLIENT|NO-TOUCH CLIENT|REPLY CLIENT|SETINFO
            CLIENT|SETNAME CLIENT|TRACKING HELLO MONITOR PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY
            READWRITE REPLCONF RESET SCRIPT|DEBUG SELECT SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE
            """
        ),
        Session.CHANGES,
    ),
}

_KEYLESS = _names(
    """
    ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND CONFIG DBSIZE DEBUG DISCARD ECHO EXEC FAILOVER
    FLUSHALL FLUSHDB FUNCTION HELLO INFO KEYS LASTSAVE LATENCY LOLWUT MODULE MONITOR MULTI PFSELFTEST PING
    PSUBSCRIBE PSYNC PUBLISH PUBSUB PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE REPLCONF REPLICAOF RESET ROLE
    SAVE SCAN SCRIPT SELECT SHUTDOWN SLAVEOF SLOWLOG SUBSCRIBE SWAPDB SYNC TIME UNSUBSCRIBE UNWATCH WAIT WAITAOF
    MEMORY|DOCTOR MEMORY|HELP MEMORY|MALLOC-STATS MEMORY|PURGE MEMORY|STATS OBJECT|HELP XGROUP|HELP XINFO|HELP
    """
)
_CONTAINERS = _names(
    """
    ACL CLIENT CLUSTER COMMAND CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SLOWLOG XGROUP XINFO
    """
)

_FIRST_KEY_AT = {
    **dict.fromkeys(("BITOP", "PFDEBUG", "MEMORY", "OBJECT", "XGROUP", "XINFO"), 2),
    **dict.fromkeys(("LMPOP", "SINTERCARD", "ZDIFF", "ZINTER", "ZINTERCARD", "ZMPOP", "ZUNION"), 2),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), 3),
}
_COUNTED_KEYS = _names(
    """
    EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO
    """
)
_AFTER_STREAMS = frozenset({"XREAD", "XREADGROUP"})

_TIMEOUT_LAST = _names("BLMOVE BLPOP BRPOP BRPOPLPUSH BZPOPMAX BZPOPMIN")
_TIMEOUT_FIRST = frozenset({"BLMPOP", "BZMPOP"})
_TIMEOUT_LAST_MS = frozenset({"WAIT", "WAITAOF"})

_ALONE = _names("DEBUG FAILOVER MIGRATE SAVE SHUTDOWN")
"""Commands that keep the server, or only the caller, busy for as long as it takes."""

_MOST_KNOWN = 2000  # traits kept at most: names come from callers


def traits_of(args: Sequence[Argument]) -> Traits:
    """Return what is known of the command that *args* are, its name first."""
    known = _known.get(args[0])
    return known if known is not None else _look_up(args)


def words(args: Sequence[Argument]) -> tuple[str, ...]:
    """Return the command's name, and its subcommand where it has any, in capitals."""
    first = _text(args[0]).upper().split()
    if not first:
        return ("",)
    if len(first) > 1:
        return first[0], first[1]
    if first[0] in _CONTAINERS and len(args) > 1:
        return first[0], _text(args[1]).upper()
    return (first[0],)


def _look_up(args: Sequence[Argument]) -> Traits:
    name = "|".join(words(args))
    traits = _known.get(name)
    if traits is None:
        traits = _describe(name)
    # A container's name alone does not say what its subcommand does.
    if name not in _CONTAINERS and len(_known) < _MOST_KNOWN:
        _known[name] = traits
        if "|" not in name:
            _known[args[0]] = traits
    return traits


def _describe(name: str) -> Traits:
    command = name.partition("|")[0]
    repeatable: Callable[[Sequence[Argument]], bool] = _never
    if name in READ_ONLY or name in INQUIRIES or name in _IDEMPOTENT_WITH_ANY:
        repeatable = _always
    elif name in IDEMPOTENT:
        length = IDEMPOTENT[name]
        repeatable = lambda args: len(args) == length  # noqa: E731
    elif name == "SET":
        repeatable = _set_is_unconditional
    blocks: Callable[[Sequence[Argument]], float] = _not_at_all
    if name in _TIMEOUT_LAST:
        blocks = lambda args: _seconds(args, len(args) - 1, 1.0)  # noqa: E731
    elif name in _TIMEOUT_FIRST:
        blocks = lambda args: _seconds(args, 1, 1.0)  # noqa: E731
    elif name in _TIMEOUT_LAST_MS:
        blocks = lambda args: _seconds(args, len(args) - 1, 0.001)  # noqa: E731
    elif name in _AFTER_STREAMS:
        blocks = lambda args: _seconds(args, _option_of_streams(args, "BLOCK"), 0.001)  # noqa: E731
    first_key: Callable[[Sequence[Argument]], Argument | None]
    if name in _KEYLESS or command in _KEYLESS:
        first_key = _no_key
    elif name in _COUNTED_KEYS:
        first_key = _counted_key
    elif name in _AFTER_STREAMS:
        first_key = lambda args: _word(args, _option_of_streams(args, "STREAMS"))  # noqa: E731
    elif name == "MIGRATE":
        first_key = _migrated_key
    else:
        at = _FIRST_KEY_AT.get(command, 1)
        first_key = lambda args: _word(args, at)  # noqa: E731
    # "SELECT 3" in one word is sent as two.
    session = _SESSION.get(name) or _SESSION.get(command, Session.KEEPS)
    combines = blocks is _not_at_all and session is Session.KEEPS and command not in _ALONE
    return Traits(name, repeatable, session, blocks, first_key, combines)


def _always(args: Sequence[Argument]) -> bool:  # noqa: ARG001
    return True


def _never(args: Sequence[Argument]) -> bool:  # noqa: ARG001
    return False


def _set_is_unconditional(args: Sequence[Argument]) -> bool:
    return len(args) == 3 or all(
        _text(word).upper() in _SET_OPTIONS or _text(word).lstrip("-").isdigit()
        for word in args[3:]
    )


def _not_at_all(args: Sequence[Argument]) -> float:  # noqa: ARG001
    return 0.0


def _seconds(args: Sequence[Argument], position: int | None, unit: float) -> float:
    """Return the time-out at *position*, in seconds; 0 is for ever. What is no number is the server's to refuse."""
    value = _word(args, position)
    if value is None:
        return 0.0
    try:
        number = float(_text(value)) * unit
    except ValueError:
        return 0.0
    return number or math.inf


def _no_key(args: Sequence[Argument]) -> None:  # noqa: ARG001
    return None


def _counted_key(args: Sequence[Argument]) -> Argument | None:
    """Return the first key of a script: after the number of its keys, unless that is 0."""
    count = _word(args, 2)
    return _word(args, 3) if count is not None and _text(count) != "0" else None


def _migrated_key(args: Sequence[Argument]) -> Argument | None:
    """Return the key of MIGRATE: in its place, or after KEYS when there are several."""
    key = _word(args, 3)
    if key is None or _text(key):
        return key
    for position, argument in enumerate(args):
        if isinstance(argument, (str, bytes)) and _text(argument).upper() == "KEYS":
            return _word(args, position + 1)
    return None


def _option_of_streams(args: Sequence[Argument], option: str) -> int | None:
    """Return where the value of an *option* of XREAD or XREADGROUP is; after STREAMS there are only keys."""
    position = 4 if words(args)[0] == "XREADGROUP" else 1
    while position < len(args):
        name = _text(args[position]).upper()
        if name == option:
            return position + 1
        if name == "STREAMS":
            return None
        position += 1 if name == "NOACK" else 2
    return None


def _word(args: Sequence[Argument], position: int | None) -> Argument | None:
    """Return a word counted as the server counts them: a name like ``MEMORY USAGE`` is two."""
    if position is None:
        return None
    if isinstance(args[0], (str, bytes)):
        position -= len(args[0].split()) - 1
    return args[position] if 0 <= position < len(args) else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    return str(value)


_known: dict[Any, Traits] = {}

ASKING = Traits("ASKING", _always, Session.KEEPS, _not_at_all, _no_key)
"""ASKING as the pool itself uses it: together with the one command that it is about."""
