"""``poolkit demo``: many concurrent requests with and without pools, a leak that is named, an outage, a slow host."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from poolkit.core.errors import PoolKitError

if TYPE_CHECKING:
    from .scene import Outcome, Scene

_OVERTIME = 30.0
"""Seconds beyond --seconds for what is not measured: starting servers, the finales, cleaning up."""


class TimeIsUp(Exception):
    """The demo has taken too long, whatever it hangs in."""


@click.command(name="demo")
@click.option(
    "--threads",
    type=click.IntRange(1, 1000),
    default=500,
    show_default=True,
    help="Concurrent requests: each thread makes one at a time.",
)
@click.option(
    "--requests-per-thread", type=click.IntRange(1), default=5, show_default=True, metavar="N"
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=90.0,
    show_default=True,
    help="Stop making requests after this time; the contenders share it evenly.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of tables.")
def command(threads: int, requests_per_thread: int, seconds: float, as_json: bool) -> None:
    """Serve many concurrent requests without a pool and with pools, and compare.

    Starts private servers, and removes them at the end. With PostgreSQL it shows throughput,
    latency, connections and errors, then leaks a connection on purpose to show how the pool names
    it. With Redis in front it shows the same and the hit rate, then kills Redis under requests. With
    an HTTPS service it shows the same, then calls a slow host too.
    """
    try:
        with _time_limit(seconds + _OVERTIME):
            outcomes = _play(threads, requests_per_thread, monotonic() + seconds)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        raise SystemExit(130) from None
    except TimeIsUp:
        raise click.ClickException(f"gave up after {seconds + _OVERTIME:g} s") from None
    except PoolKitError as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from error

    from . import report

    if as_json:
        click.echo(json.dumps(report.as_json(outcomes), indent=2))
    else:
        for outcome in outcomes:
            report.print_outcome(outcome)
    broken = [
        f"{run.contender}: {message}"
        for outcome in outcomes
        for run in outcome.runs
        for message in run.measured.broken
    ]
    if broken:
        raise click.ClickException("requests failed unexpectedly:\n  " + "\n  ".join(broken))


def _play(threads: int, requests_per_thread: int, until: float) -> list[Outcome]:
    from .cache import CacheScene
    from .display import display
    from .http import HttpScene
    from .postgres import PostgresScene
    from .scene import play

    scenes: list[Scene[Any]] = [PostgresScene(), CacheScene(), HttpScene()]
    with display() as shown:
        return [
            play(
                scene,
                scene.workload(threads=threads, requests_per_thread=requests_per_thread),
                until=until
                - (until - monotonic()) * (len(scenes) - number) / (len(scenes) - number + 1),
                display=shown,
            )
            for number, scene in enumerate(scenes, start=1)
        ]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeIsUp` in the main thread after *seconds*, where the system has alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
