"""What the paper claims, beside what was measured for it; code decides whether it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from histofuse.reporting.paper_contradictions import agrees, find_contradictions

Verdict = Literal["holds", "does not hold", "contradicts itself", "not measured"]
FUSION: Final = "fusion"  # stands for the fusion model of the primary pairing
IMAGE: Final = "resnet18"
AREA: Final = "area"  # what a map is held against that knows nothing


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval.

    Attributes:
        value: The point.
        low: Lower end; None where the interval is not defined.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: What is claimed.
        where: Place in the paper.
        printed: The figure, as printed; "" for one without.
        model: Whose metric answers it; of a gain the better model.
        metric: Such as ``auroc/macro``.
        over: Of a gain, the model it is over; "" where the claim is of a level.
        refuted_by: Names of findings of `find_contradictions` that refute it by themselves.
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
        claim: The claim.
        protocol: Measured by the paper's protocol; None where that was not run.
        honest: Measured on splits by case and patient, pairs blind to the label; None likewise.
        verdict: In one word or two.
        reason: The verdict's ground.
    """

    claim: Claim
    protocol: Estimate | None
    honest: Estimate | None
    verdict: Verdict
    reason: str


# (model, metric, over) -> what was measured.
Measured = Mapping[tuple[str, str, str], Estimate]


def _level(name: str, model: str, where: str, **printed: str) -> list[Claim]:
    """List a model's figures of one table; keywords name the metric, ``auc_m`` mitosis's AUC."""
    metrics = {
        "accuracy": ("accuracy", "accuracy"),
        "f1": ("macro F1", "f1/macro"),
        "auc": ("macro AUC", "auroc/macro"),
        "auc_m": ("mitosis AUC", "auroc/mitosis"),
    }
    return [
        Claim(f"{name}: {metrics[key][0]}", where, figure, model, metrics[key][1])
        for key, figure in printed.items()
    ]


def _refute(claim: Claim, *findings: str) -> Claim:
    return Claim(
        claim.text, claim.where, claim.printed, claim.model, claim.metric, claim.over, findings
    )


_TABLE: Final = "Table 3"
_RESNET = _level(
    "ResNet-18", IMAGE, _TABLE, accuracy="1.0000", f1="1.000", auc="1.000", auc_m="0.927"
)
_FUSED = _level("Fusion", FUSION, _TABLE, accuracy="0.997", f1="0.996", auc="0.997", auc_m="0.994")
CLAIMS: Final[tuple[Claim, ...]] = (
    *_level(
        "Simple CNN",
        "simple_cnn",
        _TABLE,
        accuracy="0.9999",
        f1="0.999",
        auc="0.999",
        auc_m="1.000",
    ),
    _refute(_RESNET[0], "resnet accuracy"),
    _RESNET[1],
    _refute(_RESNET[2], "resnet auc"),
    _refute(_RESNET[3], "resnet auc"),
    *_level("MLP", "mlp", _TABLE, accuracy="0.95", f1="0.88", auc="0.91"),
    *_level("XGBoost", "xgboost", _TABLE, accuracy="0.98", f1="0.91", auc="0.94"),
    _refute(_FUSED[0], "fusion accuracy"),
    _refute(_FUSED[1], "fusion macro F1"),
    *_FUSED[2:],
    Claim("XGBoost outperforms the MLP", "5.2", "+0.03 AUC", "xgboost", "auroc/macro", over="mlp"),
    Claim(
        "Fusion outperforms every unimodal model in macro AUC (measured over the image model)",
        "Abstract, 5.3",
        "0.997",
        FUSION,
        "auroc/macro",
        over=IMAGE,
        refuted_by=("highest macro auc",),
    ),
    Claim(
        "The health record resolves ambiguity of mitoses (AUC 0.927 → 0.994)",
        "5.3, 6",
        "+0.067 AUC",
        FUSION,
        "auroc/mitosis",
        over=IMAGE,
    ),
    Claim(
        "Fusion improves recall of the rare class",
        "1, 5.3",
        "",
        FUSION,
        "recall/mitosis",
        over=IMAGE,
        refuted_by=("rare class recall",),
    ),
    Claim(
        "Grad-CAM lies on the nuclei (mass on the nucleus less its share of the area)",
        "5.1, Figure 2",
        "",
        IMAGE,
        "cam_mass_inside",
        over=AREA,
    ),
)


def judge_claims(honest: Measured, protocol: Measured) -> list[Judgement]:
    """Judge every claim by what was measured.

    A level holds where the honest interval reaches the printed figure, a gain where the honest
    interval lies above zero. What the paper itself contradicts stays so, whatever was measured.

    Args:
        honest: Measured on splits by case and by patient, fusion with label-blind pairs.
        protocol: Measured by the paper's protocol: random patch splits, label-aligned pairs.
    """
    contradicted = {f.name for f in find_contradictions() if f.outcome != "consistent"}
    return [_judge(claim, honest, protocol, contradicted) for claim in CLAIMS]


def _judge(claim: Claim, honest: Measured, protocol: Measured, contradicted: set[str]) -> Judgement:
    key = (claim.model, claim.metric, claim.over)
    ours, theirs = honest.get(key), protocol.get(key)
    verdict, reason = _decide(claim, ours)
    if theirs is not None and verdict == "does not hold" and reaches(claim, theirs):
        reason += "; only the paper's protocol reaches it"
    if contradicted.intersection(claim.refuted_by):
        measured = "" if verdict == "not measured" else f"; measured: {verdict}"
        return Judgement(
            claim, theirs, ours, "contradicts itself", f"Its own figures refute it{measured}"
        )
    return Judgement(claim, theirs, ours, verdict, reason)


def _decide(claim: Claim, estimate: Estimate | None) -> tuple[Verdict, str]:
    if estimate is None:
        return "not measured", "No such measurement in this run"
    if claim.over:
        holds = reaches(claim, estimate)
        place = "above zero" if holds else "not above zero"
        return ("holds" if holds else "does not hold"), f"The difference is {place} ({estimate})"
    holds = reaches(claim, estimate)
    word = "reaches" if holds else "stays below"
    return ("holds" if holds else "does not hold"), f"The interval {word} {claim.printed}"


def reaches(claim: Claim, estimate: Estimate) -> bool:
    """Tell whether a measurement bears a claim out, its interval included.

    Without an interval the point alone decides.
    """
    if claim.over:
        return (estimate.value if estimate.low is None else estimate.low) > 0
    high = estimate.value if estimate.high is None else max(estimate.value, estimate.high)
    return agrees(claim.printed, 0.0, high) or high > float(claim.printed)
