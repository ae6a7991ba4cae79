"""Figures of the assessment: reliability before and after, decision curve, prediction sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.core.naming import show_name
from histofuse.evaluation.assessment.assess import Assessment
from histofuse.evaluation.assessment.conformal import Coverage
from histofuse.evaluation.assessment.decision_curves import DecisionCurve
from histofuse.evaluation.assessment.reliability import Bin
from histofuse.evaluation.assessment.subgroup_figure import draw_subgroups
from histofuse.evaluation.drawing import (
    BLUE,
    CLASS_COLOURS,
    GREY,
    VERMILION,
    describe_footer,
    make_axes,
    make_row,
    save_drawing,
)
from histofuse.evaluation.metrics.bootstrap import Interval


def draw_assessment(
    assessment: Assessment, split: str, coverage: float, confidence: float, folder: Path
) -> None:
    """Draw and save all figures of one model.

    Args:
        assessment: Of the model.
        split: The split reported.
        coverage: Asked of prediction sets.
        confidence: Of the intervals.
        folder: Where the figures go.
    """
    result = assessment.result
    title, classes = result.title, result.model.classes
    footer = describe_footer(result, split, result.model.of(split))
    drawings = {
        "reliability": (draw_reliabilities, (assessment.reliability, classes, confidence, title)),
        "decision_curve": (
            draw_decision_curve,
            (assessment.decision_curve, show_name(assessment.focus), title),
        ),
    }
    if assessment.coverage:
        given = (assessment.coverage, classes, coverage, title)
        drawings["conformal"] = (draw_coverage, given)
    if assessment.subgroups is not None:
        given = (assessment.subgroups, show_name(assessment.focus), title)
        drawings["subgroups"] = (draw_subgroups, given)
    for name, (draw, arguments) in drawings.items():
        save_drawing(draw, arguments, footer, folder / f"{name}.png")


def draw_reliabilities(
    reliability: Mapping[str, Mapping[str, list[Bin]]],
    classes: Sequence[str],
    confidence: float,
    title: str,
) -> Figure:
    """Draw bins with their intervals, before calibration on the left and after on the right."""
    height = 5.2
    figure, panels = make_row(f"{title}: reliability", (8.2, height), 2, left=0.75, bottom=1.45)
    figure.subplots_adjust(top=1 - 0.65 / height)
    for axes, side in zip(panels, ("before", "after"), strict=True):
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
        drawn = reliability[side]
        for n, (name, bins) in enumerate(drawn.items()):
            place = classes.index(name)
            colour = CLASS_COLOURS[place % len(CLASS_COLOURS)]
            # Side by side, so that the bars of two classes do not hide each other.
            _draw_bins(axes, bins, colour, show_name(name), (n - (len(drawn) - 1) / 2) * 0.012)
        axes.set_title(f"{side} calibration", loc="left")
        axes.set(xlabel="mean predicted probability", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    panels[0].set_ylabel("share that is of the class")
    panels[0].legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=4, borderaxespad=0)
    note = (
        f"Bars: {confidence:.0%} Wilson intervals on the effective number of rows, fewer where "
        "rows of a case agree. Area of points: rows."
    )
    figure.text(0.012, 0.085, note, fontsize=7.5, color=GREY)
    return figure


def _draw_bins(axes: Axes, bins: Sequence[Bin], colour: str, label: str, shift: float) -> None:
    x = np.array([b.predicted for b in bins]) + shift
    y = np.array([b.observed for b in bins])
    ends = np.array([[b.observed - b.low, b.high - b.observed] for b in bins]).reshape(-1, 2).T
    rows = np.array([b.rows for b in bins], dtype=np.float64)
    size = 12 + 80 * rows / max(rows.sum(), 1.0)
    axes.errorbar(x, y, np.maximum(ends, 0), fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)
    axes.scatter(x, y, s=size, color=colour, edgecolor="white", label=label, zorder=3)


def draw_decision_curve(curve: DecisionCurve, focus: str, title: str) -> Figure:
    """Draw net benefit with its band, against acting on all rows and on none."""
    figure, axes = make_axes(f"{title}: decision curve, {focus}", (5.6, 4.9), bottom=1.45)
    axes.axhline(0, color="black", linewidth=1, label="act on none")
    axes.plot(curve.thresholds, curve.treat_all, "--", color=GREY, label="act on all")
    axes.fill_between(curve.thresholds, curve.low, curve.high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(curve.thresholds, curve.model, color=BLUE, label="act on the model (band: interval)")
    top = np.nanmax(np.concatenate([curve.high, curve.model, curve.treat_all, [0.0]]))
    lowest = np.nanmin(np.concatenate([curve.low, curve.model, [0.0]]))
    axes.set_ylim(max(lowest, -top) - 0.06 * top, 1.06 * top + 1e-6)
    axes.set_xlim(0, float(curve.thresholds[-1]))
    axes.set(xlabel="threshold probability: act from here on", ylabel="net benefit a row")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, borderaxespad=0)
    return figure


def draw_coverage(
    coverage: Mapping[str, Coverage], classes: Sequence[str], asked: float, title: str
) -> Figure:
    """Draw the measured coverage of each class, a panel a method, with the coverage asked for."""
    size = (2.5 * len(coverage) + 1.7, 3.7)
    row = make_row(
        f"{title}: prediction sets, coverage", size, len(coverage), left=1.35, bottom=1.1
    )
    figure, panels = row
    names = ["all", *classes]
    for axes, (score, found) in zip(panels, coverage.items(), strict=True):
        axes.axvline(asked, color=VERMILION, linewidth=1, linestyle="--")
        for n, name in enumerate(names):
            _draw_interval(axes, n, found.intervals[f"coverage/{name}"])
        mean, empty = found.intervals["mean_size"].value, found.intervals["empty"].value
        sizes = f"mean size {mean or 0:.2f}, empty {empty or 0:.0%}"
        axes.set_title(f"{score}\n{sizes}", loc="left", fontsize=8.5)
        axes.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.5, -0.5), xlabel="share covered")
        axes.set_yticks(range(len(names)), [show_name(c) for c in names])
        if axes is not panels[0]:
            axes.tick_params(labelleft=False)
    figure.subplots_adjust(top=1 - 0.85 / size[1])
    note = f"dashed: {asked:.0%}, the coverage asked for"
    figure.text(0.012, 0.105, note, fontsize=7.5, color=GREY)
    return figure


def _draw_interval(axes: Axes, place: int, interval: Interval) -> None:
    if interval.value is None:
        axes.text(0.02, place, "not defined", va="center", fontsize=7.5, color=GREY)
        return
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=BLUE, linewidth=1.4)
    axes.plot([interval.value], [place], "o", color=BLUE, markersize=5)
