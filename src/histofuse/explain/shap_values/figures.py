"""Figures of SHAP values: beeswarm, importance, waterfall."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from histofuse.evaluation.drawing import write_figure
from histofuse.explain.shap_values.faithfulness import drawing_repeatably

RAISES, LOWERS, UNKNOWN, INK = "#c8433f", "#2f6db3", "#9a9a9a", "#333333"
GROUPS = {
    "demographics": "#5b8c5a",
    "utilisation": "#b08a3e",
    "comorbidity": "#7a5195",
    "laboratory": "#2f6db3",
    "treatment": "#c8433f",
}
OTHER_GROUP = "#777777"
WIDTH = 38  # characters in a line of a name
SHOWN = 15
SHOWN_FOR_PATIENT = 10
DPI = 150
LOG_ODDS = "SHAP value (change in log-odds of the uncalibrated model)"


def draw_importance(summary: pd.DataFrame, subject: str, path: Path) -> None:
    """Draw the mean |SHAP| of the first features as bars coloured by group."""
    top = summary.head(SHOWN).iloc[::-1]
    figure, axes = _start(len(top), "Mean |SHAP| by variable", subject)
    colours = [GROUPS.get(group, OTHER_GROUP) for group in top["group"]]
    bars = axes.barh(_with_unit(top), top["mean_abs_shap"], color=colours, height=0.7)
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8, color=INK)
    axes.margins(x=0.12)
    axes.set_xlabel("Mean |SHAP value| (log-odds)", fontsize=9)
    groups = list(dict.fromkeys(top["group"].iloc[::-1]))
    handles = [Patch(color=GROUPS.get(g, OTHER_GROUP), label=g) for g in groups]
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=8)
    write_figure(figure, path, DPI)


def draw_beeswarm(
    values: Float[np.ndarray, "n features"],
    natural: Sequence[Float[np.ndarray, " n"]],
    names: Sequence[str],
    subject: str,
    path: Path,
) -> None:
    """Draw each row's SHAP values as dots, coloured by the variable's value.

    The colour runs from the 5th to the 95th percentile; unknown values and categories are grey.
    """
    import shap

    shown = min(SHOWN, len(names))
    figure, axes = _start(shown, "SHAP values by variable", subject)
    labels = [wrap(name) for name in names]
    explained = shap.Explanation(values, data=np.column_stack(natural), feature_names=labels)
    with drawing_repeatably(0), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # categories
        shap.plots.beeswarm(
            explained,
            max_display=shown,
            ax=axes,
            show=False,
            plot_size=None,
            group_remaining_features=False,
            color_bar_label="Value (grey: not known, or a category)",
        )
    axes.tick_params(labelsize=8.5)
    axes.set_xlabel(LOG_ODDS, fontsize=9)
    bar = figure.axes[-1]
    bar.tick_params(labelsize=8)
    bar.yaxis.label.set_fontsize(8)
    write_figure(figure, path, DPI)


@dataclass(frozen=True)
class Patient:
    """One row, its SHAP values in log-odds from `base` on, and the features' values with units."""

    values: Float[np.ndarray, " features"]
    base: float
    names: Sequence[str]
    texts: Sequence[str]

    def list_steps(self, shown: int) -> tuple[list[str], Float[np.ndarray, " steps"]]:
        """List labels and log-odds: all but the largest together, then from small to large."""
        order = np.argsort(-np.abs(self.values), kind="stable")
        largest, rest = order[:shown][::-1], order[shown:]
        names = [wrap(f"{self.names[i]} = {self.texts[i]}") for i in largest]
        if not len(rest):
            return names, self.values[largest]
        steps = np.concatenate([[self.values[rest].sum()], self.values[largest]])
        return [f"{len(rest)} other variables", *names], steps


def draw_waterfall(patient: Patient, title: str, subject: str, path: Path) -> None:
    """Draw how one row's features lead from the mean log-odds to its own, the largest on top."""
    names, steps = patient.list_steps(SHOWN_FOR_PATIENT)
    figure, axes = _start(len(steps), title, subject)
    draw_steps(axes, names, steps, patient.base, ("mean of patients", "this patient"))
    axes.set_xlabel("Log-odds of the uncalibrated model", fontsize=9)
    write_figure(figure, path, DPI)


def draw_steps(
    axes: Axes,
    names: Sequence[str],
    steps: Float[np.ndarray, " steps"],
    base: float,
    ends_named: tuple[str, str],
) -> None:
    """Draw steps from a base on, from the bottom up, and name where they begin and end."""
    ends = base + np.cumsum(steps)
    low, high = min(base, float(ends.min())), max(base, float(ends.max()))
    room = (high - low) or 1.0
    digits = max(2, 1 - math.floor(math.log10(room)))  # so that a tenth of the range shows
    colours = [RAISES if step > 0 else LOWERS for step in steps]
    axes.barh(range(len(steps)), steps, left=ends - steps, color=colours, height=0.66, zorder=2)
    for height, (step, end) in enumerate(zip(steps.tolist(), ends.tolist(), strict=True)):
        place, colour = (end, float(height)), colours[height]
        _write_beside(axes, _signed(step, digits), place, left=step <= 0, size=8, colour=colour)
        if height + 1 < len(steps):
            axes.plot([end, end], [height, height + 1], color=UNKNOWN, linewidth=0.6, zorder=1)
    axes.set_yticks(range(len(steps)), names)
    axes.set_ylim(-0.9, len(steps) - 0.1)
    # Room for the numbers next to the bars, and on the right for the labels of the lines.
    axes.set_xlim(low - 0.16 * room, high + 0.24 * room)
    lines = (base, float(ends[-1])), ends_named, (-0.68, len(steps) - 0.36)
    for value, name, height in zip(*lines, strict=True):
        axes.axvline(value, color=INK, linewidth=0.7, linestyle=(0, (3, 3)), zorder=0)
        left = value > (low + high) / 2  # the side of the line that has room
        text = f"{name} {_signed(value, digits)}"
        _write_beside(axes, text, (value, height), left=left, size=7, colour=INK)


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _write_beside(
    axes: Axes, text: str, place: tuple[float, float], *, left: bool, size: int, colour: str
) -> None:
    axes.annotate(
        text,
        place,
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        va="center",
        ha="right" if left else "left",
        fontsize=size,
        color=colour,
        # A line that runs behind the text would strike it through.
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )


def _start(rows: int, title: str, subject: str) -> tuple[Figure, Axes]:
    height = 1.5 + 0.34 * rows
    figure = Figure(figsize=(8.2, height), layout="constrained")
    heading = 0.62 / height
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - heading))  # pyright: ignore
    kinds = {"x": 0.014, "ha": "left", "va": "top"}
    figure.text(y=1 - 0.1 / height, s=title, size=12, weight="bold", color=INK, **kinds)
    figure.text(y=1 - 0.36 / height, s=subject, size=8.5, color="#666666", **kinds)
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    axes.tick_params(axis="x", labelsize=8, labelcolor=INK)
    return figure, axes


def _with_unit(rows: pd.DataFrame) -> list[str]:
    pairs = zip(rows["meaning"].str.partition(";")[0], rows["unit"], strict=True)
    return [wrap(f"{meaning} ({unit})" if unit else meaning) for meaning, unit in pairs]


def wrap(text: str) -> str:
    """Write a name on at most two lines."""
    return textwrap.fill(textwrap.shorten(text, 2 * WIDTH - 4, placeholder=" …"), WIDTH)
