"""Controls as tables and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.core.naming import name_metric
from histofuse.evaluation.controls.measure import Controls
from histofuse.evaluation.controls.verdicts import ControlVerdict
from histofuse.evaluation.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    make_row,
)
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.metrics.clustered import explain_resampling
from histofuse.evaluation.performance.tables import Cell, Table
from histofuse.params.intervals import IntervalParams

TITLES: Final[Mapping[str, str]] = {
    "image": "Image alone",
    "label_blind": "Fusion, label-blind",
    "permuted": "Fusion, permuted",
    "label_aligned": "Fusion, label-aligned (leaky)",
    "linked": "Fusion, linked",
    "shuffled_labels": "Fusion, shuffled labels",
    "shuffled_targets": "Record, shuffled targets",
    "shuffled_images[label_blind]": "Label-blind, shuffled images",
    "shuffled_images[permuted]": "Permuted, shuffled images",
    "shuffled_images[label_aligned]": "Label-aligned (leaky), shuffled images",
}
_COLOURS: Final = {
    "image": BLACK,
    "label_blind": BLUE,
    "permuted": GREEN,
    "label_aligned": VERMILION,
    "shuffled_labels": GREY,
    "shuffled_images[label_blind]": BLUE,
    "shuffled_images[permuted]": GREEN,
    "shuffled_images[label_aligned]": VERMILION,
}


def make_control_tables(
    controls: Controls,
    verdicts: Sequence[ControlVerdict],
    intervals: IntervalParams,
    *,
    simulated: bool,
) -> list[Table]:
    """Make the tables of arms, of differences, of shuffles and of verdicts."""
    headings = {m: name_metric(m) for m in controls.metrics}
    arms: list[dict[str, Cell]] = [
        {"model": TITLES.get(arm, arm), **{m: found[m] for m in controls.metrics}}
        for arm, found in controls.arms.items()
    ]
    differences: list[dict[str, Cell]] = [
        {
            "model": f"{TITLES.get(new, new)} less {TITLES.get(old, old).lower()}",
            **{m: found[m].interval for m in controls.metrics},
        }
        for (new, old), found in controls.differences.items()
    ]
    shuffled: list[dict[str, Cell]] = []
    for name, found in controls.shuffled.items():
        values: dict[str, Cell] = {
            m: found[m].interval if m in found else None for m in controls.metrics
        }
        shuffled.append({"model": TITLES.get(name, name), **values})
    patches = controls.sizes["patches"]
    mark = ". Simulated data: no patients, no claim." if simulated else "."
    cases = explain_resampling(intervals, "cases")
    cases += (
        " With fewer than 10 cases an interval covers the true value less often than it claims."
    )
    shuffles = (
        f"Means over shuffles; in brackets {intervals.confidence:.0%} percentile intervals over "
        "shuffles and whole cases (of the record: patients). –: another model's classes."
    )
    chance = ", ".join(f"{name_metric(m)} {c:.3f}" for m, c in _find_chance(controls).items())
    notes = [shuffles, f"Knowing nothing scores: {chance}."]
    tables = [
        ("arms", f"Pairing arms, test split, {patches}{mark}", arms, [cases]),
        ("differences", f"Paired differences of arms, {patches}{mark}", differences, [cases]),
        ("shuffled", f"What shuffles leave, test split{mark}", shuffled, notes),
    ]
    made = [Table(n, c, {"model": "Arm"} | headings, r, notes) for n, c, r, notes in tables]
    words: list[dict[str, Cell]] = [
        {"model": v.question, "answer": v.answer, "sentence": v.sentence} for v in verdicts
    ]
    heads = {"model": "Question", "answer": "Answer", "sentence": "Why"}
    return [*made, Table("verdicts", f"What the controls say{mark}", heads, words, [])]


def _find_chance(controls: Controls) -> dict[str, float]:
    for name, found in controls.shuffled.items():
        if name != "shuffled_targets":
            return {m: s.chance for m, s in found.items() if s.chance is not None}
    return {}


def draw_controls(controls: Controls) -> Figure:
    """Draw arms and shuffles, a panel a metric, as points with intervals; chance is dashed."""
    rows: list[tuple[str, Mapping[str, Interval]]] = list(controls.arms.items())
    chance: dict[str, float] = {}
    for name, found in controls.shuffled.items():
        if name != "shuffled_targets":
            rows.append((name, {m: s.interval for m, s in found.items()}))
            chance |= {m: s.chance for m, s in found.items() if s.chance is not None}
    count = len(controls.metrics)
    size = (3.3 + 2.1 * count, 1.9 + 0.34 * len(rows))
    title = "Controls: pairing arms, and what shuffled labels and images leave"
    figure, panels = make_row(title, size, count, left=2.75, bottom=0.85)
    figure.subplots_adjust(wspace=0.12)
    for axes, metric in zip(panels, controls.metrics, strict=True):
        for place, (name, found) in enumerate(rows):
            _draw_point(axes, found.get(metric), place, name)
        if metric in chance:
            axes.axvline(chance[metric], color=GREY, linestyle="--", linewidth=1)
        axes.axhline(len(controls.arms) - 0.5, color=GREY, linewidth=0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [])
        axes.set_xlabel(name_metric(metric))
    panels[0].set_yticks(range(len(rows)), [TITLES.get(name, name) for name, _ in rows])
    return figure


def _draw_point(axes: Axes, interval: Interval | None, place: int, name: str) -> None:
    if interval is None or interval.value is None:
        return
    colour = _COLOURS.get(name, ORANGE if name == "linked" else PURPLE)
    marker = "s" if name.startswith("shuffled") else "o"
    face = "white" if name.startswith("shuffled") else colour
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=1.6)
    axes.plot(interval.value, place, marker, color=colour, markerfacecolor=face, markersize=5)
