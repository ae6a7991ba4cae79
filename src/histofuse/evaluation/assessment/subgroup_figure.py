"""Forest plot of subgroups: AUROC, recall, and predicted against observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.core.naming import show_name
from histofuse.evaluation.assessment.subgroups import Attribute, Subgroup
from histofuse.evaluation.drawing import BLUE, GREY, make_row
from histofuse.evaluation.metrics.bootstrap import Interval

PANELS: Final = {
    "auroc": "AUROC",
    "recall": "recall",
    "false_positive_rate": "false positive rate",
    "excess": "predicted − observed",
}
_ROW_INCHES: Final = 0.23


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
                _draw_point(axes, place, subgroup.intervals[metric])
        axes.axvline(0.5 if metric == "auroc" else 0.0, color=GREY, linewidth=0.8, zorder=0)
        axes.set_title(label, loc="left")
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(*((-1.03, 1.03) if metric == "excess" else (-0.03, 1.03)))
        axes.set_yticks(range(len(lines)), [text for text, _ in lines])
        axes.tick_params(axis="y", length=0, labelleft=axes is panels[0])
        axes.grid(visible=False, axis="y")
    spread = _find_spread(lines)
    panels[-1].set_xlim(-spread, spread)
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


def _draw_point(axes: Axes, place: int, interval: Interval) -> None:
    if interval.value is None:
        return
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=BLUE, linewidth=1.4)
    axes.plot([interval.value], [place], "o", color=BLUE, markersize=4.5)
