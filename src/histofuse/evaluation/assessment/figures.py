"""Figures of the assessment: reliability, decision curve, subgroups."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from histofuse.core.naming import show_name
from histofuse.evaluation.assessment.assess import Assessment
from histofuse.evaluation.assessment.calibration import Bin
from histofuse.evaluation.assessment.decision_curves import DecisionCurve
from histofuse.evaluation.assessment.subgroups import Attribute, Subgroup
from histofuse.evaluation.drawing import (
    BLUE,
    CLASS_COLOURS,
    GREY,
    describe_footer,
    draw_interval,
    make_axes,
    make_row,
    save_drawing,
)

PANELS: Final = {
    "auroc": "AUROC",
    "recall": "recall",
    "false_positive_rate": "false positive rate",
    "excess": "predicted − observed",
}
_ROW_INCHES: Final = 0.23


def draw_assessment(assessment: Assessment, split: str, confidence: float, folder: Path) -> None:
    """Draw and save all figures of one model."""
    result = assessment.result
    title, classes = result.title, result.model.classes
    footer = describe_footer(result, split, result.model.of(split))
    focus = show_name(assessment.focus)

    def save(name: str, draw: Callable[..., Figure], *arguments: Any) -> None:
        save_drawing(draw, (*arguments, title), footer, folder / f"{name}.png")

    save("reliability", draw_reliabilities, assessment.reliability, classes, confidence)
    save("decision_curve", draw_decision_curve, assessment.decision_curve, focus)
    if any(s.intervals for a in (assessment.subgroups or {}).values() for s in a.subgroups):
        save("subgroups", draw_subgroups, assessment.subgroups, focus)


def draw_reliabilities(
    reliability: Mapping[str, Mapping[str, list[Bin]]],
    classes: Sequence[str],
    confidence: float,
    title: str,
) -> Figure:
    """Draw bins with their intervals, a panel a class, before and after calibration."""
    names = list(reliability["after"])
    size = (1.2 + 3.1 * len(names), 4.9)
    heading = f"{title}: reliability"
    figure, panels = make_row(heading, size, len(names), left=0.75, bottom=1.55)
    figure.subplots_adjust(top=1 - 0.65 / size[1])
    for axes, name in zip(panels, names, strict=True):
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
        colour = CLASS_COLOURS[classes.index(name) % len(CLASS_COLOURS)]
        # Side by side, so that the bars do not hide each other.
        _draw_bins(axes, reliability["before"].get(name, []), GREY, "before calibration", -0.008)
        _draw_bins(axes, reliability["after"][name], colour, "after", 0.008)
        axes.set_title(show_name(name), loc="left")
        axes.set(xlabel="mean predicted probability", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    panels[0].set_ylabel("share that is of the class")
    columns = 3 if len(names) > 1 else 2  # of one panel the legend is cut at its edge
    panels[0].legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=columns, borderaxespad=0)
    note = (
        f"Bars: {confidence:.0%} Wilson intervals on the effective number of rows,\n"
        "fewer where rows of a case agree. Area of points: rows."
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
    heading = f"{title}: decision curve, {focus}"
    figure, axes = make_axes(heading, (5.6, 4.9), left=0.95, bottom=1.45)
    axes.axhline(0, color="black", linewidth=1, label="act on none")
    axes.fill_between(curve.thresholds, curve.low, curve.high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(curve.thresholds, curve.model, color=BLUE, label="act on the model (band: interval)")
    top = np.nanmax(np.concatenate([curve.high, curve.model, curve.treat_all, [0.0]]))
    lowest = np.nanmin(np.concatenate([curve.low, curve.model, [-0.5 * top]]))
    # It falls without end: it is drawn as far as the model's curve and band reach.
    shown = np.where(curve.treat_all >= lowest, curve.treat_all, np.nan)
    axes.plot(curve.thresholds, shown, "--", color=GREY, label="act on all (falls further)")
    axes.set_ylim(lowest - 0.06 * top, 1.06 * top + 1e-6)
    axes.set_xlim(0, float(curve.thresholds[-1]))
    axes.set(xlabel="threshold probability: act from here on", ylabel="net benefit a row")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, borderaxespad=0)
    return figure


def draw_subgroups(attributes: Mapping[str, Attribute], focus: str, title: str) -> Figure:
    """Draw every subgroup in a row under its attribute, a panel a metric."""
    lines = _list_lines(attributes)
    height = 1.9 + _ROW_INCHES * len(lines)
    heading = f"{title}: {focus} by subgroups of patients"
    figure, panels = make_row(heading, (10.2, height), len(PANELS), left=2.9, bottom=1.0)
    figure.subplots_adjust(top=1 - 0.65 / height, wspace=0.12)
    for axes, (metric, label) in zip(panels, PANELS.items(), strict=True):
        for place, (_, subgroup) in enumerate(lines):
            if subgroup is not None and subgroup.intervals:
                interval = subgroup.intervals[metric]
                draw_interval(axes, interval, place, BLUE, marker="o", markersize=4.5)
        axes.axvline(0.5 if metric == "auroc" else 0.0, color=GREY, linewidth=0.8, zorder=0)
        axes.set_title(label, loc="left")
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(*((-1.03, 1.03) if metric == "excess" else (-0.03, 1.03)))
        if metric != "excess":
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_yticks(range(len(lines)), [text for text, _ in lines])
        axes.tick_params(axis="y", length=0, labelleft=axes is panels[0])
        axes.grid(visible=False, axis="y")
    spread = _find_spread(lines)
    panels[-1].set_xlim(-spread, spread)
    panels[-1].xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    for text, (_, subgroup) in zip(panels[0].get_yticklabels(), lines, strict=True):
        text.set_fontweight("bold" if subgroup is None else "normal")
        text.set_color("black" if subgroup is None or subgroup.intervals else GREY)
    return figure


def _list_lines(attributes: Mapping[str, Attribute]) -> list[tuple[str, Subgroup | None]]:
    lines: list[tuple[str, Subgroup | None]] = []
    for name, attribute in attributes.items():
        lines.append((show_name(name), None))
        lines += [(_name_line(s), s) for s in attribute.subgroups]
    return lines


def _name_line(subgroup: Subgroup) -> str:
    if subgroup.note:
        return f"{subgroup.name} ({subgroup.note.split(':')[0]})"
    return f"{subgroup.name} ({subgroup.positives:,} of {subgroup.rows:,})"


def _find_spread(lines: list[tuple[str, Subgroup | None]]) -> float:
    ends = [0.05]
    for _, subgroup in lines:
        if subgroup is not None and subgroup.intervals:
            interval = subgroup.intervals["excess"]
            ends += [abs(e) for e in (interval.value, interval.low, interval.high) if e is not None]
    return 1.1 * max(ends)
