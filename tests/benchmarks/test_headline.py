"""The headline says what was measured beside what was to be, plainly, also where others are better."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import answers, claims, machine
from benchmarks.__main__ import main
from benchmarks.claims import Claim, Evidence, saved
from benchmarks.document import document, readme
from benchmarks.harness import Plan
from benchmarks.headline import Headline, Said
from benchmarks.report import CONTENT, DOCUMENT, Report
from benchmarks.targets import P99, THROUGHPUT, Finding, Target, beaten, figure
from tests.benchmarks.support import MACHINE, a_cell, a_contender, a_round, results

OURS, PEER = a_contender("ours", ours=True), a_contender("peer")


def a_finding(**changes: object) -> Finding:
    finding = Finding(
        name="get",
        against="peer",
        value=0.8,
        low=0.7,
        high=0.9,
        unit="×",
        at_least=0.75,
        threads=8,
        measure="requests a second",
        rival=True,
        more_is_better=True,
    )
    return dataclasses.replace(finding, **changes)  # type: ignore[arg-type]


def a_headline(*findings: Finding, name: str = "redis.get", **changes: object) -> Headline:
    headline = Headline(
        at="2026-01-01 12:00",
        minutes=1.5,
        quick=False,
        machine=MACHINE,
        said=[Said(name=name, question="How fast?", findings=findings, beaten=findings[:1])],
        left_out=[("a.b", "there is no c"), ("a.d", "there is no c")],
    )
    return dataclasses.replace(headline, **changes)  # type: ignore[arg-type]


def test_a_goal_may_be_met_and_the_peer_win_all_the_same() -> None:
    row = a_headline(a_finding()).goals()[0]
    assert row == (
        "redis.get",
        "get, 8 threads",
        "peer",
        "≥ 0.75 ×",
        "0.80 ×",
        "0.70 – 0.90",
        "met; the peer wins",
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"value": 1.0}, "met"),
        ({"at_least": 0.9}, "missed; the peer wins"),
        ({"at_least": 0.9, "rival": False}, "missed"),
        (
            {"value": 1.2, "at_least": None, "at_most": 2.0, "more_is_better": False},
            "met; the peer wins",
        ),
        ({"at_least": None}, "the peer wins"),
        ({"at_least": None, "value": 1.1}, ""),
        ({"value": None}, "not measured"),
    ],
)
def test_verdicts(changes: dict[str, object], verdict: str) -> None:
    assert a_headline(a_finding(**changes)).goals()[0][-1] == verdict


def test_peers_that_are_better_are_named_with_where_and_by_how_much() -> None:
    found = results(
        a_cell(OURS, a_round(80, p99=0.010), a_round(60, p99=0.010)),
        a_cell(PEER, a_round(100, p99=0.002), a_round(120, p99=0.002)),
        a_cell(a_contender("floor", floor=True), a_round(1000), a_round(1000)),
        a_cell(a_contender("slower"), a_round(10, p99=0.009), a_round(10, p99=0.009)),
    )
    findings = beaten(found, (THROUGHPUT, P99))
    assert {(each.against, each.measure) for each in findings} == {
        ("peer", "requests a second"),
        ("peer", "p99"),
    }
    headline = a_headline(said=[Said(name="redis.get", question="", beaten=findings)])
    assert headline.wins() == [
        (
            "redis.get",
            "peer",
            "requests a second: 1.54 × with 2 threads; p99: 5.00 × with 2 threads",
        )
    ]


def test_a_difference_within_the_noise_is_no_win() -> None:
    found = results(a_cell(OURS, a_round(100)), a_cell(PEER, a_round(104)))
    assert beaten(found, (THROUGHPUT, P99)) == []


def test_a_peer_that_did_not_run_wins_nothing() -> None:
    found = results(a_cell(OURS, a_round(100)), a_cell(PEER, None))
    assert beaten(found, (THROUGHPUT,)) == []
    found = results(a_cell(OURS, None), a_cell(PEER, a_round(100)))
    assert beaten(found, (THROUGHPUT,)) == []


def test_the_readme_has_one_row_for_several_numbers_of_threads() -> None:
    findings = [a_finding(threads=8), a_finding(threads=50, value=1.6, at_least=1.5)]
    row = a_headline(*findings).readme()[0]
    assert row == (
        "redis: get, 8 / 50 threads",
        "peer",
        "≥ 0.75 / ≥ 1.50 ×",
        "0.80 / 1.60 ×",
        "met",
    )
    findings.append(a_finding(threads=500, value=0.1))
    assert a_headline(*findings).readme()[0][-1] == "2 of 3 met"


def test_what_was_left_out_is_named_by_its_reason() -> None:
    assert a_headline().reasons() == [("a.b, a.d", "there is no c")]


def test_a_headline_survives_its_file() -> None:
    headline = a_headline(a_finding())
    again = Headline.from_json(headline.to_json())
    assert again.to_json() == headline.to_json()
    assert again.goals() == headline.goals()
    assert again.wins() == headline.wins()


def test_the_document_has_it_all_and_the_machine() -> None:
    text = document(a_headline(a_finding(), warning="Not quiet."), ["redis.get.png"])
    for part in ("Goals", "What the guide claims", "Where a peer wins", "Left out", "The machine"):
        assert f"\n{part}\n---" in text
    assert ".. warning:: Not quiet." in text
    assert "1 of 1 goals met" in text
    assert ".. figure:: redis.get.png" in text
    assert "an abacus" in text


def test_tables_for_the_readme_keep_their_columns() -> None:
    lines = readme(
        a_headline(a_finding(name="get_all"), a_finding(threads=None, name="x"))
    ).splitlines()
    rules = [line for line in lines if line.startswith("==")][:3]
    assert len(set(rules)) == 1
    ends = [place for place, sign in enumerate(rules[0]) if sign == " "]
    body = lines[
        lines.index(rules[0]) : lines.index("What guides to pooling claim, and what was measured:")
    ]
    rows = [line for line in body if line and not line.startswith("==")]
    assert any(r"get\_all, 8 threads" in row for row in rows)
    assert all(row[place : place + 1] in (" ", "") for row in rows for place in ends)


def test_a_claim_holds_in_part_where_only_some_evidence_reaches_it() -> None:
    def evidence(said: str, name: str) -> Evidence:
        return Evidence(said=said, answer="http.tls", name=name, read=saved, unit="%")

    claim = Claim(
        says="70 %", at_least=70.0, evidence=(evidence("near", "a"), evidence("far", "b"))
    )
    near, far = a_finding(name="a", value=0.1), a_finding(name="b", value=0.5)
    both = claim.judge([("http.tls", near), ("http.tls", far)])
    assert (both.verdict, both.measured) == ("holds in part", ["near: 90 %", "far: 50 %"])
    assert claim.judge([("http.tls", near)]).verdict == "holds"
    assert claim.judge([("http.tls", far)]).verdict == "does not hold here"
    assert claim.judge([("http.other", near)]).verdict == "not measured"


def test_evidence_is_against_whom_it_says_and_with_as_many_threads() -> None:
    evidence = Evidence(said="", answer="a", name="get", against="peer", threads=8)
    findings = [
        ("a", a_finding(against="another", value=1.0)),
        ("a", a_finding(threads=1, value=2.0)),
        ("a", a_finding(value=3.0)),
    ]
    assert evidence.found_in(findings) == 3.0


def test_every_claim_finds_its_evidence_among_the_benches_goals() -> None:
    from benchmarks import bench_distance, bench_http, bench_postgres, bench_redis

    targets = {
        "postgres.throughput_by_threads": bench_postgres.TARGETS,
        "redis.pipeline": bench_redis.PIPELINE_TARGETS,
        "redis.tls": bench_redis.TLS_TARGETS,
        "http.pooled_tls": bench_http.POOLED_TARGETS,
        "distance.kept_connections": bench_distance.TARGETS,
    }
    findings = [
        (answer, _measured(target)) for answer, found in targets.items() for target in found
    ]
    findings.append(("growth.threads", a_finding(name="threads within 100 ms", threads=None)))
    for claim in claims.CLAIMS:
        for evidence in claim.evidence:
            assert evidence.found_in(findings) is not None, evidence


def _measured(target: Target) -> Finding:
    names = [target.contender] if target.peer is None else [target.contender, target.peer]
    cells = [a_cell(a_contender(name), a_round(5), threads=target.threads) for name in names]
    return target.judge(results(*cells))


def test_figures_have_three_digits_or_so() -> None:
    values = (0.0, 0.0421, 0.971, 9.5, 12.34, 1234.5)
    assert [figure(value) for value in values] == ["0.00", "0.042", "0.97", "9.50", "12.3", "1,234"]


def test_the_last_runs_tables_can_be_printed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path)
    assert main(["--readme"]) == 2
    assert "make bench" in capsys.readouterr().err

    found = results(a_cell(OURS, a_round(100)), a_cell(PEER, a_round(50)))
    target = Target(name="speed", contender="ours", peer="peer", threads=2, at_least=1.5)
    report = Report(Console(file=io.StringIO()), tmp_path, MACHINE, Plan())
    report.add(answers.speed("what.speed", "How fast?", found, "peer", [target]))
    report.finish()
    assert {path.name for path in tmp_path.iterdir()} == {
        DOCUMENT,
        CONTENT,
        "what.speed.json",
        "what.speed.png",
    }
    assert main(["--readme"]) == 0
    assert "what: speed, 2 threads" in capsys.readouterr().out


def test_a_machine_says_what_it_is_and_which_servers_it_has() -> None:
    about = machine.describe(["rich", "no-such-package"], taken=0.25)
    assert "25% of the cores' time was others'" in about["load before"]
    assert "PostgreSQL 18." in about["servers"]
    assert "no-such-package (missing)" in about["packages"]
