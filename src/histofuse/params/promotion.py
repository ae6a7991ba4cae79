"""Sections ``promotion``, ``controls`` and ``alarms``: what a model must show before it is used."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from histofuse.params.base import BelowOne, Count, InnerShare, Section, Several, Share
from histofuse.params.intervals import IntervalMethod, IntervalParams, Resamples

FewGroupsRule = Literal["leave_one_out", "point", "refuse"]

# `minority` stands for the class in focus: mitosis, or the target, or the rarest class in training.
MetricName = Annotated[
    str, Field(pattern=r"^(accuracy|brier|(precision|recall|f1|auroc|auprc|ece)/(macro|minority))$")
]
ScoreName = Annotated[
    str, Field(pattern=r"^(accuracy|(precision|recall|f1|auroc|auprc)/(macro|minority))$")
]
# Metrics that two models can be compared by: they depend on no threshold, but for precision, which
# is compared at the recall of the other model.
_COMPARED: Final = r"^(brier|precision/minority|(auroc|auprc|ece)/(macro|minority))$"
ComparedName = Annotated[str, Field(pattern=_COMPARED)]
ModelKind = Annotated[str, Field(pattern=r"^(image|tabular|fusion|patient)$")]
VALIDATED: Final = ("image", "tabular", "fusion")  # kinds that histofuse validate measures
ByMetric = Annotated[dict[MetricName, BelowOne], Field(min_length=1)]
Width = Annotated[float, Field(gt=0, lt=0.5)]


def is_lower_better(metric: str) -> bool:
    """Whether a metric is an error, such as ``brier`` or ``ece/mitosis``."""
    return metric.partition("/")[0] in ("brier", "ece")


def name_focus(metric: str, focus_class: str) -> str:
    """Put the class in focus for `minority`: "recall/minority" -> "recall/mitosis"."""
    return metric.replace("minority", focus_class)


class Limits(Section):
    """A limit for each metric, by what a model predicts on."""

    patches: ByMetric  # of image and fusion models
    admissions: ByMetric  # of models of the health record
    patients: ByMetric  # of models at patient level

    def select(self, unit: str, focus_class: str) -> dict[str, float]:
        """Select the limits of one model, its class in focus put for ``minority``.

        `unit` is that of its rows: ``patches``, ``admissions`` or ``patients``.
        """
        limits = getattr(self, unit)
        return {name_focus(metric, focus_class): limit for metric, limit in limits.items()}


def _require_compared(limits: Limits) -> Limits:
    named = dict.fromkeys([*limits.patches, *limits.admissions, *limits.patients])
    if decided := [metric for metric in named if not re.match(_COMPARED, metric)]:
        raise ValueError(
            f"{', '.join(decided)}: each model decides at thresholds of its own, so it cannot be "
            "compared; expected brier, auroc, auprc, ece, or precision/minority (at equal recall)"
        )
    return limits


Margins = Annotated[Limits, AfterValidator(_require_compared)]


def _require_validated(rule: str | list[str]) -> str | list[str]:
    if rule in ("optional", "required") or (isinstance(rule, list) and set(rule) <= {*VALIDATED}):
        return rule
    raise ValueError(f"optional, required, or a list out of {', '.join(VALIDATED)}")


class PromotionParams(Section):
    """What the gate asks of a version that is to be promoted."""

    resamples: Resamples
    confidence: InnerShare  # of the two-sided intervals
    interval: IntervalMethod
    fewest_groups: Several
    few_groups: FewGroupsRule
    tolerance: InnerShare
    split_units: Annotated[list[Literal["case", "frame"]], Field(min_length=1)]
    alarm_at: Share
    alarm_metrics: Annotated[list[ScoreName], Field(min_length=1)]  # the scores watched for it
    faithfulness_minimums: dict[ModelKind, dict[str, float]]
    external_validation: Annotated[str | list[str], AfterValidator(_require_validated)]
    margins: Margins
    encoder_margins: Annotated[dict[ComparedName, BelowOne], Field(min_length=1)]
    side_margins: Annotated[dict[ComparedName, BelowOne], Field(min_length=1)]
    minimums: Limits
    detector: dict[Literal["f1", "gain"], BelowOne]  # of nuclei, over the baseline

    def requires_validation(self, kind: str) -> bool:
        """Whether a model of a kind must have been measured on another data set."""
        rule = self.external_validation
        return kind in rule if isinstance(rule, list) else rule == "required"

    @property
    def intervals(self) -> IntervalParams:
        """Params of the bootstrap."""
        return IntervalParams(
            resamples=self.resamples,
            confidence=self.confidence,
            method=self.interval,
            fewest_groups=self.fewest_groups,
        )


class ControlParams(Section):
    """How controls are run."""

    repeats: Annotated[int, Field(ge=3)]
    metrics: Annotated[list[MetricName], Field(min_length=1)]
    tabular: Literal["logistic_regression", "xgboost"]
    gain_margin: Width
    chance_margin: Width


class AlarmParams(Section):
    """Limits of the alarms; that of a test score too good to be true is ``promotion.alarm_at``."""

    feature_auroc: Annotated[float, Field(gt=0.5, le=1)]
    feature_fewest_rows: Count
    validation_test_gap: Limits
    fit_tolerance: Annotated[float, Field(gt=0, lt=0.1)]
    linkage_p: Share
