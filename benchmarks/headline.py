"""What a run has to say, all in one place: findings beside their goals, claims, where peers win, what was left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import claims
from benchmarks.targets import Finding, figure

Row = Sequence[str]

GOAL_HEADERS = ("bench", "what", "against", "goal", "measured", "over rounds", "")
WIN_HEADERS = ("bench", "faster than poolkit", "where, and by how much")
CLAIM_HEADERS = ("claim", "measured", "")
LEFT_OUT_HEADERS = ("left out", "why, and how to get it")
README_HEADERS = ("", "against", "goal", "measured", "")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What there is to say of one question."""

    name: str
    question: str
    findings: Sequence[Finding] = ()
    beaten: Sequence[Finding] = ()
    failures: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A run; ``left_out`` are questions and contenders with the reason, ``warning`` is why not to trust the rest."""

    at: str
    minutes: float
    quick: bool
    machine: Mapping[str, str]
    warning: str | None = None
    said: Sequence[Said] = field(default=())
    left_out: Sequence[tuple[str, str]] = field(default=())

    @property
    def summary(self) -> str:
        """Say in a sentence how many goals were met."""
        findings = [finding for said in self.said for finding in said.findings]
        met = sum(finding.met is True for finding in findings)
        missed = sum(finding.met is False for finding in findings)
        return f"{met} of {met + missed} goals met, in {self.minutes:.1f} min"

    def goals(self) -> list[Row]:
        """Return a row for each finding; the bench is named in its first."""
        return [
            (
                "" if number else said.name,
                finding.label,
                finding.against,
                finding.bound,
                "" if finding.value is None else finding.shown(finding.value),
                finding.spread,
                finding.verdict,
            )
            for said in self.said
            for number, finding in enumerate(said.findings)
        ]

    def wins(self) -> list[Row]:
        """Return a row for each peer that is better somewhere: than what, with how many threads, by how much."""
        rows: list[Row] = []
        for said in self.said:
            peers: dict[str, dict[str, list[str]]] = {}
            for finding in said.beaten:
                how = peers.setdefault(finding.against, {}).setdefault(finding.measure, [])
                assert finding.value is not None
                factor = finding.value if finding.value > 1 else 1 / finding.value
                how.append(f"{figure(factor)} × with {finding.threads}")
            rows += [
                (said.name, peer, "; ".join(_win(measure, where) for measure, where in how.items()))
                for peer, how in peers.items()
            ]
        return rows

    def claims(self) -> list[Row]:
        """Return a row for each claim of the guide: what was measured, and whether it holds."""
        findings = [(said.name, finding) for said in self.said for finding in said.findings]
        return [
            (
                verdict.says,
                " · ".join(filter(None, (*verdict.measured, verdict.note))),
                verdict.verdict,
            )
            for verdict in claims.judged(findings)
        ]

    def reasons(self) -> list[Row]:
        """Return a row for each reason for which something was left out."""
        by_reason: dict[str, list[str]] = {}
        for what, why in self.left_out:
            by_reason.setdefault(why, []).append(what)
        return [(", ".join(what), why) for why, what in by_reason.items()]

    def readme(self) -> list[Row]:
        """Return the goals in fewer rows: one for what is the same but for the number of threads."""
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for said in self.said:
            for finding in said.findings:
                if finding.value is not None:
                    key = (said.name.partition(".")[0], finding.name, finding.against)
                    groups.setdefault(key, []).append(finding)
        return [
            (
                f"{bench}: {name}{_threads(found)}",
                against,
                _joined([finding.bound for finding in found]),
                _joined([finding.shown(finding.value or 0.0) for finding in found]),
                _met(found),
            )
            for (bench, name, against), found in groups.items()
        ]

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        content["claims"] = [dict(zip(CLAIM_HEADERS, row, strict=True)) for row in self.claims()]
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Headline:
        content: dict[str, Any] = json.loads(text)
        del content["claims"]
        said = [
            Said(
                **{
                    **each,
                    "findings": [Finding(**finding) for finding in each["findings"]],
                    "beaten": [Finding(**finding) for finding in each["beaten"]],
                }
            )
            for each in content.pop("said")
        ]
        left_out = [(what, why) for what, why in content.pop("left_out")]
        return cls(**content, said=said, left_out=left_out)


def _win(measure: str, where: Sequence[str]) -> str:
    return f"{measure}: {', '.join(where)} thread{'' if where[-1].endswith(' 1') else 's'}"


def _threads(found: Sequence[Finding]) -> str:
    counts = [str(finding.threads) for finding in found if finding.threads is not None]
    if not counts:
        return ""
    return f", {' / '.join(counts)} thread{'' if counts == ['1'] else 's'}"


def _joined(texts: Sequence[str]) -> str:
    """Write the same once, and a common unit at the end: ``1.2 / 1.6 ×``."""
    if len(set(texts)) == 1:
        return texts[0]
    units = {text.rpartition(" ")[2] for text in texts}
    if len(units) == 1 and (unit := units.pop()) in ("×", "ms", "µs", "MB"):
        return " / ".join(text.removesuffix(f" {unit}") for text in texts) + f" {unit}"
    return " / ".join(text or "–" for text in texts)


def _met(found: Sequence[Finding]) -> str:
    bounded = [finding.met for finding in found if finding.met is not None]
    if not bounded or all(bounded):
        return "met" if bounded else ""
    return "missed" if not any(bounded) else f"{sum(bounded)} of {len(bounded)} met"
