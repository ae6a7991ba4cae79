"""Section ``intervals``: confidence intervals of reported metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section

IntervalMethod = Literal["percentile", "bca"]
Resamples = Annotated[int, Field(ge=100)]
Confidence = Annotated[float, Field(gt=0, lt=1)]


class IntervalParams(Section):
    """Confidence intervals of the metrics on the reported split.

    Attributes:
        resamples: Bootstrap resamples of cases, or of patients.
        confidence: Of the two-sided intervals.
        method: How an interval is read from the resamples; ``bca`` corrects for bias and skewness.
            Differences of models always have ``percentile`` intervals.
        fewest_groups: With fewer cases (or patients) an interval decides nothing: every verdict is
            inconclusive. Of three cases there are ten different resamples.
    """

    resamples: Resamples
    confidence: Confidence
    method: IntervalMethod
    fewest_groups: Annotated[int, Field(ge=2)]
