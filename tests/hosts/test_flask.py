"""The Flask extension, as apps meet it: their config, their views, their own handlers."""

from __future__ import annotations

import contextvars
import http.client
import json
import logging
import textwrap
import threading
import typing

import psycopg
import pytest
from flask import Blueprint, Flask, Response, g, jsonify, request, stream_with_context
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from poolkit import (
    BackendUnavailable,
    CancelledOutcomeUnknown,
    ConfigError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PoolKit,
    PoolTimeout,
    RetryPolicy,
    deadline,
)
from poolkit.core.deadline import NEVER, ambient
from poolkit.errors import PoolKitError
from poolkit.hosts.flask import Pools, current, current_pools, request_deadline

from ..core.support import Task, eventually, python

SECRET = "geheim"


@pytest.fixture
def make_app():
    """Give a maker of apps, with the config given; what pools they have is closed after the test."""
    kits = []

    def make(kit=None, *, name="shop", **config):
        app = Flask(name)
        app.config.update(config)
        Pools(app, kit)
        kits.append(app.extensions["poolkit"].kit)
        return app

    yield make
    for kit in kits:
        kit.close()


@pytest.fixture
def app(make_app, conninfo):
    """Give an app with a single connection to PostgreSQL, that nothing else uses."""
    return make_app(single(conninfo))


def single(conninfo, **fields):
    """Return a kit with a single connection to PostgreSQL, unwatched."""
    pool = {"conninfo": conninfo, "min_size": 0, "max_size": 1, **fields}
    return PoolKit(postgres=pool, http=False, watch=None)


def get(app, path="/", **options):
    """Ask *app*, as a server does: to the end of the response."""
    return app.test_client().get(path, buffered=True, **options)


def kit_of(app):
    return app.extensions["poolkit"].kit


def leak(kept):
    """Take a connection that nobody gives back."""
    block = current_pools.postgres.connection()
    block.__enter__()
    kept.append(block)


class Serving:
    """Serves in a thread while in the block, which is given the port."""

    def __init__(self, server):
        self.server = server
        self.thread = threading.Thread(target=server.serve_forever, args=(0.01,))

    def __enter__(self):
        self.thread.start()
        return self.server.server_port

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(30)


# -- setting up --------------------------------------------------------------------------------------


def test_the_config_says_which_pools_in_objects_or_in_text(make_app):
    app = make_app(
        POOLKIT_ENV="production",
        POOLKIT_POSTGRES_CONNINFO=f"postgresql://app:{SECRET}@db/shop",
        POOLKIT_POSTGRES_MAX_SIZE="7",
        POOLKIT_POSTGRES_STATEMENT_TIMEOUT=2,
        POOLKIT_POSTGRES_RETRY=RetryPolicy(attempts=5),
        POOLKIT_HTTP_ALLOWED_HOSTS="a.example,b.example",
        POOLKIT_REDIS_URL=None,
        POOLKIT_REDIS_NODES="",
    )
    kit = kit_of(app)
    assert set(kit.pools) == {"postgres", "http"}
    config = kit.postgres.config
    assert (config.max_size, config.min_size, config.statement_timeout) == (7, 5, 2)
    assert config.retry.attempts == 5
    assert kit.http.config.allowed_hosts == ("a.example", "b.example")
    assert kit.name == "shop"


def test_defaults_are_in_the_config_and_what_was_set_stays(make_app):
    app = make_app(POOLKIT_DEADLINE="2.5", POOLKIT_READINESS_PATH=None)
    own = {key: value for key, value in app.config.items() if key.startswith("POOLKIT_")}
    assert own == {
        "POOLKIT_DEADLINE": "2.5",
        "POOLKIT_DEADLINE_HEADER": None,
        "POOLKIT_LIVENESS_PATH": "/livez",
        "POOLKIT_READINESS_PATH": None,
    }
    assert app.extensions["poolkit"].settings.deadline == 2.5


def test_flasks_own_reading_of_the_environment_will_do(monkeypatch):
    monkeypatch.setenv("FLASK_POOLKIT_POSTGRES_CONNINFO", "postgresql://app@db/shop")
    monkeypatch.setenv("FLASK_POOLKIT_POSTGRES_MAX_SIZE", "7")
    monkeypatch.setenv("FLASK_POOLKIT_DEADLINE", "3")
    app = Flask("shop")
    app.config.from_prefixed_env()
    Pools(app)
    assert kit_of(app).postgres.config.max_size == 7
    assert app.extensions["poolkit"].settings.deadline == 3


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"POOLKIT_POSTGRES_MAX_SIZ": 3}, r"POOLKIT_POSTGRES_MAX_SIZ.*did you mean 'max_size'"),
        ({"POOLKIT_POSTGRES_MAX_SIZE": "many"}, "POOLKIT_POSTGRES_MAX_SIZE"),
        ({"POOLKIT_POSTGRES_MAX_SIZE": -1}, "max_size is from POOLKIT_POSTGRES_MAX_SIZE"),
        ({"POOLKIT_POSTGRES_MAX_SIZE": [SECRET]}, "max_size is from POOLKIT_POSTGRES_MAX_SIZE"),
        ({"POOLKIT_ENV": "prod"}, "POOLKIT_ENV: there is no preset 'prod'.*production"),
        ({"POOLKIT_ENV": 5}, "POOLKIT_ENV"),
        ({"POOLKIT_DEADLIN": 5}, "POOLKIT_DEADLIN;.*did you mean 'POOLKIT_DEADLINE'"),
        ({"POOLKIT_DEADLINE": SECRET}, "POOLKIT_DEADLINE must be a number of seconds"),
        ({"POOLKIT_DEADLINE": 0}, "POOLKIT_DEADLINE must be more than 0"),
        ({"POOLKIT_DEADLINE_HEADER": "X Left"}, "POOLKIT_DEADLINE_HEADER must be the name"),
        ({"POOLKIT_LIVENESS_PATH": "livez"}, "POOLKIT_LIVENESS_PATH must begin with /"),
        ({"POOLKIT_READINESS_PATH": 5}, "POOLKIT_READINESS_PATH must be a string"),
    ],
)
def test_what_is_wrong_in_the_config_is_named_with_its_key(config, says):
    app = Flask("shop")
    app.config.update(POOLKIT_POSTGRES_CONNINFO=f"postgresql://app:{SECRET}@db/shop")
    app.config.update(config)
    with pytest.raises(ConfigError, match=says) as raised:
        Pools(app)
    assert SECRET not in str(raised.value)


def test_without_flask_the_error_names_what_to_install():
    script = """
        import importlib.util as util
        find = util.find_spec
        util.find_spec = lambda name, *package: None if name == "flask" else find(name, *package)
        try:
            import poolkit.hosts.flask
        except ImportError as error:
            print(error)
        """
    assert "pip install 'poolkit[flask]'" in python(textwrap.dedent(script))


def test_setting_up_opens_nothing(app):
    assert {pool.state for pool in kit_of(app).pools.values()} == {"new"}
    with app.app_context():
        assert current_pools.postgres.state == "new"
        current_pools.postgres.query("select 1")
        assert current_pools.postgres.state == "open"


def test_a_factory_sets_up_each_of_its_apps(conninfo):
    pools = Pools()
    apps = []
    for size in (6, 7):
        app = Flask("shop")
        app.config.update(POOLKIT_POSTGRES_CONNINFO=conninfo, POOLKIT_POSTGRES_MAX_SIZE=size)
        pools.init_app(app)
        app.add_url_rule("/", view_func=lambda: str(current_pools.postgres.config.max_size))
        apps.append(app)
    assert [get(app).text for app in apps] == ["6", "7"]
    with apps[0].app_context(), apps[1].app_context():
        assert current_pools.postgres.config.max_size == 7


def test_two_apps_may_share_a_kit(conninfo):
    with PoolKit(postgres=conninfo, http=False, watch=None) as kit:
        pools = Pools(kit=kit)
        apps = [Flask("shop"), Flask("office")]
        for app in apps:
            pools.init_app(app)
            app.add_url_rule("/", view_func=lambda: str(current_pools.postgres.query("select 1")))
        assert [get(app).text for app in apps] == ["[(1,)]"] * 2
        assert kit.postgres.stats().operations == 2


def test_a_kit_that_is_given_comes_before_the_config(make_app, conninfo):
    with PoolKit(http=False, watch=None) as kit:
        assert kit_of(make_app(kit, POOLKIT_POSTGRES_CONNINFO=conninfo)) is kit


def test_setting_up_twice_is_an_error(app):
    with pytest.raises(ConfigError, match="the app 'shop' has its Pools already"):
        Pools(app)


@pytest.mark.parametrize("why", ["blueprint", "request"])
def test_what_can_not_be_set_up_stays_as_it_was(why):
    app = Flask("shop")
    if why == "blueprint":
        app.register_blueprint(Blueprint("poolkit", __name__))
    else:
        get(app)
    before = app.wsgi_app
    error = {"blueprint": ConfigError, "request": AssertionError}[why]
    for _ in range(2):
        with PoolKit(http=False, watch=None) as kit, pytest.raises(error, match=why):
            Pools(app, kit)
    assert app.wsgi_app == before
    assert "pools" not in app.cli.commands


@pytest.mark.parametrize("given", ["app", "kit"])
def test_what_is_no_app_or_no_kit_is_an_error(given):
    with pytest.raises(ConfigError, match=f"^{given} must be a "):
        Pools(**{given: SECRET})


# -- current_pools -----------------------------------------------------------------------------------


def test_outside_of_a_context_the_error_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"with app\.app_context\(\)"):
        current_pools.postgres  # noqa: B018


def test_in_an_app_without_pools_the_error_says_what_to_do():
    with Flask("bare").app_context(), pytest.raises(ConfigError, match=r"'bare' has no Pools"):
        current_pools.postgres  # noqa: B018


def test_it_has_the_types_of_a_kit(app):
    assert typing.get_type_hints(current)["current_pools"] is PoolKit
    with app.app_context():
        assert isinstance(current_pools, PoolKit)


# -- the deadline ------------------------------------------------------------------------------------


def test_a_view_that_takes_too_long_is_a_504_and_its_statement_is_cancelled(make_app, conninfo):
    app = make_app(POOLKIT_POSTGRES_CONNINFO=conninfo, POOLKIT_DEADLINE=0.2)

    @app.get("/")
    def index():
        return current_pools.postgres.query("select pg_sleep(30), 'from the view'")

    response = get(app)
    assert response.status_code == 504
    with psycopg.connect(conninfo) as eyes:
        running = "select 1 from pg_stat_activity where state = 'active' and query like %s"
        eventually(lambda: not eyes.execute(running, ["%30), 'from the view%"]).fetchall())


def test_what_runs_before_the_view_is_within_the_deadline_too(make_app):
    app = make_app(POOLKIT_DEADLINE=60, POOLKIT_DEADLINE_HEADER="X-Left")

    @app.before_request
    def before():
        g.budget = ambient().budget

    @app.get("/")
    def index():
        return jsonify(g.budget, ambient().budget)

    assert get(app).json == [60, 60]
    assert get(app, headers={"X-Left": "2.5"}).json == [2.5, 2.5]
    assert get(app, headers={"X-Left": "99"}).json == [60, 60]
    assert get(app, headers={"X-Left": "soon"}).json == [60, 60]
    assert ambient() is NEVER


@pytest.mark.parametrize(("own", "expected"), [(120, [120, 5]), (1, [1, 1]), (None, [None, 5])])
def test_a_view_may_have_a_deadline_of_its_own_within_what_the_upstream_asks(
    make_app, own, expected
):
    app = make_app(POOLKIT_DEADLINE=60, POOLKIT_DEADLINE_HEADER="X-Left")

    @app.get("/")
    @request_deadline(own)
    def index():
        return jsonify(None if ambient().never else ambient().budget)

    assert [get(app).json, get(app, headers={"X-Left": "5"}).json] == expected
    with deadline(0.5):  # of who calls the app
        assert get(app).json == 0.5


def test_a_deadline_of_a_view_holds_while_its_response_streams(make_app):
    app = make_app(POOLKIT_DEADLINE=60)

    @app.get("/")
    @request_deadline(120)
    def index():
        return Response(str(ambient().budget) for _ in range(2))

    assert get(app).text == "120.0" * 2


@pytest.mark.parametrize(
    ("own", "shorter", "expected"), [(120, 5, "5 120"), (2, 5, "2 2"), (None, 5, "5 never")]
)
def test_a_deadline_of_a_view_replaces_no_shorter_one_of_a_block_around_it(
    make_app, own, shorter, expected
):
    app = make_app(POOLKIT_DEADLINE=60)

    def left():
        return "never" if ambient().never else f"{ambient().budget:g}"

    @app.url_value_preprocessor
    def enter(endpoint, values):
        g.block = deadline(shorter)
        g.block.__enter__()

    @app.teardown_request
    def leave(error):
        g.block.__exit__(None, None, None)

    # The extension's comes after the app's here, as it does where another extension was set up first.
    hooks = app.url_value_preprocessors[None]
    hooks.append(hooks.pop(0))

    @app.get("/")
    @request_deadline(own)
    def index():
        first = left()
        return Response(piece() for piece in (lambda: first, lambda: " ", left))

    assert get(app).text == expected
    assert ambient() is NEVER


def test_wrong_deadlines_of_views_are_named():
    with pytest.raises(ConfigError, match="request_deadline must be more than 0"):
        request_deadline(0)


# -- errors ------------------------------------------------------------------------------------------


def test_an_exhausted_pool_is_a_503_with_when_to_come_again(make_app, conninfo, caplog):
    app = make_app(single(conninfo, acquire_timeout=1.0))

    @app.get("/")
    def index():
        with current_pools.postgres.connection(), current_pools.postgres.connection():
            return "never"

    response = get(app, headers={"Accept": "application/json"})
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json["error"] == "PoolTimeout"
    (record,) = [record for record in caplog.records if record.name == "poolkit.hosts"]
    assert record.levelno == logging.WARNING
    assert "the view 'index' was answered with 503" in record.message
    assert "held by thread" in record.message
    assert response.json["reference"] == record.reference


def test_under_test_too_an_error_of_poolkit_is_an_answer(make_app):
    app = make_app()
    app.testing = True

    @app.get("/")
    def index():
        raise PoolTimeout("none")

    assert get(app).status_code == 503


def test_a_backend_that_is_down_is_a_503_without_its_address(make_app):
    app = make_app(POOLKIT_POSTGRES_CONNINFO=f"postgresql://app:{SECRET}@127.0.0.1:1/shop")

    @app.get("/")
    def index():
        return current_pools.postgres.query("select 1")

    response = get(app)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.mimetype == "text/plain"
    assert SECRET not in response.text
    assert "127.0.0.1" not in response.text


@pytest.mark.parametrize("registered", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (PoolTimeout, PoolTimeout("…")),
        (PoolKitError, PoolTimeout("…")),
        (TimeoutError, PoolTimeout("…")),
        (OSError, DeadlineExceeded("…", stage="running")),
        (ConnectionError, BackendUnavailable("…")),
        (OutcomeUnknown, DeadlineOutcomeUnknown("…", stage="running")),
        (OutcomeUnknown, CancelledOutcomeUnknown("…", stage="running")),
        (Exception, PoolTimeout("…")),
        (503, PoolTimeout("…")),
        (HTTPException, PoolTimeout("…")),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_handlers_of_the_app_win(kind, error, registered, caplog):
    app = Flask("shop")

    def handle(error):
        return f"the app's own, for {type(error).__name__}", 418

    if registered == "before":
        app.register_error_handler(kind, handle)
    Pools(app)
    if registered == "after":
        app.register_error_handler(kind, handle)

    @app.get("/")
    def index():
        raise error

    response = get(app)
    assert response.status_code == 418
    of_the_status = kind in (503, HTTPException, Exception)
    told = "ServiceUnavailable" if of_the_status else type(error).__name__
    assert response.text == f"the app's own, for {told}"
    assert ("was answered" in caplog.text) == of_the_status


def test_of_the_apps_handlers_the_nearest_wins_wherever_poolkit_stands_between(make_app):
    app = make_app()
    part = Blueprint("part", __name__)
    part.register_error_handler(OSError, lambda error: ("of the blueprint", 418))
    app.register_error_handler(OutcomeUnknown, lambda error: ("of the app", 418))
    app.register_error_handler(PoolKitError, lambda error: ("of the app, for any", 418))

    @part.get("/part")
    @app.get("/app")
    def view():
        raise DeadlineOutcomeUnknown("…", stage="running")

    app.register_blueprint(part)
    assert [get(app, path).text for path in ("/part", "/app")] == ["of the blueprint", "of the app"]


def test_an_apps_handler_of_all_it_did_not_expect_lets_answers_through(make_app):
    app = make_app()

    @app.errorhandler(Exception)
    def handle(error):  # the way Flask's documentation has it
        return error if isinstance(error, HTTPException) else ("sorry", 500)

    @app.get("/<kind>")
    def index(kind):
        raise {"timeout": PoolTimeout("…"), "key": KeyError("x")}[kind]

    assert [get(app, path).status_code for path in ("/timeout", "/key")] == [503, 500]
    assert get(app, "/timeout").headers["Retry-After"] == "1"


def test_an_apps_handler_of_all_http_errors_may_change_the_answer(make_app):
    app = make_app()

    @app.errorhandler(HTTPException)
    def as_json(error):  # the way Flask's documentation has it
        response = error.get_response()
        response.data = json.dumps({"code": error.code, "description": error.description})
        response.content_type = "application/json"
        return response

    @app.get("/")
    def index():
        raise BackendUnavailable("…", retry_after=2.5)

    response = get(app)
    assert response.status_code == 503
    assert response.json == {"code": 503, "description": "a backend can't be reached"}
    assert response.headers["Retry-After"] == "3"


def test_a_handler_of_a_blueprint_wins_in_its_views(make_app):
    app = make_app()
    part = Blueprint("part", __name__)
    part.register_error_handler(DeadlineExceeded, lambda error: ("its own", 418))

    @part.get("/part")
    @app.get("/app")
    def view():
        raise DeadlineExceeded("…", stage="running")

    app.register_blueprint(part)
    assert [get(app, path).status_code for path in ("/part", "/app")] == [418, 504]


@pytest.mark.parametrize("error", [OutcomeUnknown("…"), ConfigError("…"), KeyError("x")])
def test_other_errors_are_the_apps_own(make_app, error):
    app = make_app()

    @app.get("/")
    def index():
        raise error

    assert get(app).status_code == 500
    app.testing = True
    with pytest.raises(type(error)):
        get(app)


def test_an_error_before_the_first_piece_of_a_stream_is_an_answer(app):
    @app.get("/")
    def index():
        def rows():
            yield from current_pools.postgres.query("select pg_sleep(30)")

        return Response(stream_with_context(rows()))

    app.add_url_rule("/late", "late", request_deadline(0.1)(index))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with server, Serving(server) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("GET", "/late")
        response = client.getresponse()
        assert response.status == 504
        assert b"the time for this request ran out" in response.read()
        client.close()


# -- the end of a request ----------------------------------------------------------------------------


def test_a_view_that_leaks_is_named_and_the_next_request_is_served(app, caplog):
    kept = []

    @app.get("/leak")
    def leaky():
        leak(kept)
        return "leaked"

    @app.get("/")
    def index():
        return str(current_pools.postgres.query("select 1"))

    for _ in range(3):
        assert get(app, "/leak", query_string={"token": SECRET}).text == "leaked"
        assert get(app).text == "[(1,)]"
    assert kit_of(app).postgres.stats().leaked == 3
    assert caplog.text.count("the view 'leaky' ended") == 3
    assert "in test_a_view_that_leaks" in caplog.text or "in leak" in caplog.text
    assert SECRET not in caplog.text


def test_a_view_of_a_blueprint_is_named_with_it_even_if_it_raises(app, caplog):
    kept = []
    orders = Blueprint("orders", __name__)

    @orders.get("/orders")
    def show():
        leak(kept)
        raise KeyError("x")

    app.register_blueprint(orders)
    assert get(app, "/orders").status_code == 500
    assert "the view 'orders.show' ended" in caplog.text
    assert kit_of(app).postgres.leases() == []


def test_what_leaks_before_the_view_is_named_with_the_view_and_else_with_the_path(app, caplog):
    kept = []

    @app.before_request
    def before():
        leak(kept)

    @app.get("/")
    def index():
        return "x"

    get(app)
    assert "the view 'index' ended" in caplog.text
    get(app, "/nowhere")
    assert "the request GET /nowhere ended" in caplog.text
    assert kit_of(app).postgres.leases() == []


def test_what_teardown_functions_give_back_is_no_leak(app):
    @app.teardown_appcontext
    def give_back(error):
        block = g.pop("block", None)
        if block is not None:
            block.__exit__(None, None, None)

    @app.get("/")
    def index():
        g.block = current_pools.postgres.connection()
        g.block.__enter__()
        return "x"

    assert get(app).text == "x"
    assert kit_of(app).postgres.stats().leaked == 0
    assert kit_of(app).postgres.leases() == []


def test_a_stream_with_context_uses_the_pools_to_its_end(app):
    @app.get("/")
    def index():
        def rows():
            for (number,) in current_pools.postgres.stream("select generate_series(1, 3)"):
                yield f"{number}{request.args['sign']}"

        return Response(stream_with_context(rows()))

    assert get(app, "/?sign=;").text == "1;2;3;"
    stats = kit_of(app).postgres.stats()
    assert (stats.in_use, stats.leaked) == (0, 0)


def test_a_stream_that_was_begun_in_the_view_outlives_the_contexts(app):
    @app.get("/")
    def index():
        block = current_pools.postgres.connection()
        conn = block.__enter__()
        response = Response(
            str(number) for (number,) in conn.execute("select generate_series(1, 3)")
        )
        response.call_on_close(lambda: block.__exit__(None, None, None))
        return response

    assert get(app).text == "123"
    stats = kit_of(app).postgres.stats()
    assert (stats.in_use, stats.leaked) == (0, 0)


def test_a_client_that_disconnects_from_a_stream_gives_the_connection_back(app):
    rows = "select repeat('x', 20000) from generate_series(1, 5000)"

    @app.get("/")
    def index():
        return Response(text for (text,) in current_pools.postgres.stream(rows))

    pool = kit_of(app).postgres
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with server, Serving(server) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("GET", "/")
        answer = client.getresponse()
        assert answer.read(1000)
        assert pool.stats().in_use == 1
        answer.close()  # it has the socket, which would be closed with it when it is collected
        eventually(lambda: pool.stats().in_use == 0)
    assert pool.stats().leaked == 0
    assert pool.query("select 1") == [(1,)]


def test_a_request_within_a_view_takes_nothing_from_it(app, make_app):
    with_shared_kit = make_app(kit_of(app), name="inner", POOLKIT_DEADLINE=5)
    kept = []

    @with_shared_kit.get("/")
    @app.get("/inner")
    def inner():
        return str(ambient().budget)

    @app.get("/")
    def outer():
        with current_pools.postgres.connection() as conn:
            answers = [get(app, "/inner").text, get(with_shared_kit).text]
            conn.execute("select 1")
        answers.append(str(ambient().budget))
        leak(kept)
        get(app, "/inner")
        assert len(current_pools.postgres.leases()) == 1
        return jsonify(answers)

    assert get(app).json == ["15.0", "5.0", "15.0"]
    assert kit_of(app).postgres.leases() == []


def test_contexts_that_a_test_client_keeps_take_nothing_back(app):
    @app.get("/")
    def index():
        g.seen = True
        return "x"

    pool = kit_of(app).postgres
    with app.test_client() as client:
        client.get("/", buffered=True)
        assert g.seen
        with pool.connection() as conn:
            client.get("/", buffered=True)  # which ends the contexts of the first
            assert conn.execute("select 1").fetchone() == (1,)
    assert pool.stats().leaked == 0


def test_teardown_functions_never_raise_and_never_close_pools(app):
    @app.get("/")
    def index():
        return str(current_pools.postgres.query("select 1"))

    for _ in range(2):
        with app.app_context():
            pass
        assert get(app).text == "[(1,)]"
    kit_of(app).close()
    with app.app_context():
        pass
    assert [get(app, path).status_code for path in ("/", "/readyz", "/livez")] == [503, 503, 200]


# -- a context without a request ---------------------------------------------------------------------


def test_what_a_context_without_a_request_holds_at_its_end_is_taken_back(app, caplog):
    kept = []
    with app.app_context():
        leak(kept)
        with app.app_context():
            assert len(current_pools.postgres.leases()) == 1
        assert len(current_pools.postgres.leases()) == 1
    assert kit_of(app).postgres.leases() == []
    assert "the application context ended" in caplog.text


@pytest.mark.parametrize("copied", [True, False])
def test_a_context_of_a_thread_that_a_view_started_takes_back_what_it_holds(app, copied):
    kept = []

    def work():
        with app.app_context():
            leak(kept)
        return len(kit_of(app).postgres.leases())

    @app.get("/")
    def index():
        run = contextvars.copy_context().run if copied else lambda call: call()
        return str(Task(run, work).result())

    assert get(app).text == "0"
    assert kit_of(app).postgres.stats().leaked == 1


def test_what_was_held_before_the_context_stays(app):
    pool = kit_of(app).postgres
    with pool.connection() as conn:
        with app.app_context():
            pass
        conn.execute("select 1")
    assert pool.stats().leaked == 0


def test_a_request_in_a_context_leaves_alone_what_the_context_holds(app):
    app.add_url_rule("/", view_func=lambda: "x")
    with app.app_context(), current_pools.postgres.connection() as conn:
        assert get(app).text == "x"
        conn.execute("select 1")
    assert kit_of(app).postgres.stats().leaked == 0


def test_a_context_of_a_test_is_no_request(app):
    with app.test_request_context("/"):
        assert app.preprocess_request() is None
        assert current_pools.postgres.query("select 1") == [(1,)]


# -- health ------------------------------------------------------------------------------------------


def test_liveness_asks_no_backend(make_app):
    app = make_app(POOLKIT_POSTGRES_CONNINFO="postgresql://app@127.0.0.1:1/shop")
    response = get(app, "/livez")
    assert (response.status_code, response.json) == (200, {"live": True})
    assert kit_of(app).postgres.state == "new"


def test_liveness_fails_when_the_process_should_be_replaced(make_app, monkeypatch):
    class Dead:
        is_alive = False

    monkeypatch.setattr("poolkit.hosts.flask.routes.housekeeper", Dead)
    response = get(make_app(), "/livez")
    assert (response.status_code, response.json) == (503, {"live": False})


def test_readiness_says_what_the_last_checks_found_and_costs_nothing(app):
    first = get(app, "/readyz")
    assert first.status_code == 200
    assert first.json["ready"] is True
    assert first.json["pools"]["postgres"]["status"] == "healthy"
    assert first.headers["Cache-Control"] == "no-store"

    pool = kit_of(app).postgres
    eventually(lambda: pool.stats().in_use == 0)
    before = pool.stats().leases
    for _ in range(20):
        assert get(app, "/readyz").json["ready"] is True
    assert pool.stats().leases == before


def test_readiness_names_the_reasons_without_secrets(make_app):
    app = make_app(POOLKIT_POSTGRES_CONNINFO=f"postgresql://app:{SECRET}@127.0.0.1:1/shop")
    response = get(app, "/readyz")
    assert response.status_code == 503
    assert response.json["ready"] is False
    assert "refused" in response.json["pools"]["postgres"]["reasons"][0]
    assert SECRET not in response.text


def test_the_paths_can_be_chosen_and_left_out(make_app):
    app = make_app(POOLKIT_LIVENESS_PATH="/health/live", POOLKIT_READINESS_PATH=None)
    assert get(app, "/health/live").status_code == 200
    assert [get(app, path).status_code for path in ("/livez", "/readyz")] == [404, 404]
    with app.test_request_context("/health/live"):
        assert request.endpoint == "poolkit.live"


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_route_of_the_app_for_the_same_path_is_served(order):
    app = Flask("shop")

    def add():
        app.add_url_rule("/livez", "alive", lambda: f"the app's own: {request.endpoint}")
        app.add_url_rule("/readyz", "told", lambda: "posted", methods=["POST"])

    if order == "before":
        add()
    with PoolKit(http=False, watch=None) as kit:
        Pools(app, kit)
        if order == "after":
            add()
        assert get(app, "/livez").text == "the app's own: alive"
        assert get(app, "/readyz").json["ready"] is True
        assert app.test_client().post("/readyz", buffered=True).text == "posted"


def test_apps_in_many_threads_do_not_mix(app, conninfo):
    @app.get("/<int:number>")
    def index(number):
        return str(current_pools.postgres.query_one("select %s::int", [number])[0])

    tasks = [Task(lambda n=n: [get(app, f"/{n}").text for _ in range(20)]) for n in range(8)]
    for n, task in enumerate(tasks):
        assert task.result() == [str(n)] * 20
