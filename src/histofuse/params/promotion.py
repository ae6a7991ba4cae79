"""Sections ``promotion``, ``controls`` and ``alarms``: what a model must show before it is used."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from histofuse.params.base import Section
from histofuse.params.intervals import Confidence, IntervalMethod, IntervalParams, Resamples

FewGroupsRule = Literal["leave_one_out", "point", "refuse"]

# `minority` stands for the class in focus: mitosis, or the target, or the rarest class in training.
MetricName = Annotated[
    str,
    Field(pattern=r"^(accuracy|brier|(precision|recall|f1|auroc|auprc|ece)/(macro|minority))$"),
]
ScoreName = Annotated[
    str, Field(pattern=r"^(accuracy|(precision|recall|f1|auroc|auprc)/(macro|minority))$")
]
# Metrics that two models can be compared by: they depend on no threshold, but for precision, which
# is compared at the recall of the other model.
_COMPARED: Final = r"^(brier|precision/minority|(auroc|auprc|ece)/(macro|minority))$"
ComparedName = Annotated[str, Field(pattern=_COMPARED)]
ModelKind = Annotated[str, Field(pattern=r"^(image|tabular|fusion|patient)$")]
Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(gt=0, lt=0.5)]


def is_lower_better(metric: str) -> bool:
    """Whether a metric is an error, such as ``brier`` or ``ece/mitosis``."""
    return metric.partition("/")[0] in ("brier", "ece")


def name_focus(metric: str, focus_class: str) -> str:
    """Put the class in focus for `minority`: "recall/minority" -> "recall/mitosis"."""
    return metric.replace("minority", focus_class)


class Limits(Section):
    """A limit for each metric, by what a model predicts on.

    Attributes:
        patches: Of image and fusion models.
        admissions: Of models of the health record.
        patients: Of models at patient level.
    """

    patches: Annotated[dict[MetricName, Margin], Field(min_length=1)]
    admissions: Annotated[dict[MetricName, Margin], Field(min_length=1)]
    patients: Annotated[dict[MetricName, Margin], Field(min_length=1)]

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


class PromotionParams(Section):
    """What the gate asks of a version that is to be promoted.

    Attributes:
        resamples: Bootstrap resamples of cases, or of patients, behind each interval.
        confidence: Of the two-sided intervals; one end of them is compared with a limit.
        interval: How an interval is read from the resamples.
        fewest_groups: Cases (or patients) in the test split below which no interval is trusted: of
            three cases there are ten different resamples.
        few_groups: What replaces the interval then. ``leave_one_out``: the worst value found
            when any one case is left out, and nothing where a class is of a single case. ``point``:
            the value itself. ``refuse``: nothing.
        tolerance: By how much a probability scored now may differ from the one the bundle holds.
        split_units: Units under which the images may have been split into training and test.
        alarm_at: Test score from which a model is too good to be true.
        alarm_metrics: The scores watched for it.
        faithfulness_minimums: Kind of model to metrics of its explanations, as the explain stages
            write them, to what their lower end must exceed; empty asks nothing.
        external_validation: Whether a version must have been validated on another data set
            (``histofuse validate``): ``required`` or ``optional``.
        margins: How much worse than the version in production a model may be, the interval of the
            difference included.
        encoder_margins: How much worse than its own image encoder a fusion model may be on the same
            patches; it is refused as well if the whole interval of the difference is worse.
        minimums: What every model must be better than, in production or not.
    """

    resamples: Resamples
    confidence: Confidence
    interval: IntervalMethod
    fewest_groups: Annotated[int, Field(ge=2)]
    few_groups: FewGroupsRule
    tolerance: Annotated[float, Field(gt=0, lt=1)]
    split_units: Annotated[list[Literal["case", "frame"]], Field(min_length=1)]
    alarm_at: Share
    alarm_metrics: Annotated[list[ScoreName], Field(min_length=1)]
    faithfulness_minimums: dict[ModelKind, dict[str, float]]
    external_validation: Literal["required", "optional"]
    margins: Margins
    encoder_margins: Annotated[dict[ComparedName, Margin], Field(min_length=1)]
    minimums: Limits

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
    """How controls are run.

    Attributes:
        repeats: Shuffles, each with a head of its own; one may lie off chance by chance.
        metrics: What is compared. The first decides: verdicts on several metrics would find a gain
            by chance in one of them. The others are shown without a verdict.
        tabular: The model of the health record that is trained on shuffled targets.
        gain_margin: There is no gain if the whole interval of a difference lies below this.
        chance_margin: A macro AUROC is at chance if its interval holds chance and both ends are
            less than this away from it.
    """

    repeats: Annotated[int, Field(ge=3)]
    metrics: Annotated[list[MetricName], Field(min_length=1)]
    tabular: Literal["logistic_regression", "xgboost"]
    gain_margin: Width
    chance_margin: Width


class AlarmParams(Section):
    """Limits of the alarms; that of a test score too good to be true is ``promotion.alarm_at``.

    Attributes:
        feature_auroc: AUROC against the target, on training rows and in either direction, from
            which a feature of the health record alone is an alarm.
        feature_fewest_rows: A feature is checked if it has this many values for each target: with
            three values any order is perfect by chance.
        validation_test_gap: Largest difference between validation and test; a larger one is an
            alarm if its interval does not contain 0.
        fit_tolerance: By how much a refitted number may differ, absolutely or relative to it.
    """

    feature_auroc: Annotated[float, Field(gt=0.5, le=1)]
    feature_fewest_rows: Annotated[int, Field(ge=1)]
    validation_test_gap: Limits
    fit_tolerance: Annotated[float, Field(gt=0, lt=0.1)]
