"""The middleware, around any WSGI app: its deadline, its answers, and what it leaves behind."""

from __future__ import annotations

import io
import json
import logging
import threading
from time import monotonic
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import psycopg
import pytest

from poolkit import (
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PoolClosed,
    PoolKit,
    PoolOverloaded,
    PoolTimeout,
    ResponseTooLarge,
    deadline,
)
from poolkit.core.deadline import NEVER, ambient
from poolkit.hosts.wsgi import PoolsMiddleware

from ..core.support import Task, eventually
from .pep3333 import Gone, Served

OK = ("200 OK", [("Content-Type", "text/plain")])


@pytest.fixture
def kit():
    """Give a kit without pools."""
    with PoolKit(http=False, watch=None) as kit:
        yield kit


@pytest.fixture
def one(conninfo):
    """Give a kit with a single connection to PostgreSQL."""
    pool = {"conninfo": conninfo, "min_size": 0, "max_size": 1}
    with PoolKit(postgres=pool, http=False, watch=None) as kit:
        yield kit


def serve(app, kit, path="/", *, client=None, settings=None, **environ):
    """Serve one request; both sides of the middleware are held to PEP 3333."""
    served = PoolsMiddleware(validator(app), kit, **(settings or {}))
    return Served(validator(served), path, client=client, **environ)


def raising(error):
    """Return an app that raises *error*."""

    def app(environ, start_response):
        raise error

    return app


# -- the deadline ------------------------------------------------------------------------------------


def test_a_statement_that_outlives_the_request_is_cancelled_on_the_server(one, conninfo):
    def app(environ, start_response):
        one.postgres.query("select pg_sleep(30), 'from the middleware'")

    began = monotonic()
    served = serve(app, one, settings={"deadline": 0.2})

    assert (served.code, served.error) == (504, None)
    assert monotonic() - began < 5
    assert "retry-after" not in served.fields
    with psycopg.connect(conninfo) as eyes:
        running = "select 1 from pg_stat_activity where state = 'active' and query like %s"
        eventually(lambda: not eyes.execute(running, ["%30), 'from the middle%"]).fetchall())


def test_the_deadline_covers_the_body(one):
    def app(environ, start_response):
        start_response(*OK)
        if environ["PATH_INFO"] == "/late":
            yield b"begun"
        one.postgres.query("select pg_sleep(30)")
        yield b"never"

    served = serve(app, one, settings={"deadline": 0.2})
    assert (served.code, served.error) == (504, None)  # nothing was sent: there is still an answer

    served = serve(app, one, "/late", settings={"deadline": 0.2})
    assert (served.code, served.body) == (200, b"begun")
    assert isinstance(served.error, DeadlineExceeded)


def test_the_deadline_counts_from_the_arrival(kit):
    left = []

    def app(environ, start_response):
        start_response(*OK)
        left.append(ambient())
        yield b"1"
        left.append(ambient())
        yield b"2"

    assert serve(app, kit, settings={"deadline": 60}).body == b"12"
    assert left[0].at == left[1].at
    assert left[0].budget == 60
    assert left[0].remaining() < 60


def test_the_servers_own_context_never_sees_the_deadline(kit):
    seen = []

    class Body:
        def __iter__(self):
            seen.append(ambient().budget)
            return self

        def __next__(self):
            seen.append(ambient().budget)
            if len(seen) > 3:
                raise StopIteration
            return b"x"

        def close(self):
            seen.append(ambient().budget)

    def app(environ, start_response):
        start_response(*OK)
        return Body()

    body = PoolsMiddleware(app, kit, deadline=60)({}, lambda *_: None)
    assert ambient() is NEVER
    for _ in body:
        assert ambient() is NEVER
    body.close()
    assert ambient() is NEVER
    assert seen == [60] * 5


def test_the_server_may_iterate_in_another_thread(kit):
    def app(environ, start_response):
        start_response(*OK)
        yield b"1"
        yield b"%d" % ambient().budget

    body = PoolsMiddleware(app, kit, deadline=60)({}, lambda *_: None)
    with deadline(500):  # this thread's, which the other has nothing to do with
        assert Task(lambda: [*body, ambient()]).result() == [b"1", b"60", NEVER]


def test_an_earlier_deadline_around_the_server_holds(kit):
    def app(environ, start_response):
        start_response(*OK)
        return [b"%d" % ambient().budget]

    with deadline(5):
        assert serve(app, kit, settings={"deadline": 60}).body == b"5"


def test_a_block_within_the_body_keeps_its_own_deadline(kit):
    def app(environ, start_response):
        start_response(*OK)
        with deadline(5):
            yield b"%d " % ambient().budget
            yield b"%d " % ambient().budget
        yield b"%d" % ambient().budget

    assert serve(app, kit, settings={"deadline": 60}).body == b"5 5 60"


def test_a_block_that_is_left_between_two_pieces_does_not_come_back(kit):
    inner = []

    def block():
        with deadline(5):
            yield b"%d " % ambient().budget

    def app(environ, start_response):
        start_response(*OK)
        inner.append(block())
        yield next(inner[0])
        yield b"%d" % ambient().budget

    body = PoolsMiddleware(app, kit, deadline=60)({}, lambda *_: None)
    assert next(body) == b"5 "
    inner[0].close()  # by the collector, or another thread
    assert next(body) == b"60"
    body.close()


def test_without_a_deadline_there_is_none(kit):
    def app(environ, start_response):
        start_response(*OK)
        return [str(ambient().never).encode()]

    assert serve(app, kit, settings={"deadline": None}).body == b"True"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2),
        ("0.25", 0.25),
        (" 3 ", 3),
        ("60", 60),
        ("61", 60),
        ("9" * 400, 60),
        ("0", 60),
        ("-1", 60),
        ("", 60),
        ("soon", 60),
        ("nan", 60),
        ("inf", 60),
        ("1e-3", 60),
        ("1_0", 60),
        ("٣", 60),
        ("2, 3", 60),
        ("2\r\nX: y", 60),
    ],
)
def test_a_trusted_upstream_can_only_shorten_the_deadline(kit, value, seconds):
    budgets = []

    def app(environ, start_response):
        budgets.append(ambient().budget)
        start_response(*OK)
        return [b""]

    settings = {"deadline": 60, "deadline_header": "X-Request-Timeout"}
    assert serve(app, kit, settings=settings, HTTP_X_REQUEST_TIMEOUT=value).code == 200
    assert budgets == [seconds]


def test_a_header_that_ends_in_ms_counts_milliseconds(kit):
    budgets = []

    def app(environ, start_response):
        budgets.append(ambient().budget)
        start_response(*OK)
        return [b""]

    name = "x-envoy-expected-rq-timeout-ms"
    settings = {"deadline": None, "deadline_header": name}
    serve(app, kit, settings=settings, HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS="1500")
    serve(app, kit, settings=settings)
    serve(app, kit, HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS="1500")  # off unless named
    assert budgets == [1.5, NEVER.budget, 15.0]


def test_a_header_that_is_no_time_is_told_in_one_debug_line(kit, caplog):
    def app(environ, start_response):
        start_response(*OK)
        return [b""]

    caplog.set_level(logging.DEBUG, "poolkit.hosts")
    serve(app, kit, settings={"deadline_header": "X-Left"}, HTTP_X_LEFT="x\n" * 500)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "X-Left" in record.message
    assert len(record.message.splitlines()) == 1
    assert len(record.message) < 150


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "retry_after"),
    [
        (PoolTimeout("…"), 503, "1"),
        (PoolOverloaded("…"), 503, "1"),
        (PoolClosed("…"), 503, "1"),
        (BackendUnavailable("…", retry_after=None), 503, "1"),
        (BackendUnavailable("…", retry_after=0.0), 503, "1"),
        (BackendUnavailable("…", retry_after=0.3), 503, "1"),
        (BackendUnavailable("…", retry_after=2.1), 503, "3"),
        (DeadlineExceeded("…", stage="running"), 504, None),
        (DeadlineOutcomeUnknown("…", stage="running"), 504, None),
    ],
)
def test_an_error_of_poolkit_is_an_answer(kit, error, code, retry_after):
    served = serve(raising(error), kit)
    assert (served.code, served.fields.get("retry-after")) == (code, retry_after)
    assert int(served.fields["content-length"]) == len(served.body)
    assert type(error).__name__ in served.text
    assert ("may have taken effect" in served.text) == isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize(
    "error",
    [OutcomeUnknown("…"), ConfigError("…"), ResponseTooLarge("…"), TimeoutError(), KeyError("x")],
)
def test_other_errors_are_left_to_the_app_and_the_server(kit, error):
    served = serve(raising(error), kit)
    assert (served.code, served.error) == (500, error)


def test_strangers_learn_nothing_and_the_log_has_it_all_once(conninfo, caplog):
    pool = {"conninfo": conninfo, "min_size": 0, "max_size": 1, "acquire_timeout": 1.0}
    kit = PoolKit(postgres=pool, http=False, watch=None)

    def app(environ, start_response):
        with kit.postgres.connection(), kit.postgres.connection():
            pass

    asked = {"QUERY_STRING": "token=geheim", "HTTP_ACCEPT": "application/json"}
    with kit:
        served = serve(app, kit, "/orders/7", **asked)

    told = json.loads(served.body)
    assert served.fields["content-type"] == "application/json"
    assert told.pop("reference")
    assert told == {
        "error": "PoolTimeout",
        "message": "no connection became free in time",
        "retry_after": 1,
    }
    (record,) = [record for record in caplog.records if record.name == "poolkit.hosts"]
    assert record.levelno == logging.WARNING
    assert "held by thread" in record.message
    assert "the request GET /orders/7 was answered with 503 Service Unavailable" in record.message
    assert record.reference in served.text
    assert "geheim" not in caplog.text


def test_without_json_in_accept_the_answer_is_text(kit):
    served = serve(raising(PoolTimeout("…")), kit, HTTP_ACCEPT="text/html,*/*;q=0.8")
    assert served.fields["content-type"] == "text/plain; charset=utf-8"
    assert served.text.startswith(
        "503 Service Unavailable: no connection became free in time. Try again in 1 s."
    )


def test_a_backend_that_is_down_is_answered_with_when_to_come_again():
    kit = PoolKit(postgres="postgresql://app:geheim@127.0.0.1:1/shop", http=False, watch=None)
    with kit:
        served = serve(lambda *_: kit.postgres.query("select 1"), kit)
    assert served.code == 503
    assert int(served.fields["retry-after"]) >= 1
    assert "geheim" not in served.text
    assert "127.0.0.1" not in served.text


def test_an_answer_to_head_has_no_body(kit):
    served = serve(raising(PoolTimeout("…")), kit, REQUEST_METHOD="HEAD")
    assert (served.code, served.body) == (503, b"")
    assert int(served.fields["content-length"]) > 0


def test_a_response_that_was_begun_but_not_sent_is_replaced(kit):
    def app(environ, start_response):
        start_response(*OK)
        raise PoolTimeout("…")

    served = serve(app, kit)
    assert (served.code, served.error) == (503, None)
    assert served.fields["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("how", ["written", "yielded"])
def test_an_error_after_the_response_was_sent_is_raised(kit, how, caplog):
    error = PoolTimeout("…")

    def written(environ, start_response):
        start_response(*OK)(b"begun")
        raise error

    def yielded(environ, start_response):
        start_response(*OK)
        yield b"begun"
        raise error

    served = serve({"written": written, "yielded": yielded}[how], kit)
    assert (served.code, served.body, served.error) == (200, b"begun", error)
    assert "was answered" not in caplog.text


class Told:
    """A server that keeps all it is told: a second response does not replace the first one, as under gunicorn."""

    def __init__(self):
        self.responses = []
        self.pieces = []

    def __call__(self, status, headers, exc_info=None):
        self.responses.append((status, dict(headers)))
        return self.pieces.append

    def run(self, app):
        body = app({}, self)
        self.pieces += body
        getattr(body, "close", lambda: None)()


def test_the_server_hears_nothing_of_a_response_that_an_answer_replaces(kit):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "5000"), ("Set-Cookie", "exported=yes")])
        raise PoolTimeout("…")
        yield b"never"

    told = Told()
    told.run(PoolsMiddleware(app, kit))
    ((status, headers),) = told.responses
    assert status == "503 Service Unavailable"
    assert "Set-Cookie" not in headers
    assert int(headers["Content-Length"]) == len(told.pieces[0])


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b"x"], [b"x", b"y"]], ids=repr)
@pytest.mark.parametrize("how", ["listed", "yielded", "written"])
def test_the_server_is_told_once_and_no_later_than_with_the_first_piece(kit, how, pieces):
    told = Told()

    def listed(environ, start_response):
        start_response(*OK)
        return pieces

    def yielded(environ, start_response):
        start_response(*OK)
        for number, piece in enumerate(pieces):
            assert bool(told.responses) == (number > 0)
            yield piece

    def written(environ, start_response):
        write = start_response(*OK)
        for piece in pieces:
            write(piece)
            assert told.responses
        return []

    app = {"listed": listed, "yielded": yielded, "written": written}[how]
    told.run(PoolsMiddleware(app, kit))
    assert told.responses == [(OK[0], dict(OK[1]))]
    assert told.pieces == pieces


def test_a_body_is_closed_if_the_server_refuses_its_headers(kit):
    file = io.BytesIO(b"x")

    def app(environ, start_response):
        start_response(*OK)
        return environ["wsgi.file_wrapper"](file)

    def refuse(status, headers):
        raise ValueError("no such header")

    with pytest.raises(ValueError, match="no such header"):
        PoolsMiddleware(app, kit)({"wsgi.file_wrapper": FileWrapper}, refuse)
    assert file.closed


def test_a_response_that_is_begun_twice_is_an_error(kit):
    def app(environ, start_response):
        start_response(*OK)
        start_response(*OK)
        return []

    with pytest.raises(AssertionError, match="start_response"):
        PoolsMiddleware(app, kit)({}, Told())


def test_an_answer_ends_the_body(kit):
    errors = [KeyError("asked again"), PoolTimeout("…")]

    class Body:
        def __iter__(self):
            return self

        def __next__(self):
            raise errors.pop()

    def app(environ, start_response):
        start_response(*OK)
        return Body()

    served = serve(app, kit)
    assert (served.code, served.error) == (503, None)
    assert len(errors) == 1


def test_what_the_app_begins_anew_with_exc_info_gets_through(kit):
    def app(environ, start_response):
        start_response(*OK)
        try:
            raise KeyError("x")
        except KeyError:
            import sys

            start_response("418 I'm a teapot", OK[1], sys.exc_info())
        return [b"short and stout"]

    assert serve(app, kit).code == 418


@pytest.mark.parametrize(
    "asked",
    [{"PATH_INFO": "/x\nWARNING all is lost"}, {"REQUEST_METHOD": "GET\x1b[2J"}],
    ids=["path", "method"],
)
def test_a_request_writes_nothing_of_its_own_into_the_log(kit, caplog, asked):
    # Not by way of the standard library, which refuses some of it.
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **asked}
    PoolsMiddleware(raising(PoolTimeout("…")), kit)(environ, lambda *_: None)
    assert caplog.messages[0].isprintable()


# -- the end of a request ----------------------------------------------------------------------------


def hold(pool, kept):
    """Take a connection that nobody gives back."""
    block = pool.connection()
    block.__enter__()
    kept.append(block)


@pytest.mark.parametrize("kind", ["list", "generator", "error"])
def test_what_a_request_holds_at_its_end_is_taken_back_and_named(one, kind, caplog):
    kept = []

    def app(environ, start_response):
        hold(one.postgres, kept)
        if kind == "error":
            raise KeyError("x")
        start_response(*OK)
        return [b"x"] if kind == "list" else iter([b"x"])

    # Not held to PEP 3333 on the inside, which would make an iterator of the list.
    Served(PoolsMiddleware(app, one), "/orders/7", QUERY_STRING="token=geheim")

    assert one.postgres.leases() == []
    assert one.postgres.stats().leaked == 1
    assert "test_wsgi.py" in caplog.text
    assert "the request GET /orders/7 ended" in caplog.text
    assert "geheim" not in caplog.text
    assert one.postgres.query("select 1") == [(1,)]  # the only connection may be had again


def test_what_was_held_before_the_request_stays(one):
    def app(environ, start_response):
        start_response(*OK)
        return [b""]

    with one.postgres.connection() as conn:
        assert serve(app, one).code == 200
        assert conn.execute("select 1").fetchone() == (1,)
    assert one.postgres.stats().leaked == 0


def test_a_request_within_a_request_takes_nothing_from_it(one):
    def inner(environ, start_response):
        start_response(*OK)
        return iter([b"%d" % ambient().budget])

    def outer(environ, start_response):
        with one.postgres.connection() as conn:
            served = serve(inner, one, settings={"deadline": 500})
            (answer,) = conn.execute("select 'still'").fetchone()
        start_response(*OK)
        return [served.body, b" ", answer.encode(), b" %d" % ambient().budget]

    assert serve(outer, one, settings={"deadline": 60}).body == b"60 still 60"
    assert one.postgres.stats().leaked == 0


def test_a_response_that_is_closed_late_takes_nothing_that_was_taken_around_it(conninfo):
    pool = {"conninfo": conninfo, "min_size": 0, "max_size": 3}
    kept = []
    with PoolKit(postgres=pool, http=False, watch=None) as kit:

        def app(environ, start_response):
            hold(kit.postgres, kept)
            start_response(*OK)
            yield b"1"
            hold(kit.postgres, kept)
            yield b"2"

        body = PoolsMiddleware(app, kit)({}, lambda *_: None)
        assert next(body) == b"1"
        with kit.postgres.transaction() as conn:
            assert next(body) == b"2"
            assert len(kit.postgres.leases()) == 3
            body.close()
            assert len(kit.postgres.leases()) == 1
            assert conn.execute("select 1").fetchone() == (1,)
        assert kit.postgres.stats().leaked == 2


def test_what_a_long_body_took_is_remembered_and_nothing_else(one):
    kept = []

    def app(environ, start_response):
        start_response(*OK)
        yield b"first"
        hold(one.postgres, kept)
        while True:
            yield b"more"

    body = PoolsMiddleware(app, one)({}, lambda *_: None)
    for _ in range(1000):
        next(body)
    assert len(body._scope._steps) < 100
    assert len(one.postgres.leases()) == 1
    body.close()
    assert one.postgres.leases() == []


def test_a_connection_may_be_held_until_the_body_is_closed(one):
    def app(environ, start_response):
        block = one.postgres.connection()
        conn = block.__enter__()
        start_response(*OK)

        def rows():
            try:
                for (number,) in conn.execute("select generate_series(1, 3)"):
                    yield b"%d" % number
            finally:
                block.__exit__(None, None, None)

        return rows()

    assert serve(app, one).body == b"123"
    assert one.postgres.stats().leaked == 0
    assert one.postgres.leases() == []


def test_a_client_that_disconnects_gives_the_connection_back(one):
    def app(environ, start_response):
        start_response(*OK)
        for (text,) in one.postgres.stream(
            "select repeat('x', 1000) from generate_series(1, 10000)"
        ):
            yield text.encode()

    served = serve(app, one, client=Gone(pieces=9))
    assert 0 < served.body.count(b"x") < 10_000
    assert one.postgres.leases() == []
    assert one.postgres.stats().leaked == 0
    assert one.postgres.query("select 1") == [(1,)]


def test_a_thread_that_only_closes_the_response_loses_nothing_of_its_own(one):
    def app(environ, start_response):
        start_response(*OK)
        yield b"x"

    body = PoolsMiddleware(app, one)({}, lambda *_: None)

    def close():
        with one.postgres.connection() as conn:
            body.close()
            return conn.execute("select 1").fetchone()

    assert Task(close).result() == (1,)
    assert one.postgres.stats().leaked == 0


def test_the_body_is_closed_once_and_its_error_ends_the_request_all_the_same(one, caplog):
    kept, closed = [], []

    class Body:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closed.append(ambient().budget)
            raise KeyError("in close")

    def app(environ, start_response):
        hold(one.postgres, kept)
        start_response(*OK)
        return Body()

    body = PoolsMiddleware(app, one)({}, lambda *_: None)
    assert list(body) == [b"x"]
    with pytest.raises(KeyError):
        body.close()
    body.close()
    assert closed == [15.0]
    assert one.postgres.leases() == []


def test_taking_back_never_raises(kit, monkeypatch, caplog):
    class Broken:
        name = "broken"

        def holds(self, **_):
            raise RuntimeError("no")

    monkeypatch.setattr(kit, "_pools", {"postgres": Broken()})

    def app(environ, start_response):
        start_response(*OK)
        return [b"x"]

    assert serve(app, kit).body == b"x"
    assert "pool 'broken'" in caplog.text


def test_many_threads_each_end_their_own_requests(conninfo):
    pool = {"conninfo": conninfo, "min_size": 0, "max_size": 4}
    gate = threading.Barrier(4)
    with PoolKit(postgres=pool, http=False, watch=None) as kit:
        kept = []

        def app(environ, start_response):
            hold(kit.postgres, kept)
            gate.wait(30)  # all hold now
            start_response(*OK)
            if environ["PATH_INFO"] == "/first":
                return [b"x"]
            gate.wait(30)  # the first has ended, and the others must still hold theirs
            return [b"%d" % len(kit.postgres.leases())]

        first = Task(Served, PoolsMiddleware(app, kit), "/first")
        others = [Task(Served, PoolsMiddleware(app, kit), "/other") for _ in range(3)]
        first.result()
        assert len(kit.postgres.leases()) == 3
        gate.wait(30)
        assert int(others[0].result().body) <= 3
        for other in others:
            other.result()
        assert kit.postgres.leases() == []
        assert kit.postgres.stats().leaked == 4


# -- what servers do by themselves -------------------------------------------------------------------


def test_a_file_is_handed_to_the_server_as_it_is(kit):
    def app(environ, start_response):
        start_response(*OK)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"from a file"))

    environ = {"wsgi.file_wrapper": FileWrapper}
    assert isinstance(PoolsMiddleware(app, kit)(environ, lambda *_: None), FileWrapper)
    assert Served(PoolsMiddleware(app, kit)).body == b"from a file"


def test_a_file_that_may_come_from_a_pool_is_not(one):
    kept = []

    def app(environ, start_response):
        hold(one.postgres, kept)
        start_response(*OK)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x"))

    body = PoolsMiddleware(app, one)({"wsgi.file_wrapper": FileWrapper}, lambda *_: None)
    assert len(one.postgres.leases()) == 1
    assert list(body) == [b"x"]
    body.close()
    assert one.postgres.leases() == []


def test_to_hand_a_file_over_nobody_is_looked_for(one, monkeypatch):
    located = []

    def app(environ, start_response):
        start_response(*OK)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x"))

    with one.postgres.connection():
        monkeypatch.setattr(
            "poolkit.core.lease._now_at", lambda thread: located.append(thread) or ""
        )
        environ = {"wsgi.file_wrapper": FileWrapper}
        body = Task(PoolsMiddleware(app, one), environ, lambda *_: None).result()
        monkeypatch.undo()
    assert isinstance(body, FileWrapper)
    assert located == []


def test_a_list_stays_one_so_that_the_server_knows_its_length(kit):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"12345"]

    assert Served(PoolsMiddleware(app, kit)).fields["content-length"] == "5"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"deadline": 0}, "deadline"),
        ({"deadline": "5"}, "deadline"),
        ({"deadline_header": "X Timeout"}, "deadline_header"),
        ({"deadline_header": 5}, "deadline_header"),
        ({"app": None}, "app"),
        ({"kit": "postgresql://app:geheim@db/shop"}, "kit"),
    ],
)
def test_wrong_settings_are_named(kit, settings, names):
    given = {"app": raising(KeyError()), "kit": kit, **settings}
    with pytest.raises(ConfigError, match=rf"^{names} must be") as raised:
        PoolsMiddleware(given.pop("app"), given.pop("kit"), **given)
    assert "geheim" not in str(raised.value)
