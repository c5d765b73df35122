"""The headline as a document, and the part of it that a README wants."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import rest
from benchmarks.headline import (
    CLAIM_HEADERS,
    GOAL_HEADERS,
    LEFT_OUT_HEADERS,
    README_HEADERS,
    WIN_HEADERS,
    Headline,
    Row,
)


def document(headline: Headline, charts: Sequence[str]) -> str:
    """Return all of it in reStructuredText; ``charts`` are file names beside the document."""
    quick = ", a quick run: only whether it works" if headline.quick else ""
    parts = [rest.heading("Measured", "="), f"{headline.at}{quick}. {headline.summary}."]
    if headline.warning:
        parts.append(f".. warning:: {rest.escaped(headline.warning)}")
    parts += _section("Goals", GOAL_HEADERS, headline.goals())
    parts += _section("What the guide claims", CLAIM_HEADERS, headline.claims())
    parts += _section("Where a peer wins", WIN_HEADERS, headline.wins())
    parts += _section("Left out", LEFT_OUT_HEADERS, headline.reasons())
    failures = [(said.name, failure) for said in headline.said for failure in said.failures]
    parts += _section("Failed", ("bench", "why"), failures)
    parts += _section("The machine", ("what", ""), list(headline.machine.items()))
    if charts:
        parts.append(rest.heading("Charts"))
        questions = {f"{said.name}.png": said.question for said in headline.said}
        parts += [f".. figure:: {chart}\n   :alt: {questions[chart]}" for chart in charts]
    return "\n\n".join(parts) + "\n"


def readme(headline: Headline) -> str:
    """Return what a README says of it: on which machine, goals beside figures, claims, where peers win."""
    machine = headline.machine
    parts = [
        rest.escaped(
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, "
            f"{machine['kernel']}, {machine['python']}; servers on the same machine; "
            f"medians of interleaved rounds, {headline.at[:10]}:"
        ),
        _table(README_HEADERS, headline.readme()),
        "What guides to pooling claim, and what was measured:",
        _table(CLAIM_HEADERS, headline.claims()),
    ]
    if wins := headline.wins():
        parts += ["Where a peer wins:", _table(WIN_HEADERS, wins)]
    return "\n\n".join(parts) + "\n"


def _section(title: str, headers: Row, rows: Sequence[Row]) -> list[str]:
    return [rest.heading(title), _table(headers, rows)] if rows else []


def _table(headers: Row, rows: Sequence[Row]) -> str:
    return rest.table(headers, [[rest.escaped(cell) for cell in row] for row in rows])
