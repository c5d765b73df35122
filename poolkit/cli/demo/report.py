"""Show what a scene came to: as tables for people, as JSON for programs."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import chain

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .scene import Claim, Finale, Leak, Outage, Outcome, Run, SlowHost
from .workload import Measured, milliseconds

_FAILURES_SHOWN = 3
_WIDTH_IN_A_FILE = 84


def print_outcome(outcome: Outcome) -> None:
    """Print *outcome* on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_IN_A_FILE
    workload = outcome.workload
    lines = [
        Text(),
        Text(outcome.backend, style="bold"),
        Text(
            f"{workload.threads:,} threads start together; each makes {workload.requests_per_thread}"
            " requests, one after another."
        ),
        Text(outcome.request),
    ]
    for part in chain(
        lines,
        [Text(), _runs_table(outcome.runs)],
        map(Text, _remarks(outcome.runs)),
        [Text(), _claims_table(outcome.claims), Text()],
        _finale_lines(outcome.finale),
    ):
        # Lines stay whole, so that a call site can be found in them and copied.
        console.print(part, soft_wrap=isinstance(part, Text))


def as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return *outcomes* as what :mod:`json` can write. Times are in seconds."""
    return {
        "poolkit": version("poolkit"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "scenes": [
            {
                "title": outcome.title,
                "backend": outcome.backend,
                "threads": outcome.workload.threads,
                "requests_per_thread": outcome.workload.requests_per_thread,
                "runs": [_run_as_json(run) for run in outcome.runs],
                "claims": [
                    {"claim": claim.text, "measured": claim.measured, "met": claim.met}
                    for claim in outcome.claims
                ],
                **_finale_as_json(outcome.finale),
            }
            for outcome in outcomes
        ],
    }


def _finale_as_json(finale: Finale) -> dict[str, object]:
    if isinstance(finale, Leak):
        return {
            "leak": {
                "error": finale.error,
                "thread_name": finale.thread_name,
                "call_site": finale.call_site,
                "held_for": finale.held_for,
                "stack": finale.stack,
                "leases_after": finale.leases_after,
            }
        }
    if isinstance(finale, SlowHost):
        return {
            "slow_host": {
                "threads": finale.threads,
                "slow_threads": finale.slow_threads,
                "takes": finale.takes,
                "held": finale.held,
                "alone": _measured_as_json(finale.alone),
                "beside": _measured_as_json(finale.beside),
            }
        }
    return {
        "outage": {
            "threads": finale.threads,
            "answered": finale.measured.answered,
            "errors": finale.measured.errors,
            "error_messages": dict(finale.measured.refused + finale.measured.broken),
            "waited": finale.waited,
            "longest": _number(finale.measured.percentile(100)),
            "down_for": finale.down_for,
            "ready_after": finale.ready_after,
            "first_answer_after": _number(finale.first_answer_after),
            "probes": finale.probes,
        }
    }


def _run_as_json(run: Run) -> dict[str, object]:
    return {
        "contender": run.contender,
        **_measured_as_json(run.measured),
        "connections_peak": run.connections_peak,
        "connections_opened": run.connections_opened,
        "hit_rate": run.hit_rate,
    }


def _measured_as_json(measured: Measured) -> dict[str, object]:
    return {
        "requests": measured.asked,
        "answered": measured.answered,
        "errors": measured.errors,
        "error_messages": dict(measured.refused + measured.broken),
        "cut_short": measured.cut_short,
        "elapsed": measured.elapsed,
        "throughput": measured.throughput,
        "p50": _number(measured.percentile(50)),
        "p99": _number(measured.percentile(99)),
        "max": _number(measured.percentile(100)),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _runs_table(runs: Sequence[Run]) -> Table:
    table = _table()
    table.add_column(no_wrap=True)
    cached = _has_cache(runs)
    for heading in ("req/s", "p50 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="right")
    for heading in (*(["hits"] if cached else []), "connections", "opened", "errors"):
        table.add_column(heading, justify="right")
    for run in runs:
        measured = run.measured
        table.add_row(
            run.contender,
            f"{measured.throughput:,.0f}",
            *(milliseconds(measured.percentile(percent)) for percent in (50, 99, 100)),
            *([_percent(run.hit_rate)] if cached else []),
            f"{run.connections_peak:,}",
            f"{run.connections_opened:,}",
            Text(f"{measured.errors:,}", style="red" if measured.errors else ""),
        )
    return table


def _has_cache(runs: Sequence[Run]) -> bool:
    return any(run.hit_rate is not None for run in runs)


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.0f} %"


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def _remarks(runs: Sequence[Run]) -> Iterator[str]:
    yield ""
    yield "Req/s and latencies: of the requests that were answered, all waiting included."
    if _has_cache(runs):
        yield "Hits: the part of the reads for which the cache had the value, as it counts itself."
        yield "Connections: the most at one time to both servers, sampled there. Opened: in all."
    else:
        yield "Connections: the most at one time, sampled on the server. Opened: in all."
    for run in runs:
        measured = run.measured
        failures = (measured.refused + measured.broken).most_common()
        for message, count in failures[:_FAILURES_SHOWN]:
            yield f"{run.contender}: {count:,} of {measured.asked:,} requests failed: {message}"
        if len(failures) > _FAILURES_SHOWN:
            yield f"{run.contender}: and {len(failures) - _FAILURES_SHOWN} other messages"
        if measured.cut_short:
            yield (
                f"{run.contender}: time was up after {measured.elapsed:.0f} s, with"
                f" {measured.cut_short:,} requests still to make"
            )


def _claims_table(claims: Sequence[Claim]) -> Table:
    table = _table()
    for heading in ("Claimed of pools", "Measured in this run", ""):
        table.add_column(heading)
    verdicts = {True: ("met", "green"), False: ("not met", "red"), None: ("not tested", "yellow")}
    for claim in claims:
        table.add_row(claim.text, claim.measured, Text(*verdicts[claim.met]))
    return table


def _finale_lines(finale: Finale) -> Iterator[Text]:
    if isinstance(finale, Leak):
        return _leak_lines(finale)
    if isinstance(finale, SlowHost):
        return _slow_host_lines(finale)
    return _outage_lines(finale)


def _leak_lines(leak: Leak) -> Iterator[Text]:
    yield Text("A leaked connection", style="bold")
    yield Text("One of a pool's two connections was never given back, and the other was in use.")
    yield Text("The next request got this error:")
    yield Text()
    for line in leak.error.splitlines():
        yield Text(f"  {line}")
    yield Text()
    yield Text("When all others had given theirs back, pool.leases() still had:")
    yield Text()
    yield Text(
        f"  {leak.thread_name!r} for {leak.held_for:.1f} s, acquired at {leak.call_site}",
        style="bold red",
    )
    yield Text()


def _outage_lines(outage: Outage) -> Iterator[Text]:
    measured = outage.measured
    yield Text(f"{outage.product} goes away, and comes back", style="bold")
    yield Text(
        f"{outage.threads} threads made requests through poolkit's pools when {outage.product} was killed."
        f" It was started again\n{outage.down_for:.1f} s later,"
        f" and took commands after {milliseconds(outage.ready_after)} ms."
    )
    yield Text()
    yield Text(f"  {outage.waited:,} requests waited for it, and were answered", style="bold")
    if not math.isnan(outage.first_answer_after):
        yield Text(
            f"  the first {milliseconds(outage.first_answer_after)} ms after the new start;"
            f" the slowest request took {measured.percentile(100):.1f} s in all"
        )
    yield Text(f"  the pool looked for it {outage.probes} times meanwhile, one probe at a time")
    yield Text(
        f"  {measured.errors:,} of {measured.answered + measured.errors:,} requests failed",
        style="red" if measured.errors else "",
    )
    for message, count in (measured.refused + measured.broken).most_common(_FAILURES_SHOWN):
        yield Text(f"  {count:,}: {message}")
    yield Text()


def _slow_host_lines(finale: SlowHost) -> Iterator[Text]:
    yield Text("A host that is slow", style="bold")
    yield Text(
        f"{finale.slow_threads} threads called another host, which takes {finale.takes:g} s to answer,"
        f" and had all {finale.held} connections\nthat the pool has for it."
        f" {finale.threads} threads called the quick one through the same pool:"
    )
    yield Text()
    for when, measured in (("alone", finale.alone), ("beside it", finale.beside)):
        yield Text(
            f"  {when:<10} {measured.throughput:,.0f} req/s, p99"
            f" {milliseconds(measured.percentile(99))} ms, {measured.errors} errors",
            style="bold",
        )
    for message, count in finale.beside.broken.most_common(_FAILURES_SHOWN):
        yield Text(f"  {count:,}: {message}")
    yield Text()
