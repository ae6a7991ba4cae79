"""Sections ``controls`` and ``alarms``: runs that must score chance, and limits on leaks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section
from histofuse.params.promotion import Limits, MetricName


class ControlParams(Section):
    """How controls are run.

    Attributes:
        repeats: Shuffles, each with a head of its own; one may lie off chance by chance.
        metrics: What is compared, the one that counts most first.
        tabular: The model of the health record that is trained on shuffled targets.
    """

    repeats: Annotated[int, Field(ge=3)]
    metrics: Annotated[list[MetricName], Field(min_length=1)]
    tabular: Literal["logistic_regression", "xgboost"]


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
