"""What servers send: whatever comes, in whatever pieces, is a response or one of the errors of http.client."""

from __future__ import annotations

import http.client
import io

from hypothesis import example, given
from hypothesis import strategies as st

from poolkit.http.wire import LONGEST_HEAD, Answer, Reader
from tests.generated import examples

WORDS = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 204\r\n",
    b"HTTP/1.1 ",
    b"304 ",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"X: y\r\n",
    b": ",
    b" ",
    b"\t",
    b",",
    b";",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"-5",
    b"5",
    b"fffffffffffffff\r\n",
    b"9" * 30,
    b"a" * 100,
    b"hello",
    b"\0",
    b"\x85",
    b"\xff",
)
STREAMS = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.binary(max_size=3)), max_size=14
).map(b"".join)
RESPONSES = st.builds(
    lambda first, rest: first + rest, st.sampled_from((b"HTTP/1.1 200 OK\r\n", b"")), STREAMS
)
METHODS = st.sampled_from(("GET", "HEAD", "POST"))
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


class Pieces:
    """A socket from which *data* comes in pieces of the sizes *cuts*, again and again; then the end."""

    def __init__(self, data, cuts):
        self._data = io.BytesIO(data)
        self._cuts = cuts
        self._calls = 0
        self._most = 10 * len(data) + 1000

    def recv(self, size, /):
        self._calls += 1
        assert self._calls < self._most, "it reads on after the end"
        return self._data.read(min(size, self._cuts[self._calls % len(self._cuts)]))


def read_whole(data, cuts, method="GET"):
    """Return what is made of *data*: a response and its body, or the name of the error."""
    reader = Reader(Pieces(data, cuts))
    try:
        answer = Answer(reader, method)
        body = answer.read()
    except http.client.HTTPException as error:
        return type(error).__name__
    return answer.status, answer.reason, list(answer.headers.iteritems()), answer.will_close, body


@examples(400)
@given(RESPONSES, CUTS, METHODS)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", [7], "GET")
@example(b"HTTP/1.1 200 OK\r\nX: " + b"a" * LONGEST_HEAD + b"\r\n\r\n", [65536], "GET")
@example(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 70_000, [65536], "GET"
)
@example(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 1000, [9], "GET"
)
def test_whatever_comes_is_the_same_in_whatever_pieces_it_comes(data, cuts, method):
    assert read_whole(data, cuts, method) == read_whole(data, [1 << 20], method)


@examples(200)
@given(RESPONSES, CUTS, st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_a_body_is_the_same_read_in_whatever_amounts(data, cuts, amounts):
    whole = read_whole(data, cuts)
    reader = Reader(Pieces(data, cuts))
    pieces = []
    try:
        answer = Answer(reader, "GET")
        for turn in range(10 * len(data) + 100):
            amount = amounts[turn % len(amounts)]
            piece = answer.read(amount)
            assert len(piece) <= amount
            if not piece:
                break
            pieces.append(piece)
    except http.client.HTTPException:
        assert isinstance(whole, str)
        return
    if not isinstance(whole, str):
        assert b"".join(pieces) == whole[-1]


# -- there and back ------------------------------------------------------------------------------------

NAMES = st.text(st.sampled_from("aZ0-_!#"), min_size=1, max_size=8).map(lambda name: f"X-{name}")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=12).map(
    lambda text: "".join(char for char in text if not 0x7F <= ord(char) < 0xA0).strip(" \t")
)


@examples(200)
@given(
    st.integers(200, 599).filter(lambda status: status not in (204, 304)),
    st.lists(st.tuples(NAMES, VALUES), max_size=5),
    st.lists(st.binary(max_size=40), max_size=4),
    st.sampled_from(("length", "chunks", "end")),
    CUTS,
)
def test_a_response_is_read_as_it_was_sent(status, fields, body, framing, cuts):
    head = [f"HTTP/1.1 {status} Fine"] + [f"{name}: {value}" for name, value in fields]
    sent = whole = b"".join(body)
    if framing == "length":
        head.append(f"Content-Length: {len(whole)}")
    elif framing == "chunks":
        head.append("Transfer-Encoding: chunked")
        sent = b"".join(b"%x;x=y\r\n%s\r\n" % (len(each), each) for each in body if each)
        sent += b"0\r\nX-Last: z\r\n\r\n"
    next_one = b"HTTP/1.1 202 Next\r\nContent-Length: 0\r\n\r\n" if framing != "end" else b""
    reader = Reader(Pieces("\r\n".join([*head, "", ""]).encode("latin-1") + sent + next_one, cuts))

    answer = Answer(reader, "GET")

    assert (answer.status, answer.reason, answer.will_close) == (status, "Fine", framing == "end")
    assert list(answer.headers.iteritems())[: len(fields)] == sorted_by_name(fields)
    assert answer.read() == whole
    if next_one:
        assert Answer(reader, "GET").status == 202


def sorted_by_name(fields):
    """Return *fields*, those of a name together, where the first one of it is."""
    names = list(dict.fromkeys(name.lower() for name, _ in fields))
    return sorted(fields, key=lambda field: names.index(field[0].lower()))
