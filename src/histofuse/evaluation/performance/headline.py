"""The few numbers that DVC compares between experiments, and `histofuse next` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histofuse.core.naming import name_ranking
from histofuse.evaluation.metrics.bootstrap import round_number
from histofuse.evaluation.performance.intervals import Intervals
from histofuse.evaluation.performance.results import Context, Result, is_primary


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
