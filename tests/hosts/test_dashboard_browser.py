"""The dashboard as people see it, in a real browser: it moves, it explains, and it can be used by all."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from poolkit import PoolKit, WatchSettings
from poolkit.embedded import HttpServer
from poolkit.hosts.dashboard import LOCAL, Dashboard

from ..core.support import LONG, Task, eventually

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # which is small in containers
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PICTURES = os.environ.get("POOLKIT_SCREENSHOTS")
"""Where to put pictures of the page; with it, there is more to see, and the tests take a minute longer."""

OFTEN = 0.2 if PICTURES else 0.1
"""Seconds between two looks of the page."""

CHECKS = Path(__file__).with_name("accessibility.js")

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser():
    """Give a browser without a window."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


class Look:
    """A page in a browser, with all that it asked for and complained of."""

    def __init__(self, page, url):
        self.page = page
        self.url = url
        self.complaints = []
        self.asked = []
        page.set_default_timeout(1000 * LONG / 2)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def text(self, selector):
        """Return what is written there."""
        return self.page.locator(selector).first.inner_text()

    def condition(self, backend):
        """Return the condition of a pool, in a word."""
        return self.text(f"#pool-{backend} .head .condition").split()[-1]

    def await_condition(self, backend, word):
        """Wait until the condition of a pool is *word*."""
        self.page.locator(f"#pool-{backend} .head .condition", has_text=word).wait_for()

    def points(self, backend, chart, line):
        """Return the heights of a line of a chart: how far below the top they are."""
        found = self.page.locator(f"#pool-{backend} figure:nth-child({chart}) polyline.{line}")
        shape = found.last.get_attribute("points")
        return [float(point.split(",")[1]) for point in shape.split()]

    def picture(self, name):
        """Take a picture of what is in the window, if pictures are wanted."""
        if PICTURES:
            from PIL import Image

            path = Path(PICTURES, f"dashboard-{name}.png")
            self.page.screenshot(path=path)
            with Image.open(path) as image:  # a third of the bytes, and no colour lost
                few = image.convert("RGB").quantize(
                    256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
                )
            few.save(path, optimize=True)


@pytest.fixture
def visit(browser):
    """Give a function that opens a page; afterwards nothing was complained of, and nothing came from elsewhere."""
    looks = []
    with ExitStack() as stack:

        def open_page(url, *, ready=True, **options):
            context = stack.enter_context(browser.new_context(**options))
            look = Look(context.new_page(), url)
            looks.append(look)
            look.page.goto(url)
            if ready:
                look.page.locator("#kit:not(:text-is('…'))").wait_for()
            return look

        yield open_page
        for look in looks:
            assert look.complaints == []
            origin = urlsplit(look.url).netloc
            assert {urlsplit(url).netloc for url in look.asked} == {origin}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = False


class _Quiet(WSGIRequestHandler):
    timeout = 5  # a browser may open a connection before it has something to ask

    def handle(self):
        with suppress(TimeoutError):
            super().handle()

    def log_message(self, *args):
        """Say nothing."""


@contextmanager
def served(app):
    """Serve *app* on this machine for the length of the block, which gets its URL."""
    server = make_server("127.0.0.1", 0, app, _Server, _Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def held(pool, count=1):
    """Have threads hold *count* connections of a pool for the length of the block."""
    over = threading.Event()

    def forgetful_view():
        with pool.connection():
            over.wait(2 * LONG)

    tasks = [Task(forgetful_view, name=f"request-{number}") for number in range(count)]
    try:
        eventually(lambda: sum("forgetful_view" in h.call_site for h in pool.leases()) >= count)
        yield
    finally:
        over.set()
        for task in tasks:
            task.result()


@contextmanager
def load(*uses):
    """Have a few threads use pools for the length of the block."""
    over = threading.Event()

    def work(number):
        while not over.wait(0.004 * (1 + number)):
            for use in uses:
                use()

    tasks = [Task(work, number, name=f"worker-{number}") for number in range(4)]
    try:
        yield
    finally:
        over.set()
        for task in tasks:
            task.result()


@pytest.fixture
def kit(conninfo, redis_url):
    """Give an open kit of three pools, watched for leaks."""
    with PoolKit(
        name="shop",
        postgres={
            "conninfo": conninfo,
            "name": "orders",
            "min_size": 2,
            "max_size": 4,
            "leak_threshold": 1.0,
            "acquire_timeout": 60,
        },
        redis={"url": redis_url, "name": "cache"},
        http={"name": "payments"},
        watch=WatchSettings(health_every=3600, leaks_every=0.3),
    ) as kit:
        yield kit


@pytest.fixture
def url(kit):
    """Give the address of the dashboard of the kit."""
    with served(Dashboard(kit, access=LOCAL, every=OFTEN)) as url:
        yield url


@pytest.mark.timeout(180)
def test_charts_move_under_load(kit, url, visit):
    look = visit(url, viewport={"width": 1280, "height": 790})
    look.page.locator("#pool-redis figure:nth-child(3) polyline").nth(2).wait_for(state="attached")
    assert min(look.points("redis", 3, "area")) == max(look.points("redis", 3, "area"))

    with (
        HttpServer() as service,
        load(
            lambda: kit.postgres.query("select pg_sleep(0.001)"),
            lambda: kit.redis.set("a", "b"),
            lambda: kit.http.get(f"{service}/bytes/100"),
        ),
    ):
        wait = 50 if PICTURES else 1.5
        end = time.monotonic() + wait
        while time.monotonic() < end:
            look.page.wait_for_timeout(100)
            if PICTURES and int(time.monotonic() * 3) % 7 == 0:
                kit.postgres.query("select pg_sleep(0.05)")
        for backend in ("postgres", "redis", "http"):
            busy = look.points(backend, 3, "area")
            assert min(busy) < max(busy) - 20, backend  # it rose
            label = look.page.locator(f"#pool-{backend} svg").nth(2).get_attribute("aria-label")
            assert label.startswith("Throughput, a second over the last minutes. operations: ")
            assert not label.startswith(
                "Throughput, a second over the last minutes. operations: 0 now"
            )
        assert look.text("#overview tbody tr:nth-child(1) td:nth-child(6)") not in ("0", "–")
        look.picture("light")
        look.page.emulate_media(color_scheme="dark")
        look.picture("dark")


def test_a_leak_appears_with_its_stack_and_goes(kit, url, visit):
    look = visit(url)
    nobody = look.page.locator("#pool-postgres .nobody")
    nobody.wait_for()
    with held(kit.postgres):
        row = look.page.locator("#pool-postgres .holders tbody tr", has_text="request-0")
        row.wait_for()
        row.locator(".late").wait_for()  # overdue, after a second
        assert "test_dashboard_browser.py" in row.locator("td.place").inner_text()
        row.locator("summary").click()
        row.locator(".stack li", has_text="forgetful_view").wait_for()
        look.page.wait_for_timeout(1000 * 3 * OFTEN)
        assert row.locator("details").get_attribute("open") is not None  # it stays open
        look.page.locator("#events .error", has_text="overdue").wait_for()
    nobody.wait_for()
    look.page.locator("#events .good", has_text="given back").wait_for()


def test_what_is_below_does_not_jump_when_holders_come_and_go(kit, url, visit):
    look = visit(url)
    look.page.locator("#pool-postgres .nobody").wait_for()
    place = "document.querySelector('#pool-redis').offsetTop"
    with held(kit.postgres, 3):
        look.page.locator("#pool-postgres .holders tbody tr").nth(2).wait_for()
        before = look.page.evaluate(place)
    look.page.locator("#pool-postgres .nobody").wait_for()
    assert look.page.evaluate(place) == before


def test_a_pool_goes_down_and_comes_back(own_redis, visit):
    server = own_redis()
    redis = {"url": server.url, "name": "cache", "offline_queue": False}
    watch = WatchSettings(health_every=0.3)
    with PoolKit(redis=redis, http=False, watch=watch) as kit:
        with served(Dashboard(kit, access=LOCAL, every=OFTEN)) as url:
            look = visit(url)
            look.await_condition("redis", "healthy")
            assert look.text("#news") == ""
            server.kill()
            look.await_condition("redis", "unavailable")
            assert "refused" in look.text("#pool-redis .reasons")
            assert "unavailable" in look.text("#overall")
            assert "Pool cache is unavailable" in look.page.locator("#news").text_content()
            server.start()
            look.await_condition("redis", "healthy")
            assert look.page.locator("#pool-redis .reasons li").count() == 0
            assert look.page.locator("#news").text_content().startswith("Pool cache is healthy")
            look.page.locator("#events .good", has_text="ready").first.wait_for()


@pytest.mark.timeout(180)
def test_an_exhausted_pool_explains_itself(kit, url, visit):
    look = visit(url, viewport={"width": 1280, "height": 1000})
    if PICTURES:
        with load(lambda: kit.postgres.query("select pg_sleep(0.002)")):
            look.page.wait_for_timeout(25_000)
    with held(kit.postgres, 4):
        waiters = [Task(kit.postgres.query, "select 1", name=f"waiter-{n}") for n in range(3)]
        look.await_condition("postgres", "exhausted")
        look.page.locator("#pool-postgres .late").first.wait_for()
        if PICTURES:
            look.page.wait_for_timeout(8_000)
        else:
            look.page.wait_for_timeout(1000 * 2 * OFTEN)
        why = look.text("#pool-postgres .shortage")
        assert "Why orders is exhausted" in why
        assert "All 4 connections are lent, and 3 threads wait" in why
        assert "Held longest by thread 'request-" in why
        assert "What to do" in why
        assert "leak_threshold (1 s)" in why
        assert look.text("#pool-postgres figure:nth-child(2) .legend b") == "3"
        assert accessibility(look) == []
        look.picture("exhausted")
    for waiter in waiters:
        waiter.result()
    look.await_condition("postgres", "healthy")
    assert not look.page.locator("#pool-postgres .shortage").is_visible()


def test_everything_can_be_done_with_the_keyboard(kit, url, visit):
    with held(kit.postgres):
        look = visit(url)
        look.page.locator("#pool-postgres summary").wait_for()
        keys = look.page.keyboard
        focused = "document.activeElement.matches('%s')"
        seen = []
        for _ in range(12):
            keys.press("Tab")
            seen.append(look.page.evaluate("document.activeElement.textContent.trim()"))
            outline = look.page.evaluate(
                "(s => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)"
                "(getComputedStyle(document.activeElement))"
            )
            assert outline or seen[-1] == "", seen[-1]
            if look.page.evaluate(focused % "summary"):
                break
        assert seen[0] == "Skip to the pools"
        assert "Pause" in seen
        assert seen[-1].startswith("Stack of request-0")
        keys.press("Enter")
        look.page.locator("#pool-postgres .stack li").first.wait_for()
        look.page.wait_for_timeout(1000 * 3 * OFTEN)
        assert look.page.evaluate(focused % "summary")  # new figures don't take the focus away

        look.page.focus("#pause")
        keys.press("Space")
        assert look.page.get_attribute("#pause", "aria-pressed") == "true"
        before = len(look.asked)
        look.page.wait_for_timeout(1000 * 4 * OFTEN)
        assert len(look.asked) <= before + 1  # one may have been under way
        keys.press("Space")
        eventually_asks(look, len(look.asked) + 1)


def eventually_asks(look, number):
    """Wait until the page has asked for *number* things."""
    end = time.monotonic() + LONG
    while len(look.asked) < number:
        assert time.monotonic() < end
        look.page.wait_for_timeout(50)


def test_a_hidden_page_asks_for_nothing(url, visit):
    look = visit(url)
    hide = (
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    look.page.evaluate(hide, True)
    look.page.wait_for_timeout(1000 * OFTEN)
    before = len(look.asked)
    look.page.wait_for_timeout(1000 * 5 * OFTEN)
    assert len(look.asked) == before
    look.page.evaluate(hide, False)
    eventually_asks(look, before + 2)


def test_it_can_be_read_by_everybody_in_light_and_dark(kit, url, visit):
    with held(kit.postgres):
        look = visit(url, color_scheme="light", reduced_motion="reduce")
        look.page.locator("#pool-postgres .late").wait_for()
        for scheme in ("light", "dark"):
            look.page.emulate_media(color_scheme=scheme)
            assert accessibility(look) == []
            ground = look.page.evaluate("getComputedStyle(document.body).backgroundColor")
            dark = sum(map(int, re.findall(r"\d+", ground))) < 3 * 64
            assert dark == (scheme == "dark")
            assert look.page.evaluate("document.getAnimations().length") == 0


def test_nothing_is_wider_than_the_window(conninfo, visit):
    postgres = {"conninfo": conninfo, "name": "orders-of-all-customers", "leak_threshold": 0.1}
    redis = {"url": "redis://127.0.0.1:1", "name": "cache", "offline_queue": False}
    with ExitStack() as stack:
        kit = stack.enter_context(PoolKit(postgres=postgres, redis=redis, name="shop"))
        url = stack.enter_context(served(Dashboard(kit, access=LOCAL, every=OFTEN)))
        stack.enter_context(held(kit.postgres))
        look = visit(url)
        look.await_condition("redis", "unavailable")  # the longest word
        look.page.locator("#pool-postgres summary").first.click()
        look.page.locator("#pool-postgres .stack li").first.wait_for()
        for width in (360, 640, 1280):
            look.page.set_viewport_size({"width": width, "height": 800})
            look.page.wait_for_timeout(1000 * 2 * OFTEN)
            assert look.page.evaluate("document.documentElement.scrollWidth") <= width
            assert look.page.evaluate(SPILLING) == []
            room = look.page.locator("#pool-postgres .holding").evaluate("e => e.offsetHeight")
            needed = look.page.locator("#pool-postgres table").evaluate("e => e.offsetHeight")
            assert needed <= room < needed + 60
            assert accessibility(look) == []


SPILLING = """() => [...document.querySelectorAll("main td, main th, main li, main p, main dd, svg")]
    .filter((e) => e.checkVisibility() && !e.closest(".unseen, thead"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.outerHTML.slice(0, 100))"""


def test_hostile_names_are_text(redis_url, visit):
    redis = {"url": redis_url, "name": HOSTILE, "leak_threshold": 0.1}
    watch = WatchSettings(leaks_every=0.1)
    with PoolKit(redis=redis, http=False, name=HOSTILE, watch=watch) as kit:
        over = threading.Event()

        def hold():
            with kit.redis.connection():
                over.wait(2 * LONG)

        task = Task(hold, name=HOSTILE)
        try:
            with served(Dashboard(kit, access=LOCAL, every=OFTEN)) as url:
                look = visit(url)
                look.page.on("dialog", lambda dialog: look.complaints.append(dialog.message))
                look.page.locator("#events .error", has_text="overdue").wait_for()
                look.page.locator(".holders tbody th").wait_for()
                assert look.text(".holders tbody th") == HOSTILE
                assert look.text("#pool-redis h2 .name") == HOSTILE
                assert look.text("#kit") == HOSTILE
                assert look.page.locator("img, main script").count() == 0
        finally:
            over.set()
            task.result()


def test_the_token_opens_it_and_does_not_stay_in_the_address(kit, visit):
    token = "0123456789-abcdef"
    with served(Dashboard(kit, token=token, every=OFTEN)) as url:
        look = visit(f"{url}?token={token}")
        assert look.page.url == url
        look.page.reload()
        look.await_condition("redis", "healthy")
        assert look.page.evaluate("document.cookie") == ""
        look.complaints.clear()

        stranger = visit(url, ready=False)
        assert "shown to those who have its token" in stranger.page.content()
        stranger.complaints.clear()  # the browser itself says that it got a 401


def test_a_server_that_goes_away_is_told_and_noticed_when_it_is_back(kit, visit):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    answers = threading.Event()
    answers.set()

    def frail(environ, start_response):
        if not answers.is_set() and environ["PATH_INFO"] == "/data.json":
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"later"]
        return app(environ, start_response)

    with served(frail) as url:
        look = visit(url)
        answers.clear()
        look.page.locator("#trouble", has_text="the server said 503").wait_for()
        answers.set()
        look.page.locator("#trouble").wait_for(state="hidden")
        look.complaints.clear()  # the browser itself says that it got a 503


def test_of_several_processes_it_stays_with_one_and_offers_the_others(tmp_path, redis_url, visit):
    tmp_path.joinpath("shop.py").write_text(
        textwrap.dedent(
            f"""
            from poolkit import PoolKit
            from poolkit.hosts.dashboard import LOCAL, Dashboard

            kit = PoolKit(redis={redis_url!r}, http=False, name="shop", watch=None)
            dashboard = Dashboard(kit, access=LOCAL, every={OFTEN})

            def app(environ, start_response):
                kit.redis.get("a")
                return dashboard(environ, start_response)
            """
        )
    )
    with gunicorn(tmp_path, "shop:app", workers=2) as url:
        look = visit(url)
        look.page.locator("#process option").nth(1).wait_for(state="attached")
        first, other = look.page.locator("#process option").all_inner_texts()
        chosen = look.page.locator("#process").evaluate("e => e.selectedOptions[0].text")
        for _ in range(5):
            look.page.wait_for_timeout(1000 * OFTEN)
            assert f"Process {chosen} on" in look.text("#about")
        wanted = other if chosen == first else first
        look.page.select_option("#process", label=wanted)
        assert f"Process {wanted} on" in look.text("#about")
        assert accessibility(look) == []


def test_it_leaves_a_process_when_others_have_answered_for_too_often_to_be_chance(kit, visit):
    app = Dashboard(kit, access=LOCAL, every=OFTEN)
    ended = threading.Event()
    asked = 0

    def one_of_two(environ, start_response):
        """Answer as process 1 each tenth time, else as process 2."""
        nonlocal asked
        if environ["PATH_INFO"] != "/data.json":
            return app(environ, start_response)
        data = json.loads(b"".join(app(environ, lambda *_: None)))
        pid = 2 if ended.is_set() or asked % 10 else 1
        asked += 1
        data["process"] |= {"id": f"process-{pid}", "unused": f"unused-{pid}", "pid": pid}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(data).encode()]

    with served(one_of_two) as url:
        look = visit(url)
        eventually(lambda: asked > 40)
        assert "Process 1 on" in look.text("#about")
        ended.set()
        look.page.locator("#about", has_text="Process 2 on").wait_for(timeout=10_000)


@contextmanager
def gunicorn(folder, app, *, workers):
    """Run gunicorn for the length of the block, which gets its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(workers), app]
    process = subprocess.Popen(
        [*command, "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "2"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(folder)])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def listens():
        assert process.poll() is None, "gunicorn has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def accessibility(look):
    """Return what would keep somebody from using the page."""
    return look.page.evaluate(CHECKS.read_text())
