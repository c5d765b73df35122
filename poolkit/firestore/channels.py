"""All that touches the inside of google-cloud-firestore and of grpc.

Neither has public means for what a pool needs: channel options, the state of a connection without a thread that
polls it, a client over channels that are given, the writes that a batch has gathered. What is used here is tested by
``tests/firestore/test_channels.py``, and the versions it was tested with bound those in ``setup.cfg``.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import math
import os
import time
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import google.api_core
import google.cloud.firestore_v1
import grpc
from google.api_core import gapic_v1, grpc_helpers
from google.api_core.datetime_helpers import DatetimeWithNanoseconds
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore_v1 import _helpers, transforms
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports.grpc import FirestoreGrpcTransport
from google.cloud.firestore_v1.types import Write, WriteResult
from google.protobuf.timestamp_pb2 import Timestamp

from ..core.deadline import Deadline
from ..core.lease import stands_between
from .config import FirestoreConfig
from .credentials import SCOPES, Identity

Metadata = tuple[tuple[str, str], ...]

LOOK = 0.2
"""Seconds that grpc waits at a stretch for a channel to change; it is not interrupted before."""

_ASKS_WHY = "/poolkit/why"

_TRANSFORMS = (
    transforms.Sentinel,
    transforms._ValueList,
    transforms._NumericValue,
)

for _driver in (google.api_core, google.cloud.firestore_v1, grpc):
    stands_between(
        os.path.dirname(str(_driver.__file__))
    )  # so that a lease names who called ``client``

_Write: Any = Write.pb()

_number = itertools.count()


class State(enum.Enum):
    """What a channel is at; the numbers are grpc's."""

    IDLE = 0
    CONNECTING = 1
    READY = 2
    FAILING = 3
    CLOSED = 4


# -- channels ---------------------------------------------------------------------------------------------


def open_channel(config: FirestoreConfig, identity: Identity) -> grpc.Channel:
    """Return a channel with a connection of its own; it begins to connect at :func:`connect`."""
    options = [
        ("grpc.keepalive_time_ms", _milliseconds(config.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _milliseconds(config.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # Channels with equal options would share one connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("poolkit.number", next(_number)),
        # Answers are read by the thread that wants them, not by one more for each channel.
        (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
    ]
    if config.emulator_host:
        return grpc.insecure_channel(config.emulator_host, options=options)
    channel: grpc.Channel = grpc_helpers.create_channel(
        f"{FirestoreClient.DEFAULT_ENDPOINT}:443",
        credentials=identity.credentials,
        scopes=SCOPES,
        options=options,
    )
    return channel


def connect(channel: grpc.Channel) -> None:
    """Have *channel* begin to connect, unless it does or has, or is closed."""
    with suppress(ValueError):
        _inner(channel).check_connectivity_state(True)


def state(channel: grpc.Channel) -> State:
    """Return what *channel* is at."""
    try:
        return State(_inner(channel).check_connectivity_state(False))
    except ValueError:  # so grpc says that it is closed
        return State.CLOSED


def wait_ready(channel: grpc.Channel, until: Deadline) -> State:
    """Wait until *channel* has a connection or can't get one, *until* then at the latest; return its state."""
    while True:
        now = state(channel)
        left = until.remaining()
        if now in (State.READY, State.FAILING, State.CLOSED) or left <= 0:
            return now
        with suppress(ValueError):  # closed a moment ago: the next look will tell
            connect(channel)
            _inner(channel).watch_connectivity_state(
                now.value, time.time() + min(LOOK, until.pulse, left)
            )


def why(channel: grpc.Channel) -> str:
    """Return why *channel* can't connect, empty if it can: a call on one that is failing ends at once, unsent."""
    ask: Any = channel.unary_unary(_ASKS_WHY)
    try:
        ask(b"", timeout=LOOK)
    except ValueError:
        return "the channel is closed"
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return error.details() or ""
    return ""


def end_call(call: Any) -> None:
    """End a call of many answers that nobody reads on; without effect on one that has ended.

    No thread takes what is still to come of such a call, its end above all, and as long as that lies there grpc keeps
    the call's connection open, even when the channel is closed. Not for a call whose reading was interrupted: what was
    taken of it then and not noted would be waited for in vain.
    """
    call.cancel()
    while call._state.due:
        call._consume_next_event()  # of a call that is cancelled, it is there at once


def disown(channel: grpc.Channel) -> None:
    """In a forked child: never let *channel*, which is the parent's, be closed, not even at the very end."""
    for shared in (channel, _inner(channel)):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(shared))


def _inner(channel: grpc.Channel) -> Any:
    return channel._channel  # type: ignore[attr-defined]


def _milliseconds(seconds: float) -> int:
    return max(1, min(2**31 - 1, math.ceil(seconds * 1000)))


# -- the client -------------------------------------------------------------------------------------------


def make_client(
    config: FirestoreConfig, identity: Identity, channel: grpc.Channel
) -> firestore.Client:
    """Return the library's client, whose every call goes over *channel*, without retries of its own."""
    client = firestore.Client(
        project=identity.project,
        credentials=identity.credentials or AnonymousCredentials(),
        database=config.database,
    )
    client._emulator_host = config.emulator_host or None
    transport = _Transport(channel=channel)
    client._transport = transport
    client._firestore_api_internal = FirestoreClient(transport=transport)
    return client


class _Transport(FirestoreGrpcTransport):
    """The library's transport, without its retries, and without time-outs but those that a caller names."""

    def _prep_wrapped_messages(self, client_info: Any) -> None:
        super()._prep_wrapped_messages(client_info)
        for method in list(self._wrapped_methods):
            self._wrapped_methods[method] = gapic_v1.method.wrap_method(
                method, default_retry=None, default_timeout=None, client_info=client_info
            )


def metadata_for(config: FirestoreConfig, database: str) -> Metadata:
    """Return what goes with our own calls: which database they are for, and on an emulator who we are.

    The second is the header by which Google's front ends find their way.
    """
    metadata: list[tuple[str, str]] = [
        ("google-cloud-resource-prefix", database),
        gapic_v1.routing_header.to_grpc_metadata((("database", database),)),
    ]
    if config.emulator_host:
        metadata.append(("authorization", "Bearer owner"))
    return tuple(metadata)


def database_of(client: firestore.Client) -> str:
    """Return the resource name of the database: ``projects/…/databases/…``."""
    name: str = client._database_string
    return name


# -- documents and writes -----------------------------------------------------------------------------------


def name_of(reference: firestore.DocumentReference) -> str:
    """Return the resource name of a document: ``projects/…/documents/…``."""
    name: str = reference._document_path
    return name


def snapshot_of(
    reference: firestore.DocumentReference, document: Any, read_time: Any = None
) -> firestore.DocumentSnapshot:
    """Return the snapshot of a document's protobuf; None stands for one that there is not."""
    if document is None:
        return firestore.DocumentSnapshot(reference, None, False, _time(read_time), None, None)
    data = _helpers.decode_dict(document.fields, reference._client)
    snapshot = firestore.DocumentSnapshot(
        reference,
        None,  # it would be copied, which takes as long as to decode it
        True,
        _time(read_time),
        _time(document.create_time),
        _time(document.update_time),
    )
    snapshot._data = data
    return snapshot


def writes_of(batch: Any) -> list[Any]:
    """Return the protobufs of the writes that a batch, or a transaction, has gathered."""
    return [write._pb for write in batch._write_pbs]


def result_of(protobuf: Any) -> WriteResult:
    """Return the library's object for what a write came to."""
    result: WriteResult = WriteResult.wrap(protobuf)
    return result


def begin(transaction: Any, identifier: bytes) -> None:
    """Have *transaction* be under way, under the identifier that the server gave."""
    transaction._id = identifier


def end(transaction: firestore.Transaction) -> None:
    """Have *transaction* be over: what is asked of it from now on is refused."""
    transaction._clean_up()


def belongs_to(query: Any, client: firestore.Client) -> bool:
    """Whether *query*, or a collection, was made by *client*."""
    return query._parent._client is client if hasattr(query, "_parent") else query._client is client


def _time(stamp: Any) -> DatetimeWithNanoseconds | None:
    return None if stamp is None else _instant(stamp.seconds, stamp.nanos)


@lru_cache(maxsize=64)  # those of one answer are mostly the same
def _instant(seconds: int, nanos: int) -> DatetimeWithNanoseconds:
    stamp = Timestamp(seconds=seconds, nanos=nanos)
    instant: DatetimeWithNanoseconds = DatetimeWithNanoseconds.from_timestamp_pb(stamp)
    return instant


# -- values -------------------------------------------------------------------------------------------------


def is_transform(value: object) -> bool:
    """Whether *value* stands for what the server is to do with a field, such as to add to it."""
    return isinstance(value, _TRANSFORMS)


def transformed(value: Any) -> list[Any]:
    """Return the values that a transform is about."""
    values = getattr(value, "values", None)
    if values is not None:
        return list(values)
    number = getattr(value, "value", None)
    return [] if number is None else [number]


def can_encode(value: object) -> bool:
    """Whether the library knows how to store *value*."""
    try:
        _helpers.encode_value(value)
    except (TypeError, ValueError):
        return False
    return True


def timestamp(value: Any) -> Any:
    """Return the protobuf of a snapshot's ``update_time``; raise TypeError if it is none."""
    if isinstance(value, DatetimeWithNanoseconds):
        return value.timestamp_pb()
    if isinstance(value, Timestamp):
        return value
    if isinstance(value, datetime) and value.tzinfo is not None:
        stamp = Timestamp()
        stamp.FromDatetime(value)
        return stamp
    raise TypeError("last_update_time must be a snapshot's update_time")


def time_of(stamp: Any) -> DatetimeWithNanoseconds | None:
    """Return a timestamp's protobuf as the library gives it; None for one that is not set."""
    return _time(stamp) if stamp.seconds or stamp.nanos else None


def plain_write(name: str, data: dict[str, Any], *, create: bool) -> Any:
    """Return the write of a whole document as a protobuf; None if that takes more than plain values.

    It is what the library makes of it, without its objects between, which take four times as long.
    """
    write = _Write()
    write.update.name = name
    if not all(_put(write.update.fields[key], value) for key, value in data.items()):
        return None
    if create:
        write.current_document.exists = False
    return write


def _put(field: Any, value: Any) -> bool:
    """Put a plain value into its protobuf; return whether it is one."""
    kind = type(value)
    if kind is str:
        field.string_value = value
    elif kind is int:
        field.integer_value = value
    elif kind is bool:
        field.boolean_value = value
    elif kind is float:
        field.double_value = value
    elif value is None:
        field.null_value = 0
    elif kind is bytes:
        field.bytes_value = value
    elif kind is dict:
        field.map_value.SetInParent()
        fields = field.map_value.fields
        return all(_put(fields[key], inner) for key, inner in value.items())
    elif kind is list or kind is tuple:
        field.array_value.SetInParent()
        values = field.array_value.values
        return all(_put(values.add(), inner) for inner in value)
    else:
        return False
    return True
