"""A script: it counts the words of some pages, side by side, and keeps the figures in PostgreSQL.

With a server of its own, for a look::

    python examples/script.py https://example.com/ https://example.org/

With yours::

    POOLKIT_POSTGRES_CONNINFO=postgresql://app@db/app python examples/script.py https://example.com/
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from poolkit import PoolKit, deadline, embedded
from poolkit.errors import PoolKitError

TABLE = "create table if not exists words (url text primary key, count int not null)"
KEEP = "insert into words values (%s, %s) on conflict (url) do update set count = excluded.count"


def count(kit: PoolKit, url: str) -> str:
    """Count the words at *url*, within five seconds for all of it, and return a line about it."""
    try:
        with deadline(
            5
        ):  # in the thread that does the work: it would not be in force in another one
            page = kit.http.get(url)
            words = len(page.data.split())
            kit.postgres.execute(KEEP, [url, words], idempotent=True)
    except PoolKitError as error:
        return f"{url}: {str(error).splitlines()[0]}"
    return f"{url}: {words} words"


def main(kit: PoolKit, urls: list[str]) -> None:
    """Count the words at all *urls*, ten at a time."""
    kit.postgres.execute(TABLE)
    with ThreadPoolExecutor(10) as threads:
        for line in threads.map(lambda url: count(kit, url), urls):
            print(line)
    ((pages, words),) = kit.postgres.query("select count(*), coalesce(sum(count), 0) from words")
    print(f"{pages} pages, {words} words")


if __name__ == "__main__":
    if "POOLKIT_POSTGRES_CONNINFO" in os.environ:
        with PoolKit.from_env() as kit:
            main(kit, sys.argv[1:])
    else:
        with embedded.postgres() as conninfo, PoolKit(postgres=conninfo) as kit:
            main(kit, sys.argv[1:])
