"""The paper's claims, from `paper.json`, next to what was measured for them.

Source: paper.txt, Tables 1 to 3, Figures 3 and 6, sections 3.1, 4 and 5.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.evaluation.metrics.sides import (
    Answer,
    Estimate,
    Rules,
    Side,
    answer_gain,
    explain_gain,
    explain_lack,
    find_side,
)

Outcome = Literal["consistent", "contradicts itself", "contradicts its data"]
Verdict = Literal[
    "holds", "does not hold", "inconclusive", "contradicts itself", "not measured here"
]
_GAINS: Final[Mapping[Answer, Verdict]] = {
    "yes": "holds", "no": "does not hold", "inconclusive": "inconclusive"
}  # fmt: skip
_LEVELS: Final[Mapping[Side, Verdict]] = {
    "above": "holds", "below": "does not hold", "inconclusive": "inconclusive"
}  # fmt: skip
_SIMULATED: Final = "Simulated data say nothing about the paper's."
_REFUTED: Final = "The paper's own figures refute it"
FUSION: Final = "fusion"  # stands for the fusion model of the primary pairing
IMAGE: Final = "resnet18"
AREA: Final = "area"  # the baseline of a map: its share of the area
PAPER: Final = Path(__file__).parent / "paper.json"


@dataclass(frozen=True)
class Contradiction:
    """One statement of the paper, and what follows from its own figures or its data."""

    name: str  # short and unique; claims refer to it
    says: str  # what the paper says, with its place
    follows: str  # what was computed, with its numbers
    outcome: Outcome


@dataclass(frozen=True)
class Claim:
    """One claim."""

    text: str
    where: str  # place in the paper
    printed: str  # the figure, as printed; "" for one without
    model: str  # whose metric answers it; of a gain the better model
    metric: str  # such as ``auroc/macro``
    over: str = ""  # of a gain, the model it is over; "" where the claim is of a level
    refuted_by: tuple[str, ...] = ()  # names of contradictions that refute it by themselves


@dataclass(frozen=True)
class Judgement:
    """A claim, what was measured for it, and whether it holds."""

    claim: Claim
    protocol: Estimate | None  # measured under the paper's protocol; None if it was not
    # measured on splits by case and patient with label-blind pairs; None if it was not
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


def judge_claims(
    honest: Measured, protocol: Measured, rules: Rules, simulated: Collection[str] = ()
) -> list[Judgement]:
    """Judge the paper's claims; simulated data judge none, what contradicts itself stays so."""
    contradicted = {c.name for c in list_contradictions() if c.outcome != "consistent"}
    judgements = []
    for claim in list_claims():
        key = (claim.model, claim.metric, claim.over)
        ours, theirs = honest.get(key), protocol.get(key)
        verdict, reason = _decide(claim, ours, rules)
        if verdict != "holds" and theirs and _decide(claim, theirs, rules)[0] == "holds":
            reason += " It holds by the paper's protocol alone."
        refuted = bool(contradicted.intersection(claim.refuted_by))
        if claim.model in simulated:
            reason = _SIMULATED + (f" {_REFUTED}." if refuted else "")
            verdict = "not measured here"
        elif refuted:
            measured = "" if verdict == "not measured here" else f"; measured: {verdict}"
            verdict, reason = "contradicts itself", f"{_REFUTED}{measured}."
        judgements.append(Judgement(claim, theirs, ours, verdict, reason))
    return judgements


def _decide(claim: Claim, estimate: Estimate | None, rules: Rules) -> tuple[Verdict, str]:
    if estimate is None:
        paired = " on the same rows for both models" if claim.over not in {"", AREA} else ""
        return "not measured here", f"Not measured{paired} in this run"
    if claim.over:
        answer = answer_gain(estimate, rules)
        return _GAINS[answer], explain_gain(answer, estimate, rules)
    # Whatever rounds to the printed figure reaches it.
    reached = float(claim.printed) - 0.5 * 10 ** -len(claim.printed.partition(".")[2])
    side = find_side(estimate, rules.fewest_groups, reached)
    reason = f"The interval lies on both sides of {claim.printed}."
    if side != "inconclusive":
        reason = (
            f"The whole interval {'reaches' if side == 'above' else 'is below'} {claim.printed}."
        )
    return _LEVELS[side], explain_lack(estimate, rules) or reason
