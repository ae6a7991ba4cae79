"""Intervals beside the metrics of the split that is reported, of models and of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval
from histofuse.evaluation.metrics.clustered import explain_resampling
from histofuse.evaluation.performance.comparison import Comparison
from histofuse.evaluation.performance.results import Facts, Result
from histofuse.params.intervals import IntervalParams

# With fewer cases 95 % intervals hold the truth far less often: benchmarks/interval_coverage.py.
FEW_GROUPS: Final = 10
_DECIMALS: Final = 6  # beyond them two machines may differ


@dataclass(frozen=True)
class Intervals:
    """Intervals of all models on the reported split.

    Attributes:
        of: Model to metric, such as ``auroc/macro``, to its interval.
        minus_image: Fusion model to metric to the interval of its difference from the image model.
        params: How they were made.
    """

    of: Mapping[str, Mapping[str, Interval]]
    minus_image: Mapping[str, Mapping[str, Interval]]
    params: IntervalParams


def estimate_intervals(
    results: Sequence[Result],
    comparison: Comparison | None,
    facts: Facts,
    bootstrap: Bootstrap,
) -> Intervals:
    """Put an interval on every metric of every model, and on fusion less image.

    All models on the same rows are measured on the same resamples.
    """
    split = facts.split
    of = {r.name: bootstrap.estimate_metrics(r.model.of(split)) for r in results}
    minus_image: dict[str, dict[str, Interval]] = {}
    if comparison:
        image = comparison.image.model.of(split)
        for fused in comparison.fused:
            rows = fused.model.of(split)
            # A linked pairing holds the patches of linked patients alone.
            same = image.take(np.flatnonzero(np.isin(image.keys, rows.keys)))
            found = bootstrap.estimate_differences(rows, same)
            minus_image[fused.name] = {name: d.interval for name, d in found.items()}
    return Intervals(of, minus_image, bootstrap.params)


def describe_intervals(intervals: Intervals, split: str) -> dict[str, Any]:
    """Render for ``metrics.json``, under the names the metrics have there."""
    return {
        "confidence": intervals.params.confidence,
        "method": intervals.params.method,
        "resamples": intervals.params.resamples,
        "models": _render(intervals.of, split),
        "minus_image_model": _render(intervals.minus_image, split),
    }


def _render(of: Mapping[str, Mapping[str, Interval]], split: str) -> dict[str, Any]:
    return {
        model: {f"{split}/{name}": _render_interval(i) for name, i in found.items()}
        for model, found in of.items()
    }


def _render_interval(interval: Interval) -> dict[str, Any]:
    ends = {"low": interval.low, "high": interval.high}
    rounded = {k: None if v is None else round(v, _DECIMALS) for k, v in ends.items()}
    facts = {"groups": interval.groups, "defined": round(interval.defined, _DECIMALS)}
    return rounded | facts | ({"note": interval.note} if interval.note else {})


def explain_intervals(results: Sequence[Result], intervals: Intervals, facts: Facts) -> list[str]:
    """Say under a table how its intervals were made, and of how few groups."""
    notes = [explain_resampling(intervals.params, _name_units(results))]
    sizes = {_count_groups(r, facts) for r in results if _is_small(r, facts)}
    if sizes:
        notes.append(
            f"Of {' and '.join(sorted(sizes))} an interval says little: it holds the truth less "
            "often than it claims."
        )
    return notes


def _name_units(results: Sequence[Result]) -> str:
    return " or ".join(dict.fromkeys(result.model.group_unit for result in results))


def _count_groups(result: Result, facts: Facts) -> str:
    rows = result.model.of(facts.split)
    return f"{rows.count_groups():,} {rows.group_unit}"


def _is_small(result: Result, facts: Facts) -> bool:
    return result.model.of(facts.split).count_groups() < FEW_GROUPS
