"""Intervals of the metrics on the reported split, for models and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histofuse.evaluation.metrics.bootstrap import Bootstrap, Difference, Interval
from histofuse.evaluation.metrics.clustered import explain_resampling
from histofuse.evaluation.performance.comparison import Comparison
from histofuse.evaluation.performance.results import Context, Result
from histofuse.params.intervals import IntervalParams


@dataclass(frozen=True)
class Intervals:
    """Intervals of all models on the reported split.

    Attributes:
        of: Model to metric, such as ``auroc/macro``, to its interval.
        minus_image: Fusion model to metric to its paired difference from the image model.
        params: How they were made.
    """

    of: Mapping[str, Mapping[str, Interval]]
    minus_image: Mapping[str, Mapping[str, Difference]]
    params: IntervalParams


def estimate_intervals(
    results: Sequence[Result],
    comparison: Comparison | None,
    context: Context,
    bootstrap: Bootstrap,
) -> Intervals:
    """Put an interval on every metric of every model, and on fusion less image.

    All models on the same rows are measured on the same resamples.
    """
    split = context.split
    of = {r.name: bootstrap.estimate_metrics(r.model.of(split)) for r in results}
    minus_image = {}
    if comparison:
        image = comparison.image.model.of(split)
        for fused in comparison.fused:
            rows = fused.model.of(split)
            # A linked pairing holds the patches of linked patients alone.
            same = image.take(np.flatnonzero(np.isin(image.keys, rows.keys)))
            minus_image[fused.name] = bootstrap.estimate_differences(rows, same)
    return Intervals(of, minus_image, bootstrap.params)


def describe_intervals(intervals: Intervals, split: str) -> dict[str, Any]:
    """Render for ``metrics.json``, under the names the metrics have there."""
    return {
        "confidence": intervals.params.confidence,
        "method": intervals.params.method,
        "resamples": intervals.params.resamples,
        "models": {
            model: {f"{split}/{name}": render_ends(i) for name, i in of.items()}
            for model, of in intervals.of.items()
        },
        "minus_image_model": {
            model: {f"{split}/{name}": render_ends(d.interval) for name, d in of.items()}
            for model, of in intervals.minus_image.items()
        },
    }


def render_ends(interval: Interval) -> dict[str, Any]:
    """Render the interval of a value that is given elsewhere."""
    return interval.to_dict("low", "high", "groups", "defined")


def explain_intervals(
    results: Sequence[Result], intervals: Intervals, context: Context
) -> list[str]:
    """Say under a table how its intervals were made, and of how few groups."""
    units = dict.fromkeys(result.model.group_unit for result in results)
    notes = [explain_resampling(intervals.params, " or ".join(units))]
    reported = [result.model.of(context.split) for result in results]
    sizes = {(rows.count_groups(), rows.group_unit) for rows in reported}
    small = sorted(f"{n:,} {unit}" for n, unit in sizes if n < intervals.params.fewest_groups)
    if small:
        notes.append(
            f"Of {' and '.join(small)} an interval says little: it holds the truth less "
            "often than it claims."
        )
    return notes
