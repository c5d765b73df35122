"""Every block of the pages runs, and what pages show as output is what comes out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

import poolkit
from poolkit import FirestorePool, HttpPool, PoolKit, PostgresPool, RedisPool
from tests.docs import world
from tests.docs.pages import PAGES, ROOT, Page, unknown_blocks

_numbers = itertools.count()


@pytest.fixture(scope="session")
def api() -> Iterator[str]:
    with world.service() as url:
        yield url


@pytest.fixture(scope="session")
def app_conninfo(postgres_server) -> Iterator[str]:
    with world.database(postgres_server) as conninfo:
        yield conninfo


@pytest.fixture
def open_page(request, app_conninfo, redis_url, api, tmp_path, monkeypatch) -> Iterator[Any]:
    """Give a maker of pages whose names and addresses lead to real servers."""
    monkeypatch.chdir(tmp_path)
    conninfo = app_conninfo
    world.fill(conninfo)
    with ExitStack() as stack:
        addresses = world.addresses(conninfo, redis_url, api)
        monkeypatch.setenv("POOLKIT_POSTGRES_CONNINFO", conninfo)
        monkeypatch.setenv("POOLKIT_REDIS_URL", redis_url)

        def make(path: Path) -> Page:
            text = path.read_text()
            pools: dict[str, Callable[[], Any]] = {
                "db": lambda: PostgresPool(conninfo, name="app", min_size=1),
                "cache": lambda: RedisPool(redis_url),
                "http": lambda: HttpPool(api),
            }
            if re.search(r"\bstore\.|FirestorePool", text):
                # Without an emulator the page is skipped.
                server = request.getfixturevalue("firestore_server")
                monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.emulator_host)
                project = f"docs-{next(_numbers)}"  # which is empty
                addresses['"my-project"'] = f'"{project}"'
                pools["store"] = lambda: FirestorePool(project)
            if "nodes=" in text and ", password=" in text:
                cluster = request.getfixturevalue("redis_cluster")
                addresses.update(world.cluster_addresses(cluster))
            kit = PoolKit(postgres=conninfo, redis=redis_url, http=api)
            page = Page(path, addresses, {"folder": tmp_path, "kit": kit}, pools)
            stack.callback(_tidy, page.names, set(REGISTRY._collector_to_names))
            return page

        yield make


def _tidy(names: dict[str, Any], collectors: set[Any]) -> None:
    """Close what a page left open, as the end of a program would."""
    for value in list(names.values()):
        if isinstance(value, PoolKit | PostgresPool | RedisPool | HttpPool | FirestorePool):
            value.close()
    poolkit.configure(None)
    for collector in set(REGISTRY._collector_to_names) - collectors:
        REGISTRY.unregister(collector)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_is_run_or_excused(path):
    assert unknown_blocks(path.read_text()) == []


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if "code-block::" in path.read_text()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_blocks_of_a_page_do_what_it_says(open_page: Callable[[Path], Page], path):
    ran, excuses = open_page(path).run()

    assert ran + len(excuses) > 0


PAGE = """
.. code-block:: python

    {python}

.. code-block:: text

    {text}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "page.rst"
    path.write_text(text)
    return path


def test_a_block_that_fails_fails_its_page_at_its_line(open_page, tmp_path):
    page = open_page(write(tmp_path, PAGE.format(python='db.query("select nonsense")', text="x")))

    with pytest.raises(Exception, match="nonsense") as caught:
        page.run()

    assert any(Path(e.path).name == "page.rst" and e.lineno == 3 for e in caught.traceback)


def test_output_that_differs_fails_its_page_and_numbers_may_differ(open_page, tmp_path):
    printing = 'print(db.query("select 12.5"), 7)'
    open_page(write(tmp_path, PAGE.format(python=printing, text="[(Decimal('3.1'),)] 12"))).run()

    with pytest.raises(AssertionError):
        open_page(write(tmp_path, PAGE.format(python=printing, text="[] 12"))).run()
    with pytest.raises(AssertionError, match="nothing was printed"):
        open_page(write(tmp_path, PAGE.format(python="pass", text="[] 12"))).run()


def test_a_block_that_nothing_runs_is_noticed():
    page = """
Like this::

    pool.query()

.. code-block:: perl

.. skip: next

.. code-block:: python
"""
    assert [line.partition(":")[0] for line in unknown_blocks(page)] == [
        "line 2",
        "line 6",
        "line 8",
    ]


def test_commands_are_run_and_their_output_is_compared(open_page, tmp_path):
    block = ".. code-block:: console\n\n    $ echo {}\n    7 pools\n"
    open_page(write(tmp_path, block.format("3 pools"))).run()

    with pytest.raises(AssertionError):
        open_page(write(tmp_path, block.format("no pools"))).run()
