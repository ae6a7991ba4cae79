"""Sections ``controls`` and ``alarms``: runs that must score chance, and limits on leaks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section
from histofuse.params.promotion import Bars, MetricName


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
    """Bars of the alarms; that of a test score too good to be true is ``promotion.alarm_at``.

    Attributes:
        feature_auroc: AUROC against the target, on training rows and in either direction, from
            which a feature of the health record alone is an alarm.
        feature_fewest_rows: Rows of each target with a value below which a feature is not judged:
            of three rows any order is perfect by chance.
        apart: By how much validation and test may differ, if the interval of the difference holds
            0 no longer.
        fit_tolerance: By how much a number fitted anew may differ, absolutely or as a share of it.
    """

    feature_auroc: Annotated[float, Field(gt=0.5, le=1)]
    feature_fewest_rows: Annotated[int, Field(ge=1)]
    apart: Bars
    fit_tolerance: Annotated[float, Field(gt=0, lt=0.1)]
