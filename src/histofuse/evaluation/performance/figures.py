"""Figures: confusion matrix, ROC, precision-recall, training curves, comparison."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from histofuse.core.naming import name_metric, show_ends, show_name
from histofuse.evaluation.drawing import (
    BELOW,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    SQUARE,
    VERMILION,
    YELLOW,
    choose_classes,
    describe_footer,
    draw_interval,
    frame_unit_square,
    make_axes,
    make_row,
    save_drawing,
)
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.metrics.classification import count_confusion, count_cuts
from histofuse.evaluation.performance.comparison import HEADLINE, Comparison
from histofuse.evaluation.performance.intervals import Intervals
from histofuse.evaluation.performance.results import Result
from histofuse.evaluation.performance.training import find_choice
from histofuse.evaluation.predictions import Predictions

Known = Mapping[str, Interval]


def draw_model_figures(result: Result, split: str, intervals: Intervals, folder: Path) -> None:
    """Draw and save all figures of one model on one split."""
    rows, known = result.model.of(split), intervals.of[result.name]
    footer = describe_footer(result, split, rows)
    for name, draw, arguments in (
        ("confusion", draw_confusion, (rows, result.title)),
        ("roc", draw_roc, (rows, result.title, known)),
        ("precision_recall", draw_precision_recall, (rows, result.title, known)),
    ):
        save_drawing(draw, arguments, footer, folder / f"{name}.png")
    history, choice = result.model.history, find_choice(result.model.config)
    if len(history) > 1:  # one step is no curve
        of = describe_footer(result, "train and validation")
        given = (history, result.title, choice[0] if choice else None)
        save_drawing(draw_training, given, of, folder / "training.png")


def draw_comparison_figure(
    comparison: Comparison, split: str, intervals: Intervals, path: Path
) -> None:
    """Draw and save fusion next to the image model it is built on."""
    widest = comparison.fused[0]
    footer = describe_footer(widest, split, widest.model.of(split))
    save_drawing(draw_comparison, (comparison, intervals), footer, path)


def draw_confusion(rows: Predictions, title: str) -> Figure:
    """Draw counts, shaded by their share of the true class."""
    classes = [textwrap.fill(show_name(c), 12) for c in rows.classes]
    counts = count_confusion(rows.labels, rows.predictions, len(classes))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = make_axes(f"{title}: confusion matrix", (4.6, 4.7), left=1.2, bottom=1.15)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:,}\n{share[i, j]:.1%}" if counts[i].sum() else "none"
        colour = "white" if share[i, j] > 0.55 else "black"
        axes.text(j, i, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class (shares sum to 100 % in a row)")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_roc(rows: Predictions, title: str, known: Known) -> Figure:
    """Draw one-against-rest ROC curves, their areas with the intervals known of ``auroc/…``."""
    figure, axes = make_axes(f"{title}: ROC, one class against the rest", SQUARE, bottom=BELOW)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="chance")
    for k, name, colour in choose_classes(rows):
        positive = rows.labels == k
        if not positive.any() or positive.all():
            axes.plot([], [], color=colour, label=f"{name}: not defined")
            continue
        x, y = count_cuts(rows.probabilities[:, k], positive).trace_roc()
        area = f"{np.trapezoid(y, x):.3f}{_show_ends(known, f'auroc/{rows.classes[k]}')}"
        axes.plot(x, y, color=colour, label=f"{name}: AUC {area}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate (recall)")
    frame_unit_square(axes)
    return figure


def _show_ends(intervals: Known, metric: str) -> str:
    interval = intervals.get(metric)
    return f" {show_ends(interval.low, interval.high)}".rstrip() if interval else ""


def draw_precision_recall(rows: Predictions, title: str, known: Known) -> Figure:
    """Draw precision-recall curves, with each class's share as the level of chance."""
    figure, axes = make_axes(f"{title}: precision and recall", SQUARE, bottom=BELOW)
    for k, name, colour in choose_classes(rows):
        positive = rows.labels == k
        if not positive.any():
            axes.plot([], [], color=colour, label=f"{name}: not defined")
            continue
        cuts = count_cuts(rows.probabilities[:, k], positive)
        area = (np.diff(cuts.recall, prepend=0.0) * cuts.precision).sum()
        ends = _show_ends(known, f"auprc/{rows.classes[k]}")
        axes.step(
            *cuts.trace_precision_recall(),
            where="pre",
            color=colour,
            label=f"{name}: AP {area:.3f}{ends} (chance {positive.mean():.3f})",
        )
        axes.axhline(float(positive.mean()), linestyle=":", color=colour, linewidth=1)
    axes.set(xlabel="recall", ylabel="precision")
    frame_unit_square(axes)
    return figure


TRAIN_COLOUR, VALIDATION_COLOUR = SKY, VERMILION
SCORES = {"accuracy": ("accuracy", "-"), "macro_f1": ("macro F1", "--"), "auroc": ("AUROC", ":")}


def draw_training(history: pd.DataFrame, title: str, kept: int | None = None) -> Figure:
    """Draw loss on the left and scores on the right, by epoch or round; mark the one kept."""
    row = make_row(f"{title}: training", (7.6, 4.4), 2, left=0.75, bottom=1.6)
    figure, (left, right) = row
    step = str(history.columns[0])
    for part, colour in (("train", TRAIN_COLOUR), ("validation", VALIDATION_COLOUR)):
        _draw_history(left, history, {f"{part}_loss": (part, "-")}, colour)
        scores = {f"{part}_{s}": (f"{part} {name}", line) for s, (name, line) in SCORES.items()}
        _draw_history(right, history, scores, colour)
    left.set_ylabel("loss")
    right.set_ylabel("score")
    for axes in (left, right):
        axes.set_xlabel(show_name(step))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if kept is not None:
            axes.axvline(kept, color=GREY, linewidth=1, linestyle="--", label=f"kept: {kept}")
        if axes.has_data():
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), borderaxespad=0, ncols=2)
    return figure


def _draw_history(
    axes: Axes, history: pd.DataFrame, columns: dict[str, tuple[str, str]], colour: str
) -> None:
    """Draw the columns that are there; two points or fewer get markers."""
    x = history[history.columns[0]].to_numpy(dtype=np.float64)
    marker = "o" if len(x) < 3 else None
    for column, (label, line) in columns.items():
        if column in history:
            y = history[column].to_numpy(dtype=np.float64)
            axes.plot(x, y, line, color=colour, label=label, marker=marker)


def draw_comparison(comparison: Comparison, intervals: Intervals) -> Figure:
    """Draw metrics side by side with their intervals, the rare class first; leaky models hollow.

    Source: paper, Figure 7.
    """
    models = [comparison.image, *comparison.fused]
    focus = comparison.image.model.focus_class
    headline = {f"auprc/{focus}": name_metric(f"auprc/{focus}"), **HEADLINE}
    title = f"{comparison.image.title} and fusion on its embedding"
    size = (8.6, 1.7 + (0.3 + 0.19 * len(models)) * len(headline))
    figure, axes = make_axes(title, size, left=1.3, bottom=1.45)
    colours = (BLACK, BLUE, GREEN, ORANGE, PURPLE, YELLOW, SKY)
    for n, (result, colour) in enumerate(zip(models, colours, strict=False)):
        shift = 0.7 * (n / max(1, len(models) - 1) - 0.5)
        point: dict[str, Any] = {
            "marker": "o",
            "markerfacecolor": "white" if result.leaky else colour,
        }
        label = f"{result.title} (leaky)" if result.leaky else result.title
        axes.plot([], [], color=colour, label=label, **point)
        for row, metric in enumerate(headline):
            if interval := intervals.of[result.name].get(metric):
                draw_interval(axes, interval, row + shift, colour, **point)
    axes.set_yticks(range(len(headline)), list(headline.values()))
    axes.set_ylim(len(headline) - 0.5, -0.5)
    axes.set_xlabel("score, with its interval")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.62 / size[1]), ncols=2, borderaxespad=0)
    return figure
