"""What guides to pooling claim, beside what a run measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.targets import Finding, figure

Found = Sequence[tuple[str, Finding]]  # the name of an answer, and one of its findings


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A finding that bears on a claim, what it is called here, and how its value is read."""

    said: str
    answer: str
    name: str
    against: str | None = None
    threads: int | None = None
    read: Callable[[float], float] = float
    unit: str = "×"

    def found_in(self, findings: Found) -> float | None:
        """Return the value, as it is read; None where it was not measured."""
        for answer, finding in findings:
            wanted = answer == self.answer and finding.name == self.name
            wanted = wanted and self.against in (None, finding.against)
            if wanted and self.threads in (None, finding.threads) and finding.value is not None:
                return self.read(finding.value)
        return None

    def shown(self, value: float) -> str:
        text = figure(value)
        if self.unit == "%":
            text = f"{value:.1f}" if value > 99 else f"{value:.0f}"  # nothing saves all of it
        return f"{self.said}: {text} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence, the bound that it sets, what is evidence for it, and what must be known to read that."""

    says: str
    evidence: Sequence[Evidence]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    def judge(self, findings: Found) -> Verdict:
        """Compare it with what was found."""
        values = [(each, each.found_in(findings)) for each in self.evidence]
        measured = [(each, value) for each, value in values if value is not None]
        kept = [self._holds(value) for _, value in measured]
        if not self.evidence:
            said = "measured elsewhere"
        elif not kept:
            said = "not measured"
        elif all(kept):
            said = "holds"
        else:
            said = "holds in part" if any(kept) else "does not hold here"
        shown = [each.shown(value) for each, value in measured]
        return Verdict(
            says=self.says,
            measured=shown,
            verdict=said,
            note=self.note if shown or not self.evidence else "",
        )

    def _holds(self, value: float) -> bool:
        enough = self.at_least is None or value >= self.at_least
        return enough and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run has to say to a claim."""

    says: str
    measured: Sequence[str]
    verdict: str
    note: str


def saved(ratio: float) -> float:
    """Return how many per cent are saved by what takes ``ratio`` of the time."""
    return (1 - ratio) * 100


_QUERY_FEW = "query, 4 connections"
_NEAR = "postgres.throughput_by_threads"
_FAR = "distance.kept_connections"
_TLS = "http.pooled_tls"
_UNKEPT = "http.client, a connection a request"

CLAIMS = (
    Claim(
        says="pooling cuts latency by 70 to 90 %",
        at_least=70.0,
        evidence=(
            Evidence(
                said="PostgreSQL",
                answer=_NEAR,
                name="latency",
                against="no pool",
                read=saved,
                unit="%",
            ),
            Evidence(
                said="Redis over TLS",
                answer="redis.tls",
                name="latency",
                against="RedisPool, made per call, CA kept",
                read=saved,
                unit="%",
            ),
            Evidence(
                said="PostgreSQL, 20 ms away", answer=_FAR, name="PostgreSQL", read=saved, unit="%"
            ),
            Evidence(said="Redis, 20 ms away", answer=_FAR, name="Redis", read=saved, unit="%"),
        ),
    ),
    Claim(
        says="HTTP: 70 to 85 % less latency",
        at_least=70.0,
        evidence=(
            Evidence(
                said="TLS", answer=_TLS, name="latency", against=_UNKEPT, read=saved, unit="%"
            ),
            Evidence(
                said="TLS, 20 ms away", answer=_FAR, name="HTTP over TLS", read=saved, unit="%"
            ),
        ),
        note="A new TLS 1.3 connection takes two round trips, the request a third: from afar, two thirds are saved.",
    ),
    Claim(
        says="HTTP: 100 to 300 ms saved a request",
        at_least=100.0,
        evidence=(
            Evidence(
                said="TLS, 20 ms away",
                answer=_FAR,
                name="HTTP over TLS, saved",
                unit="ms",
            ),
        ),
        note="Two round trips: 100 to 300 ms where one takes 50 to 150 ms. On loopback there is none to save.",
    ),
    Claim(
        says="5 to 10 × the HTTP throughput",
        at_least=5.0,
        evidence=(
            Evidence(
                said="over a connection each",
                answer=_TLS,
                name="throughput",
                against=_UNKEPT,
                threads=8,
            ),
            Evidence(
                said="over requests.get()",
                answer=_TLS,
                name="throughput",
                against="requests.get(), nothing kept",
                threads=8,
            ),
        ),
        note="8 threads, TLS. requests.get() reads the system's certificates at each call.",
    ),
    Claim(
        says="500 concurrent requests under 100 ms",
        at_most=100.0,
        evidence=(
            Evidence(
                said="PostgreSQL, p99",
                answer=_NEAR,
                name=f"{_QUERY_FEW}, p99 in ms",
                unit="ms",
            ),
            Evidence(
                said="the longest of all",
                answer=_NEAR,
                name=f"{_QUERY_FEW}, longest request",
                unit="ms",
            ),
        ),
        note="500 threads, each asking again at once.",
    ),
    Claim(
        says="pipelines are 10 × faster",
        at_least=10.0,
        evidence=(
            Evidence(said="100 GETs", answer="redis.pipeline", name="pipeline of 100", threads=1),
            Evidence(said="20 GETs, 20 ms away", answer=_FAR, name="Redis, 20 commands"),
        ),
    ),
    Claim(
        says="40 to 60 % less CPU by avoiding TLS handshakes",
        at_least=40.0,
        evidence=(
            Evidence(
                said="the client's, over a connection each",
                answer=_TLS,
                name="client's CPU",
                against=_UNKEPT,
                read=saved,
                unit="%",
            ),
        ),
        note="CPU time of this process a request, for all of a connection; the server's is not in it.",
    ),
    Claim(
        says="10 × more concurrent requests on the same machine",
        at_least=10.0,
        evidence=(
            Evidence(
                said="requests a second of 500 threads, over no pool",
                answer=_NEAR,
                name=_QUERY_FEW,
                against="no pool",
            ),
            Evidence(
                said="threads with a p99 within 100 ms, over no pool",
                answer="growth.threads",
                name="threads within 100 ms",
            ),
        ),
    ),
    Claim(
        says="99.9 % uptime through spikes",
        evidence=(),
        note="No matter of speed: `make chaos` shows what faults and spikes do.",
    ),
)


def judged(findings: Found) -> list[Verdict]:
    """Compare all claims with what was found."""
    return [claim.judge(findings) for claim in CLAIMS]
