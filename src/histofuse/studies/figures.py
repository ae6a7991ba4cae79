"""Figures of a study: its history, importance of the params, and good values of each."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from pydantic import TypeAdapter

from histofuse.evaluation.drawing import (
    BLUE,
    DPI,
    FAINT,
    GREY,
    STYLE,
    VERMILION,
    mark_source,
    write_figure,
)
from histofuse.params.tune import Range
from histofuse.studies.space import to_distribution, to_stored
from histofuse.studies.trials import (
    StudySpec,
    TrialRecord,
    count_unfinished,
    find_best,
    place_value,
)

COLOURS = "viridis"
WIDTH = 7.2  # inches
FEWEST_FOR_IMPORTANCE = 5
LONGEST_LABEL = 12


def draw_study(spec: StudySpec, trials: Sequence[TrialRecord], folder: Path) -> None:
    """Draw history, importances, parallel coordinates and slices as PNG files of a folder."""
    for name, draw in (
        ("history", draw_history),
        ("importance", draw_importance),
        ("parallel_coordinates", draw_parallel),
        ("slices", draw_slices),
    ):
        with rc_context(STYLE):
            figure = draw(spec, trials)
        write_figure(figure, folder / f"{name}.png", DPI)


def draw_history(spec: StudySpec, trials: Sequence[TrialRecord]) -> Figure:
    """Draw the value of each trial and the best so far."""
    figure, axes = _make_figure(spec, trials, height=3.9)
    complete = _complete(trials)
    numbers = [t.number for t in complete]
    values = [_value(t) for t in complete]
    extreme = np.maximum if spec.direction == "maximize" else np.minimum
    best = extreme.accumulate(values)
    axes.step(numbers, best, where="post", color=BLUE, label="best so far")
    axes.scatter(numbers, values, s=18, color=GREY, zorder=3, label="trial")
    _mark_unfinished(axes, trials)
    axes.set(xlabel="trial", ylabel=spec.metric, title=f"Study {spec.name}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.5, max(len(trials), 2) - 0.5)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.15), ncols=4)
    return figure


def _mark_unfinished(axes: Axes, trials: Sequence[TrialRecord]) -> None:
    """Mark pruned and failed trials at the bottom of the axes."""
    foot: Any = axes.get_xaxis_transform()
    for state, name, marker in (("PRUNED", "pruned", "v"), ("FAIL", "failed", "x")):
        numbers = [t.number for t in trials if t.state == state]
        if numbers:
            label = f"{name} ({len(numbers)})"
            axes.scatter(numbers, [0.02] * len(numbers), s=20, marker=marker, color=VERMILION,
                         transform=foot, clip_on=False, label=label)  # fmt: skip


def draw_importance(spec: StudySpec, trials: Sequence[TrialRecord]) -> Figure:
    """Draw the share of the value's variance that each param explains."""
    shares = measure_importance(spec, trials)
    height = 1.6 + 0.32 * max(len(spec.space), 3)
    left = 0.05 + 0.078 * max(map(len, spec.space)) / WIDTH
    figure, axes = _make_figure(spec, trials, height=height, left=left)
    axes.set(title=f"Study {spec.name}: which params matter for {spec.metric}")
    if not shares:
        text = f"fewer than {FEWEST_FOR_IMPORTANCE} complete trials that differ"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set(xticks=[], yticks=[])
        return figure
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh(names, [shares[n] for n in names], color=BLUE, height=0.6)
    for row, name in enumerate(names):
        axes.text(shares[name] + 0.01, row, f"{shares[name]:.2f}", va="center", color=GREY)
    axes.set(xlim=(0, 1.08), xlabel="share of the variance (fANOVA over complete trials)")
    axes.grid(axis="y", visible=False)
    return figure


def measure_importance(spec: StudySpec, trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Measure the importance of each param by fANOVA; empty if too few trials differ."""
    import optuna
    from optuna.trial import create_trial

    complete = _complete(trials)
    space = TypeAdapter(dict[str, Range]).validate_python(spec.space)
    varied = [k for k in spec.space if len({_label(t.params[k]) for t in complete}) > 1]
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({_value(t) for t in complete}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=spec.direction, sampler=optuna.samplers.RandomSampler(0))
    distributions = {k: to_distribution(space[k]) for k in varied}
    for trial in complete:
        params = {k: to_stored(space[k], trial.params[k]) for k in varied}
        study.add_trial(create_trial(params=params, distributions=distributions, value=trial.value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    return {**dict.fromkeys(spec.space, 0.0), **shares}


def draw_parallel(spec: StudySpec, trials: Sequence[TrialRecord]) -> Figure:
    """Draw each complete trial as a line over all params, coloured by its value."""
    complete = sorted(_complete(trials), key=_value, reverse=spec.direction != "maximize")
    names = list(spec.space)
    longest = 0.05 * max(map(len, names))  # inches down, and left of the first, at 40 degrees
    height, foot, left = 3.6 + longest, 0.5 + longest, 0.07 + 0.05 * len(names[0]) / WIDTH
    edges = {"left": left, "right": 0.86, "top": 0.8, "bottom": foot / height}
    figure, axes = _make_figure(spec, trials, height=height, **edges)
    lines = [
        [(i, place_value(spec.space[name], t.params[name])) for i, name in enumerate(names)]
        for t in complete
    ]
    collection = LineCollection(lines, cmap=COLOURS, linewidths=1.4, alpha=0.85)
    collection.set_array(np.array([_value(t) for t in complete]))
    axes.add_collection(collection)
    for i, name in enumerate(names):
        axes.axvline(i, color=FAINT, zorder=0)
        _label_ends(axes, i, spec.space[name])
    axes.set(xlim=(-0.3, len(names) - 0.7), ylim=(-0.02, 1.02), yticks=[])
    turned = {"rotation": 40, "rotation_mode": "anchor", "ha": "right"}
    axes.set_xticks(range(len(names)), names, fontsize=8, **turned)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.set_title(f"Study {spec.name}: {len(complete)} complete trials", pad=22)
    bar = figure.add_axes((0.885, foot / height, 0.018, 0.8 - foot / height))
    figure.colorbar(collection, cax=bar).set_label(spec.metric)
    return figure


def _label_ends(axes: Axes, x: int, span: dict[str, Any]) -> None:
    """Write the ends of a range below and above its axis, or each value of a choice on it."""
    if span["type"] != "choice":
        low, high = _show_number(span["low"]), _show_number(span["high"])
        axes.text(x, -0.03, low, ha="center", va="top", fontsize=7.5, color=GREY)
        axes.text(x, 1.03, high, ha="center", va="bottom", fontsize=7.5, color=GREY)
        return
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    for value in span["of"]:
        axes.text(x, place_value(span, value), _shorten(_label(value)), ha="center", va="center",
                  fontsize=7, color=GREY, bbox=ground)  # fmt: skip


def draw_slices(spec: StudySpec, trials: Sequence[TrialRecord]) -> Figure:
    """Draw the value of each complete trial against each param, and mark pruned trials."""
    names = list(spec.space)
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.1 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    best = find_best(spec, trials)
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_slice(axes, spec.space[name], name, trials, best)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(spec.metric)
    marks = "darker later, best in red, pruned below" if _pruned(trials) else "best trial in red"
    figure.suptitle(f"Study {spec.name}: {spec.metric} by param ({marks})", fontsize=10)
    top, foot = 1 - 0.45 / figure.get_figheight(), 0.75 / figure.get_figheight()
    figure.subplots_adjust(left=0.1, right=0.97, top=top, bottom=foot, hspace=0.55, wspace=0.18)
    _write_footer(figure, spec, trials)
    return figure


def _draw_slice(
    axes: Axes,
    span: dict[str, Any],
    name: str,
    trials: Sequence[TrialRecord],
    best: TrialRecord | None,
) -> None:
    def place(trial: TrialRecord) -> Any:
        value = trial.params[name]
        return span["of"].index(value) if span["type"] == "choice" else value

    complete = _complete(trials)
    numbers = [t.number for t in complete]
    xs, ys = [place(t) for t in complete], [_value(t) for t in complete]
    axes.scatter(xs, ys, c=numbers, cmap="Blues", vmin=-len(trials), s=16, edgecolors="none")
    pruned = [place(t) for t in _pruned(trials)]
    foot: Any = axes.get_xaxis_transform()
    axes.scatter(pruned, [0.04] * len(pruned), s=18, marker="|", linewidths=0.8, color=VERMILION,
                 transform=foot)  # fmt: skip
    if best is not None:
        axes.scatter([place(best)], [_value(best)], s=30, color=VERMILION, zorder=3)
    if span["type"] == "choice":
        labels = [_shorten(_label(v)) for v in span["of"]]
        axes.set_xticks(range(len(labels)), labels, fontsize=7, rotation=15)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    else:
        _scale(axes, span)
    axes.set_xlabel(name, labelpad=2, fontsize=8)


def _scale(axes: Axes, span: dict[str, Any]) -> None:
    """Show the whole range, with plain numbers at the ticks."""
    low, high = span["low"], span["high"]
    if span["log"]:
        axes.set_xscale("log")
        pad = (high / low) ** 0.04
        axes.set_xlim(low / pad, high * pad)
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        pad = 0.04 * (high - low)
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=span["type"] == "int"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _show_number(value)))
    axes.tick_params(axis="x", labelsize=8)


def _make_figure(
    spec: StudySpec, trials: Sequence[TrialRecord], *, height: float, **edges: float
) -> tuple[Figure, Axes]:
    """Make a figure of a height in inches; other edges than usual as shares of the figure."""
    figure = Figure(figsize=(WIDTH, height))
    usual = {"left": 0.12, "right": 0.97, "top": 1 - 0.4 / height, "bottom": 0.95 / height}
    figure.subplots_adjust(**usual | edges)
    _write_footer(figure, spec, trials)
    return figure, figure.subplots()


def _write_footer(figure: Figure, spec: StudySpec, trials: Sequence[TrialRecord]) -> None:
    counts = f"{len(trials)} trials, {count_unfinished(trials)}"
    text = f"{mark_source(spec.source)}  ·  {spec.metric} on {spec.measured_on}  ·  {counts}"
    figure.text(0.02, 0.1 / figure.get_figheight(), text, fontsize=7.5, color=GREY)


def _complete(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [t for t in trials if t.state == "COMPLETE" and t.value is not None]


def _value(trial: TrialRecord) -> float:
    assert trial.value is not None
    return trial.value


def _label(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _pruned(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [t for t in trials if t.state == "PRUNED"]


def _show_number(value: int | float) -> str:
    return f"{value:g}".replace("e-0", "e-")


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
