"""Section ``intervals``: confidence intervals of reported metrics."""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import InnerShare, Section, Several

IntervalMethod = Literal["percentile", "bca"]
Resamples = Annotated[int, Field(ge=100)]


class IntervalParams(Section):
    """Confidence intervals of the metrics on the reported split."""

    resamples: Resamples
    confidence: InnerShare  # of the two-sided intervals
    method: IntervalMethod
    fewest_groups: Several
