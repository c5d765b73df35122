"""The dashboard as a WSGI app: who may see it, what it tells, and that it opens and changes nothing."""

from __future__ import annotations

import gc
import json
import os
import re
import threading
import time
import weakref
from contextlib import suppress

import flask
import pytest
import redis

from poolkit import (
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    HttpPool,
    PoolKit,
    RedisPool,
    WatchSettings,
    deadline,
)
from poolkit.embedded import HttpServer
from poolkit.hosts.dashboard import LOCAL, Dashboard, condition
from poolkit.hosts.dashboard.access import COOKIE_AGE
from poolkit.hosts.dashboard.app import FILES
from poolkit.hosts.dashboard.sampling import SERIES, Recording

from ..core.support import Task, eventually, python
from .wsgi_calls import call

TOKEN = "correct-horse-battery"
OFTEN = 0.02
HOSTILE = "<script>alert('x')</script>\"&'"


def allow(environ):
    """Let everybody in."""
    return True


@pytest.fixture
def kit(redis_url):
    """Give a kit of a Redis pool that is not watched, and not open yet."""
    kit = PoolKit(redis={"url": redis_url, "name": "cache", "max_size": 2}, http=False, watch=None)
    yield kit
    kit.close()


def shown(app, **query):
    """Return what the page is told."""
    answer = call(app, "/data.json", query="&".join(f"{k}={v}" for k, v in query.items()))
    assert answer.status == 200
    return answer.json()


def pool(app, backend="redis", **query):
    """Return what the page is told of one pool."""
    return next(pool for pool in shown(app, **query)["pools"] if pool["backend"] == backend)


# -- the page ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*FILES, "/data.json"])
def test_everything_is_served_with_what_keeps_it_to_itself(kit, path):
    answer = call(Dashboard(kit, access=LOCAL), path)
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) == len(answer.body) > 0
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "Set-Cookie" not in answer.headers


def test_the_page_needs_nothing_from_elsewhere(kit):
    app = Dashboard(kit, access=LOCAL)
    for path in FILES:
        text = call(app, path).body.decode()
        links = re.findall(r"""(?:src|href|from|url\()\s*=?\s*["']([^"'#][^"']*)""", text)
        assert all(f"/{link.removeprefix('./')}" in FILES for link in links), (path, links)
        elsewhere = text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(^|\s)//.*", "", elsewhere, flags=re.MULTILINE), path
        assert "innerHTML" not in text
        assert "<style" not in text
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)


def test_where_it_is_mounted_only_its_links_need_to_know(kit):
    app = Dashboard(kit, access=LOCAL)
    assert b'="/' not in call(app, "/").body
    assert call(app, "").status == 308
    assert call(app, "").headers["Location"] == "/pools/"
    assert call(app, "", SCRIPT_NAME="").headers["Location"] == "/"
    assert call(app, "", SCRIPT_NAME="/a b/ä".encode().decode("latin-1")).headers["Location"] == (
        "/a%20b/%C3%A4/"
    )
    assert call(app, "", SCRIPT_NAME="//evil.example").headers["Location"] == "/evil.example/"
    assert call(app, "", query="a=%20b&c").headers["Location"] == "/pools/?a=%20b&c"


def test_it_answers_get_and_head_and_nothing_else(kit):
    app = Dashboard(kit, token=TOKEN)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = call(app, "/data.json", method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    auth = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
    head, get = call(app, method="HEAD", **auth), call(app, **auth)
    assert head.status == 200
    assert head.body == b""
    assert head.headers == get.headers


def test_what_is_not_there_is_404_and_no_file_of_the_server(kit):
    app = Dashboard(kit, access=LOCAL)
    for path in ("/nothing", "/../app.py", "/page/index.html", "//", "/index.html"):
        assert call(app, path).status == 404


# -- who may see it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"access": allow, "token": TOKEN},
        {"token": "short"},
        {"token": "with spaces in it, which no header takes"},
        {"token": 12345678901234567890},
        {"token": ""},
        {"access": "everybody"},
        {"access": LOCAL, "token": TOKEN},
        {"access": LOCAL, "every": 0},
    ],
)
def test_what_makes_no_sense_is_refused_without_being_shown(kit, given):
    with pytest.raises(ConfigError) as error:
        Dashboard(kit, **given)
    assert not given.get("token") or str(given["token"]) not in str(error.value)


def test_who_may_see_it_has_to_be_said(kit):
    with pytest.raises(ConfigError, match=r"say who may see the page: give token=, access=.*LOCAL"):
        Dashboard(kit)


def test_it_is_of_a_kit(redis_url):
    with pytest.raises(ConfigError, match="must be a PoolKit, not a value of type RedisPool"):
        Dashboard(RedisPool(redis_url))


@pytest.mark.parametrize("path", [*FILES, "/data.json", "/nothing"])
def test_without_the_token_nothing_is_told(kit, path):
    app = Dashboard(kit, token=TOKEN)
    for wrong in (
        {},
        {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}x"},
        {"HTTP_AUTHORIZATION": f"Basic {TOKEN}"},
        {"HTTP_AUTHORIZATION": "Bearer"},
        {"HTTP_AUTHORIZATION": "Bearer \xe4\udc80"},
        {"QUERY_STRING": "token="},
        {"QUERY_STRING": f"token={TOKEN[:-1]}"},
        {"HTTP_COOKIE": f"{app._access._cookie}={TOKEN}"},
        {"HTTP_COOKIE": f"{app._access._cookie}=99999999999.{'0' * 64}; a; =; b="},
    ):
        answer = call(app, path, **{"query": wrong.pop("QUERY_STRING", ""), **wrong})
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert TOKEN.encode() not in answer.body
        assert "Set-Cookie" not in answer.headers


def test_the_token_is_shown_as_bearer(kit):
    app = Dashboard(kit, token=TOKEN)
    for scheme in ("Bearer", "bearer"):
        assert call(app, HTTP_AUTHORIZATION=f"{scheme} {TOKEN}").status == 200


def test_a_browser_shows_the_token_once_and_has_a_cookie_then(kit, monkeypatch):
    app = Dashboard(kit, token=TOKEN)
    first = call(app, query=f"token={TOKEN}")
    assert first.status == 303
    assert first.headers["Location"] == "/pools/"
    cookie, *attributes = first.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {
        "Path=/pools/",
        f"Max-Age={COOKIE_AGE}",
        "HttpOnly",
        "SameSite=Strict",
    }
    assert TOKEN not in first.headers["Set-Cookie"]

    assert call(app, HTTP_COOKIE=f"other=1; {cookie}; more=2").status == 200
    without_slash = call(app, "", query=f"token={TOKEN}")  # where that cookie is not sent
    assert without_slash.headers["Location"] == f"/pools/?token={TOKEN}"
    later = time.time() + COOKIE_AGE + 1
    monkeypatch.setattr("poolkit.hosts.dashboard.access.time.time", lambda: later)
    assert call(app, HTTP_COOKIE=cookie).status == 401


def test_a_cookie_can_not_be_made_to_last_longer_or_used_elsewhere(kit):
    app = Dashboard(kit, token=TOKEN)
    cookie = call(app, query=f"token={TOKEN}").headers["Set-Cookie"].split(";")[0]
    name, _, value = cookie.partition("=")
    until, _, signature = value.partition(".")
    assert call(app, HTTP_COOKIE=f"{name}={int(until) + 1}.{signature}").status == 401
    other = Dashboard(kit, token=f"another-{TOKEN}")
    assert call(other, HTTP_COOKIE=f"{other._access._cookie}={value}").status == 401


def test_over_tls_the_cookie_is_for_tls_alone(kit):
    answer = call(
        Dashboard(kit, token=TOKEN), query=f"token={TOKEN}", **{"wsgi.url_scheme": "https"}
    )
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_a_callable_decides(kit):
    app = Dashboard(kit, access=lambda environ: environ.get("HTTP_X_USER") == "admin")
    assert call(app, HTTP_X_USER="admin", REMOTE_ADDR="8.8.8.8").status == 200
    assert call(app, HTTP_X_USER="guest").status == 403
    assert call(app, "/data.json").status == 403


@pytest.mark.parametrize("said", [1, "yes", None, object()])
def test_what_is_neither_true_nor_false_lets_nobody_in(kit, said, caplog):
    assert call(Dashboard(kit, access=lambda environ: said)).status == 403
    assert "must return True or False" in caplog.text


def test_a_callable_that_raises_lets_nobody_in(kit, caplog):
    def access(environ):
        raise KeyError("user")

    assert call(Dashboard(kit, access=access)).status == 403
    assert "nobody is let in" in caplog.text


FROM_HERE = [
    {},
    {"REMOTE_ADDR": "127.8.9.1"},
    {"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:8000"},
    {"REMOTE_ADDR": "::ffff:127.0.0.1"},
    {"HTTP_HOST": "127.0.0.1"},
    {"HTTP_HOST": "LOCALHOST:80"},
]

FROM_ELSEWHERE = [
    {"REMOTE_ADDR": "10.0.0.7"},
    {"REMOTE_ADDR": "::ffff:10.0.0.7"},
    {"REMOTE_ADDR": ""},
    {"REMOTE_ADDR": None},
    {"REMOTE_ADDR": "localhost"},
    {"HTTP_HOST": "evil.example"},
    {"HTTP_HOST": "127.0.0.1.evil.example:8000"},
    {"HTTP_HOST": "localhost.evil.example"},
    {"HTTP_HOST": "0.0.0.0:8000"},
    {"HTTP_HOST": None},
    {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
    {"HTTP_X_FORWARDED_HOST": "localhost"},
    {"HTTP_X_FORWARDED_PROTO": "https"},
    {"HTTP_FORWARDED": "for=127.0.0.1"},
    {"HTTP_X_REAL_IP": "127.0.0.1"},
    {"HTTP_VIA": "1.1 proxy"},
    {"HTTP_X_ORIGINAL_FORWARDED_FOR": "127.0.0.1"},
    {"HTTP_X_ENVOY_EXTERNAL_ADDRESS": "127.0.0.1"},
    {"HTTP_FASTLY_CLIENT_IP": "127.0.0.1"},
    {"HTTP_CDN_LOOP": "proxy"},
    {"SERVER_PROTOCOL": "HTTP/1.0"},
    {"SERVER_PROTOCOL": "HTTP/0.9"},
    {"SERVER_PROTOCOL": ""},
]


@pytest.mark.parametrize("environ", FROM_HERE)
def test_where_that_is_asked_for_a_browser_on_the_same_machine_is_let_in(kit, environ):
    assert call(Dashboard(kit, access=LOCAL), **environ).status == 200


@pytest.mark.parametrize("environ", FROM_ELSEWHERE)
def test_local_lets_nobody_in_from_elsewhere(kit, environ):
    app = Dashboard(kit, access=LOCAL)
    assert call(app, "/data.json", **environ).status == 403
    assert call(Dashboard(kit, access=allow), "/data.json", **environ).status == 200


# -- what it tells -------------------------------------------------------------------------------------


def test_to_look_opens_nothing(kit):
    app = Dashboard(kit, access=LOCAL)
    for path in [*FILES, "/data.json"]:
        call(app, path)
    assert kit.state == "new"
    assert kit.redis.state == "new"
    assert pool(app)["condition"] == "not opened"
    assert shown(app)["kit"]["status"] == "not opened"
    assert shown(app)["since"] is None
    assert shown(app)["frames"] == []


def test_it_tells_what_the_pool_counts(kit):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    for _ in range(50):
        kit.redis.set("a", "b")
    eventually(lambda: len(shown(app)["frames"]) > 3)
    data = shown(app)
    told = pool(app)

    assert told["condition"] == "healthy"
    assert told["now"]["operations"] == 50
    assert (told["now"]["in_use"], told["now"]["max_size"]) == (0, 2)
    assert told["budget"] == 1.0
    assert data["kit"] == {"name": "poolkit", "state": "open", "status": "healthy"}
    assert data["process"]["pid"] == os.getpid()


def test_throughput_and_durations_are_of_each_interval(kit, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("poolkit.hosts.dashboard.sampling.monotonic", lambda: now)
    recording = Recording(kit.pools, every=2.0)
    kit.redis.get("a")
    recording.look()
    for _ in range(200):
        kit.redis.get("a")
    with pytest.raises(redis.ResponseError):
        kit.redis.execute("NOSUCH")
    now += 2.5
    recording.look()
    now += 2.5
    recording.look()
    busy, still = (dict(zip(SERIES, f.values["redis"], strict=True)) for f in recording.frames())

    assert busy["operations"] == 201 / 2.5
    assert busy["leases"] == 201 / 2.5
    assert busy["errors"] == 1 / 2.5
    assert 0 < busy["use_p50"] <= busy["use_p99"] < 5
    assert still["operations"] == 0
    assert still["use_p99"] is None  # nothing was used, which is not the same as 0 seconds


def test_only_what_is_new_is_told_to_those_who_know_the_rest(kit):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    kit.redis.get("a")
    eventually(lambda: len(shown(app)["frames"]) > 5)
    first = shown(app)
    me, last = first["process"]["id"], first["frames"][-1][0]
    eventually(lambda: shown(app, process=me, after=last)["frames"])
    assert min(row[0] for row in shown(app, process=me, after=last)["frames"]) == last + 1
    assert shown(app, process="another", after=last)["frames"][0][0] == 1
    for nonsense in ("-1", "x", "9" * 400, "%C2%B2"):
        assert shown(app, process=me, after=nonsense)["frames"][0][0] == 1


def test_no_more_is_kept_than_is_shown(kit, monkeypatch):
    monkeypatch.setattr("poolkit.hosts.dashboard.sampling.WINDOW", 10 * OFTEN)
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    kit.redis.get("a")
    eventually(lambda: shown(app)["frames"] and shown(app)["frames"][-1][0] > 25)
    assert len(shown(app)["frames"]) == 10


def test_holders_are_told_with_their_stack_if_it_is_wanted(kit):
    app = Dashboard(kit, access=LOCAL)
    over = threading.Event()

    def hold_for_long():
        with kit.redis.connection():
            over.wait(30)

    task = Task(hold_for_long, name="holder")
    eventually(lambda: pool(app)["holders"])
    (holder,) = pool(app)["holders"]
    (open_one,) = pool(app, stack=holder["id"])["holders"]
    over.set()
    task.result()

    assert holder["thread"] == "holder"
    assert re.search(r"test_dashboard.py:\d+ in .*hold_for_long", holder["site"])
    assert holder["stack"] is None
    assert not holder["overdue"]
    assert any("hold_for_long" in line for line in open_one["stack"])
    assert not any("over.wait" in line for line in open_one["stack"])  # places, not what is there
    assert pool(app)["holders"] == []


def test_what_is_held_for_too_long_is_overdue(redis_url):
    settings = {"url": redis_url, "leak_threshold": 0.01}
    with PoolKit(redis=settings, http=False, watch=None) as kit:
        app = Dashboard(kit, access=LOCAL)
        with kit.redis.connection():
            eventually(lambda: pool(app)["holders"][0]["overdue"])


def exhaust(kit, app, count):
    """Hold all connections of a Redis pool, have *count* threads wait; return what ends that."""
    over = threading.Event()

    def hold():
        with kit.redis.connection():
            over.wait(30)

    size = kit.redis.config.max_size
    tasks = [Task(hold, name=f"holder {number}") for number in range(size)]
    eventually(lambda: pool(app)["now"]["in_use"] == size)
    tasks += [Task(hold, name="waiter") for _ in range(count)]
    eventually(lambda: pool(app)["now"]["waiting"] == count)

    def end():
        over.set()
        for task in tasks:
            task.result()

    return end


def test_an_exhausted_pool_explains_itself(kit):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    end = exhaust(kit, app, 3)
    try:
        told = pool(app)
        status = shown(app)["kit"]["status"]
    finally:
        end()

    what, who, *todo = told["shortage"]
    assert told["condition"] == "exhausted"
    assert status == "degraded"
    assert what.startswith("All 2 connections are lent, and 3 threads wait for at most 5 s.")
    assert "Held longest by thread 'holder " in who
    assert "in exhaust.<locals>.hold" in who or "in hold" in who
    assert any("2 of them were acquired at" in line for line in todo)
    assert any("raise max_size from 2" in line for line in todo)
    assert pool(app)["shortage"] is None
    assert pool(app)["condition"] == "healthy"


def test_a_shortage_is_explained_in_a_folder_that_is_gone(kit, tmp_path, monkeypatch):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    end = exhaust(kit, app, 1)
    try:
        assert pool(app)["shortage"]
        assert condition._folder() == ""
    finally:
        end()


def test_a_leak_that_exhausts_is_said_to_be_one(redis_url):
    settings = {"url": redis_url, "max_size": 1, "leak_threshold": 0.05, "acquire_timeout": 30}
    with PoolKit(redis=settings, http=False, watch=None) as kit:
        app = Dashboard(kit, access=LOCAL)
        end = exhaust(kit, app, 1)
        try:
            eventually(lambda: pool(app)["holders"][0]["overdue"])
            what, _, first, *_ = pool(app)["shortage"]
        finally:
            end()
    assert what.startswith("The only connection is lent, and 1 thread waits")
    assert "1 of 1 holders has had a connection for longer than leak_threshold (0.05 s)" in first
    assert "with block" in first


def test_a_pool_that_is_busy_is_not_exhausted(kit):
    app = Dashboard(kit, access=LOCAL)
    end = exhaust(kit, app, 0)
    told = pool(app)
    end()
    assert told["shortage"] is None
    assert told["condition"] == "healthy"


def test_a_check_that_got_no_connection_says_nothing_of_the_backend(redis_url):
    settings = {"url": redis_url, "max_size": 1, "acquire_timeout": 0.05}
    watch = WatchSettings(health_every=3600, leaks_every=3600)
    with PoolKit(redis=settings, http=False, watch=watch) as kit:
        app = Dashboard(kit, access=LOCAL)
        kit.health()
        with kit.redis.connection():
            assert not kit.health(now=True).ready
        told = pool(app)
    assert told["condition"] == "degraded"
    assert told["reasons"][0].startswith("PoolTimeout: ")


def test_a_backend_that_goes_and_comes_back_is_told_at_once(own_redis):
    server = own_redis()
    settings = {"url": server.url, "offline_queue": False}
    watch = WatchSettings(health_every=3600, leaks_every=3600)  # the first check, and no other
    with PoolKit(redis=settings, http=False, watch=watch) as kit:
        app = Dashboard(kit, access=LOCAL)
        kit.health()
        server.kill()
        eventually(
            lambda: kit.redis.health_check() is False and pool(app)["condition"] == "unavailable"
        )
        reasons = pool(app)["reasons"]
        assert shown(app)["kit"]["status"] == "unavailable"
        assert not kit.health(now=True).ready  # so the last check says so, for an hour
        server.start()
        eventually(lambda: pool(app)["condition"] == "healthy")
        assert pool(app)["reasons"] == []
        assert shown(app)["kit"]["status"] == "healthy"
    assert "can't be reached" in reasons[0]
    assert "refused" in reasons[0]


def test_each_host_of_an_http_pool_is_told(redis_url):
    with HttpServer() as one, HttpServer() as other:
        with PoolKit(http={"name": "apis"}, watch=None) as kit:
            app = Dashboard(kit, access=LOCAL)
            kit.http.get(f"{one}/json")
            assert pool(app, "http")["servers"] == []  # one is the pool itself
            kit.http.get(f"{other}/json")
            servers = pool(app, "http")["servers"]
    assert {server["name"] for server in servers} == {f"apis ({one})", f"apis ({other})"}
    assert all(server["reachable"] and server["budget"] == 1.0 for server in servers)


def test_of_many_hosts_that_are_away_a_few_are_named_and_the_others_counted():
    with PoolKit(http={"name": "apis"}, watch=None) as kit:
        app = Dashboard(kit, access=LOCAL)
        for number in range(12):
            with suppress(BackendUnavailable, DeadlineExceeded), deadline(0.5):
                kit.http.get(f"http://127.0.0.{1 + number}:1/")
        told = pool(app, "http")
    assert told["condition"] == "unavailable"
    assert len(told["servers"]) == 12
    assert [("refused" in reason) for reason in told["reasons"]] == [*[True] * 5, False]
    assert told["reasons"][-1] == "… and 7 more can't be reached"


def test_batches_are_told(conninfo):
    with PoolKit(
        postgres={"conninfo": conninfo, "min_size": 1, "max_size": 2}, http=False, watch=None
    ) as kit:
        app = Dashboard(kit, access=LOCAL, every=OFTEN)
        line = threading.Barrier(20)

        def work():
            line.wait(30)
            for _ in range(20):
                kit.postgres.query("select 1")

        kit.postgres.query("select 1")
        eventually(lambda: shown(app)["frames"])
        for task in [Task(work) for _ in range(20)]:
            task.result()
        told = pool(app, "postgres")
    assert told["now"]["largest_batch"] > 1
    assert told["minute"]["mean_batch"] > 1


def test_rare_events_are_told(kit):
    app = Dashboard(kit, access=LOCAL)
    kit.redis.get("a")
    assert {event["kind"] for event in shown(app)["events"]} == {"opened", "ready"}


def test_nothing_secret_is_told(own_redis, conninfo):
    password = "hunter2-hunter2"
    server = own_redis(password=password)
    watch = WatchSettings(health_every=0.05)
    with PoolKit(
        redis={"url": server.url.replace(password, f"wrong-{password}")},
        postgres=conninfo,
        http=False,
        watch=watch,
    ) as kit:
        app = Dashboard(kit, access=LOCAL, every=OFTEN)
        eventually(lambda: pool(app)["condition"] == "unavailable")
        with suppress(Exception):
            kit.postgres.query("select %s::int", [password])
        with suppress(DeadlineExceeded), deadline(0.05):
            kit.postgres.query("select pg_sleep(10), %s::text", [password])
        eventually(lambda: any(event["kind"] == "failed" for event in shown(app)["events"]))
        text = json.dumps(shown(app))
    assert password not in text
    assert "select" not in text


def test_hostile_names_stay_text(redis_url):
    settings = {"url": redis_url, "name": HOSTILE, "leak_threshold": 0.01}
    with PoolKit(redis=settings, http=False, name=HOSTILE, watch=None) as kit:
        app = Dashboard(kit, access=LOCAL)
        over = threading.Event()

        def hold():
            with kit.redis.connection():
                over.wait(30)

        task = Task(hold, name=HOSTILE + "\udc80\0")
        eventually(lambda: pool(app)["holders"])
        answer = call(app, "/data.json")
        over.set()
        task.result()
        page = call(app, "/").body.decode()
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["pools"][0]["holders"][0]["thread"] == HOSTILE + "\udc80\0"
    assert answer.json()["kit"]["name"] == HOSTILE
    assert HOSTILE not in page


# -- its life ------------------------------------------------------------------------------------------


def test_figures_are_taken_as_long_as_the_kit_is_open(kit):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    kit.redis.get("a")
    eventually(lambda: len(shown(app)["frames"]) > 3)
    kit.close()
    told = shown(app)
    assert told["kit"]["state"] == told["kit"]["status"] == "closed"
    assert pool(app)["condition"] == "closed"
    assert pool(app)["now"]["operations"] == 1  # the last figures stay
    assert not any(thread.name == "poolkit-housekeeper" for thread in threading.enumerate())
    assert shown(app)["frames"] == told["frames"]


def test_one_that_is_made_when_the_kit_is_open_begins_at_once(kit):
    kit.redis.get("a")
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    eventually(lambda: shown(app)["frames"])


def test_one_that_is_dropped_takes_no_more_figures(kit):
    kit.redis.get("a")

    def used():
        app = Dashboard(kit, access=LOCAL, every=OFTEN)
        eventually(lambda: shown(app)["frames"])
        return weakref.ref(app._view._sampler.recording)

    recording = used()
    eventually(lambda: gc.collect() >= 0 and recording() is None)


def test_one_that_is_dropped_keeps_no_thread_once_the_kit_is_closed(kit):
    kit.redis.get("a")
    Dashboard(kit, access=LOCAL, every=3600)
    kit.close()
    assert not any(thread.name == "poolkit-housekeeper" for thread in threading.enumerate())


def test_two_dashboards_share_nothing(redis_url):
    made = [
        PoolKit(redis={"url": redis_url, "name": name}, http=False, name=name, watch=None)
        for name in ("one", "two")
    ]
    one, two = (Dashboard(kit, token=f"token-of-kit-{kit.name}", every=OFTEN) for kit in made)
    with made[0], made[1]:
        made[0].redis.get("a")
        first = {"HTTP_AUTHORIZATION": "Bearer token-of-kit-one"}
        assert call(one, "/data.json", **first).status == 200
        assert call(two, "/data.json", **first).status == 401
        second = {"HTTP_AUTHORIZATION": "Bearer token-of-kit-two"}
        told = call(two, "/data.json", **second).json()
        assert [pool["name"] for pool in told["pools"]] == ["two"]
        assert {event["pool"] for event in told["events"]} == {"two"}
        assert told["pools"][0]["now"]["operations"] == 0
        made[0].close()
        number = len(call(two, "/data.json", **second).json()["frames"])
        eventually(lambda: len(call(two, "/data.json", **second).json()["frames"]) > number)


def test_a_kit_without_pools_is_told():
    with PoolKit(http=False) as kit:
        app = Dashboard(kit, access=LOCAL, every=OFTEN)
        told = shown(app)
    assert told["pools"] == []
    assert told["kit"]["status"] == "healthy"


def test_pools_that_were_made_before_the_kit_are_told_too(redis_url):
    with PoolKit(redis=RedisPool(redis_url), http=HttpPool(), watch=None) as kit:
        assert pool(Dashboard(kit, access=LOCAL))["condition"] == "healthy"


def test_a_forked_child_tells_of_itself(redis_url):
    script = f"""
import json, os, sys, time
from poolkit import PoolKit
from poolkit.hosts.dashboard import LOCAL, Dashboard, condition
from tests.hosts.wsgi_calls import call

kit = PoolKit(redis={redis_url!r}, http=False, watch=None)
app = Dashboard(kit, access=LOCAL, every=0.02)
for _ in range(5):
    kit.redis.get("a")
while not call(app, "/data.json").json()["frames"]:
    time.sleep(0.01)
parent = call(app, "/data.json").json()
read, write = os.pipe()
if os.fork() == 0:
    fresh = call(app, "/data.json").json()
    kit.redis.get("a")
    while not call(app, "/data.json").json()["frames"]:
        time.sleep(0.01)
    used = call(app, "/data.json").json()
    assert len(app._view._sampler._recordings) == 1  # the parent's is not carried along
    kit.close()
    os.write(write, json.dumps([fresh, used]).encode())
    os._exit(0)
os.close(write)
with open(read) as file:
    fresh, used = json.load(file)
again = call(app, "/data.json").json()
kit.close()
print(json.dumps([parent, fresh, used, again]))
"""
    parent, fresh, used, again = json.loads(python(script))
    assert fresh["since"] is None
    assert fresh["pools"][0]["condition"] == "not opened"
    assert fresh["frames"] == []
    assert fresh["events"] == []
    assert used["pools"][0]["now"]["operations"] == 1
    assert used["frames"][0][0] == 1
    assert used["process"]["pid"] != parent["process"]["pid"]
    assert used["process"]["id"] != parent["process"]["id"]
    assert again["process"]["id"] == parent["process"]["id"]
    assert again["pools"][0]["now"]["operations"] == 5


# -- in a Flask app ------------------------------------------------------------------------------------


def test_it_is_a_flask_blueprint(kit):
    app = flask.Flask("shop")
    app.register_blueprint(Dashboard(kit, token=TOKEN).blueprint(), url_prefix="/admin/pools")
    client = app.test_client()
    auth = {"Authorization": f"Bearer {TOKEN}"}

    assert client.get("/admin/pools/").status_code == 401
    page = client.get("/admin/pools/", headers=auth)
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert client.get("/admin/pools/data.json", headers=auth).json["pools"][0]["name"] == "cache"
    assert client.get("/admin/pools", headers=auth).location.endswith("/admin/pools/")
    assert client.get("/admin/pools/nothing", headers=auth).status_code == 404
    assert client.head("/admin/pools/data.json", headers=auth).data == b""
    for method in ("post", "put", "delete", "options", "patch"):
        assert getattr(client, method)("/admin/pools/data.json", headers=auth).status_code == 405
    entered = client.get(f"/admin/pools/?token={TOKEN}", environ_overrides={"SCRIPT_NAME": "/shop"})
    assert entered.status_code == 303
    assert entered.headers["Location"].endswith("/shop/admin/pools/")
    assert "Path=/shop/admin/pools/;" in entered.headers["Set-Cookie"]


def test_the_prefix_of_a_blueprint_may_have_variables(kit):
    app = flask.Flask("shop")
    made = Dashboard(kit, token=TOKEN).blueprint()
    app.register_blueprint(made, url_prefix="/<tenant>/pools")
    client = app.test_client()
    auth = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/one/pools/", headers=auth).status_code == 200
    assert client.get("/one/pools/data.json", headers=auth).status_code == 200
    entered = client.get(f"/one/pools/?token={TOKEN}")
    assert "Path=/one/pools/;" in entered.headers["Set-Cookie"]


def test_two_blueprints_in_one_app_have_names_of_their_own(kit):
    app = flask.Flask("shop")
    app.register_blueprint(Dashboard(kit, access=allow).blueprint("one"), url_prefix="/one")
    app.register_blueprint(Dashboard(kit, token=TOKEN).blueprint("two"), url_prefix="/two")
    client = app.test_client()
    assert client.get("/one/").status_code == 200
    assert client.get("/two/").status_code == 401


def test_without_flask_all_but_the_blueprint_works():
    python(
        """
import sys
sys.modules["flask"] = None
from poolkit import PoolKit
from poolkit.hosts.dashboard import LOCAL, Dashboard, condition
dashboard = Dashboard(PoolKit(http=False), access=LOCAL)
try:
    dashboard.blueprint()
except ImportError as error:
    assert "poolkit[flask]" in str(error)
else:
    raise AssertionError
"""
    )
