"""The paper's claims next to what was measured for them, and its figures against each other.

What the paper prints, and what follows from it, is text: `paper.json`, whose arithmetic
``tests/unit/reporting/test_paper.py`` computes again. Here each claim meets a measurement.

Source: paper.txt, Tables 1 to 3, Figures 3 and 6, sections 3.1, 4 and 5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.naming import show_interval

Outcome = Literal["consistent", "contradicts itself", "contradicts its data"]
Verdict = Literal["holds", "does not hold", "contradicts itself", "not measured"]
FUSION: Final = "fusion"  # stands for the fusion model of the primary pairing
IMAGE: Final = "resnet18"
AREA: Final = "area"  # the baseline of a map: its share of the area
PAPER: Final = Path(__file__).parent / "paper.json"


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval; no ends where the interval is not defined."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return show_interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class Contradiction:
    """One statement of the paper, and what follows from its own figures or its data.

    Attributes:
        name: Short and unique; claims refer to it.
        says: What the paper says, with its place.
        follows: What was computed, with its numbers.
    """

    name: str
    says: str
    follows: str
    outcome: Outcome


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        where: Place in the paper.
        printed: The figure, as printed; "" for one without.
        model: Whose metric answers it; of a gain the better model.
        metric: Such as ``auroc/macro``.
        over: Of a gain, the model it is over; "" where the claim is of a level.
        refuted_by: Names of contradictions that refute it by themselves.
    """

    text: str
    where: str
    printed: str
    model: str
    metric: str
    over: str = ""
    refuted_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """A claim, what was measured for it, and whether it holds.

    Attributes:
        protocol: Measured under the paper's protocol; None if that was not run.
        honest: Measured on splits by case and patient with label-blind pairs; None if not run.
    """

    claim: Claim
    protocol: Estimate | None
    honest: Estimate | None
    verdict: Verdict
    reason: str


# (model, metric, over) -> what was measured.
Measured = Mapping[tuple[str, str, str], Estimate]


def list_contradictions() -> list[Contradiction]:
    """List what the paper's figures say about each other and about its data."""
    return [Contradiction(**entry) for entry in _read_paper()["contradictions"]]


def list_claims() -> list[Claim]:
    """List the claims that a measurement can answer."""
    return [
        Claim(**entry | {"refuted_by": tuple(entry.get("refuted_by", ()))})
        for entry in _read_paper()["claims"]
    ]


@cache
def _read_paper() -> dict[str, Any]:
    return json.loads(PAPER.read_text(encoding="utf-8"))


def judge_claims(honest: Measured, protocol: Measured) -> list[Judgement]:
    """Judge every claim by what was measured.

    A level holds if the honest interval reaches the printed figure, a gain if the honest interval
    lies above zero. A claim that the paper itself contradicts stays contradicted.

    Args:
        honest: Measured on splits by case and by patient, fusion with label-blind pairs.
        protocol: Measured under the paper's protocol: random patch splits, label-aligned pairs.
    """
    contradicted = {c.name for c in list_contradictions() if c.outcome != "consistent"}
    return [_judge(claim, honest, protocol, contradicted) for claim in list_claims()]


def _judge(claim: Claim, honest: Measured, protocol: Measured, contradicted: set[str]) -> Judgement:
    key = (claim.model, claim.metric, claim.over)
    ours, theirs = honest.get(key), protocol.get(key)
    verdict, reason = _decide(claim, ours)
    if theirs is not None and verdict == "does not hold" and reaches(claim, theirs):
        reason += "; only the paper's protocol reaches it"
    if contradicted.intersection(claim.refuted_by):
        measured = "" if verdict == "not measured" else f"; measured: {verdict}"
        verdict, reason = "contradicts itself", f"Its own figures refute it{measured}"
    return Judgement(claim, theirs, ours, verdict, reason)


def _decide(claim: Claim, estimate: Estimate | None) -> tuple[Verdict, str]:
    if estimate is None:
        return "not measured", "No such measurement in this run"
    holds = reaches(claim, estimate)
    if claim.over:
        reason = f"The difference is {'above' if holds else 'not above'} zero ({estimate})"
    else:
        reason = f"The interval {'reaches' if holds else 'stays below'} {claim.printed}"
    return ("holds" if holds else "does not hold"), reason


def agrees(printed: str, low: float, high: float) -> bool:
    """Tell whether a printed figure can be the rounding of some value from low to high."""
    half = 0.5 * 10 ** -len(printed.partition(".")[2])
    return low <= float(printed) + half and high >= float(printed) - half


def reaches(claim: Claim, estimate: Estimate) -> bool:
    """Tell whether a measurement supports a claim, its interval included.

    Without an interval the point alone decides.
    """
    if claim.over:
        return (estimate.value if estimate.low is None else estimate.low) > 0
    high = estimate.value if estimate.high is None else max(estimate.value, estimate.high)
    return agrees(claim.printed, 0.0, high) or high > float(claim.printed)
