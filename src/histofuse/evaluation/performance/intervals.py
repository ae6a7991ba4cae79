"""Intervals of the metrics on the reported split, for models and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from histofuse.core.artifacts import render, round_number
from histofuse.core.errors import InputError
from histofuse.core.naming import name_ranking
from histofuse.evaluation.metrics.bootstrap import (
    BIASED_METHOD,
    Bootstrap,
    Interval,
    align_rows,
    explain_resampling,
)
from histofuse.evaluation.performance.comparison import Comparison
from histofuse.evaluation.performance.results import Context, Result, is_primary
from histofuse.params.intervals import IntervalParams


@dataclass(frozen=True)
class Intervals:
    """Intervals of all models on the reported split."""

    # model to metric, such as ``auroc/macro``, to its interval
    of: Mapping[str, Mapping[str, Interval]]
    # fusion model to metric to its paired difference from the image model
    minus_image: Mapping[str, Mapping[str, Interval]]
    # two models of one kind on the same rows, new and old, to metric to the paired difference new
    # less old
    between: Mapping[tuple[str, str], Mapping[str, Interval]]
    params: IntervalParams


def estimate_intervals(
    results: Sequence[Result], comparison: Comparison | None, context: Context, bootstrap: Bootstrap
) -> Intervals:
    """Put intervals on all metrics, and on paired differences, of models on the same resamples."""
    split = context.split
    resampled = {r.name: bootstrap.resample_metrics(r.model.of(split)) for r in results}
    of = {name: metrics.intervals() for name, metrics in resampled.items()}
    minus_image = {}
    if comparison:
        image = comparison.image.model.of(split)
        for fused in comparison.fused:
            rows = fused.model.of(split)
            # A linked pairing holds the patches of linked patients alone.
            same = image.take(np.flatnonzero(np.isin(image.keys, rows.keys)))
            minus_image[fused.name] = bootstrap.estimate_differences(rows, same)
    between = {
        (new.name, old.name): resampled[new.name].minus_paired(resampled[old.name]).intervals()
        for old, new in combinations(results, 2)
        if new.model.kind == old.model.kind != "fusion" and _share_rows(new, old, split)
    }
    return Intervals(of, minus_image, between, bootstrap.params)


def _share_rows(new: Result, old: Result, split: str) -> bool:
    """Whether two models were measured on the same rows of the same classes."""
    try:
        align_rows(old.model.of(split), new.model.of(split))
    except InputError:
        return False
    return True


def describe_intervals(intervals: Intervals, split: str) -> dict[str, Any]:
    """Render for ``metrics.json``, under the names the metrics have there."""
    return {
        "confidence": intervals.params.confidence,
        "method": intervals.params.method,
        "method_of_ece": BIASED_METHOD,
        "resamples": intervals.params.resamples,
        "models": {model: render_metrics(of, f"{split}/") for model, of in intervals.of.items()},
        "minus_image_model": {
            model: render_metrics(of, f"{split}/") for model, of in intervals.minus_image.items()
        },
        "between_models": describe_between(intervals, f"{split}/"),
    }


def describe_between(intervals: Intervals, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Render paired differences of two models: ``"new - old"`` to metric to value and interval."""
    return {
        f"{new} - {old}": render_metrics(of, prefix) for (new, old), of in intervals.between.items()
    }


def render_metrics(of: Mapping[str, Interval], prefix: str) -> dict[str, Any]:
    """Render metrics with their intervals, under names such as ``test/auroc/macro``."""
    return {f"{prefix}{name}": render(interval) for name, interval in of.items()}


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
    if len(results) > 1:
        notes.append(
            "Two models are compared by their paired difference, not by whether their intervals "
            "overlap."
        )
    return notes


def choose_headline(
    results: Sequence[Result], intervals: Intervals, context: Context
) -> dict[str, dict[str, Any]]:
    """Choose each model's ranking and calibration of its class in focus, and what fusion gains."""
    return {result.name: _summarise(result, intervals, context) for result in results}


def _summarise(result: Result, intervals: Intervals, context: Context) -> dict[str, Any]:
    focus = result.model.focus_class
    ranking = name_ranking(focus, on_patches=result.model.on_patches)
    names = [f"{context.split}/{metric}" for metric in (ranking, f"ece/{focus}")]
    summary: dict[str, Any] = {name: round_number(result.metrics[name]) for name in names}
    differences = intervals.minus_image.get(result.name, {})
    if is_primary(result, context) and ranking in differences:
        interval = differences[ranking]
        ends = {"value": interval.value, "low": interval.low, "high": interval.high}
        summary["gain"] = {name: round_number(value) for name, value in ends.items()}
    return summary
