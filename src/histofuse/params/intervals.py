"""Section ``intervals``: how sure a reported metric is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section

IntervalMethod = Literal["percentile", "bca"]
Resamples = Annotated[int, Field(ge=100)]
Confidence = Annotated[float, Field(gt=0, lt=1)]


class IntervalParams(Section):
    """Intervals beside the metrics of the split that is reported.

    Attributes:
        resamples: Bootstrap resamples of cases, or of patients.
        confidence: Of the two-sided intervals.
        method: How an interval is read from the resamples; ``bca`` corrects for bias and skewness.
    """

    resamples: Resamples
    confidence: Confidence
    method: IntervalMethod
