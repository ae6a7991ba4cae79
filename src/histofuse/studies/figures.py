"""Figures of a study: its history, importance of the params, and good values of each.

Optuna draws them, except the parallel coordinates: there it cuts the names of params and writes the
values of one across the axis of the next.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from pydantic import TypeAdapter

from histofuse.evaluation.drawing import DPI, FAINT, GREY, STYLE, mark_source, write_figure
from histofuse.params.tune import Range
from histofuse.studies.space import to_distribution, to_stored
from histofuse.studies.trials import StudySpec, TrialRecord, count_unfinished, place_value

if TYPE_CHECKING:
    from optuna import Study

WIDTH = 7.2  # inches
LARGEST_TEXT = 9.5  # points
SLICES_IN_ROW = 3
FEWEST_FOR_IMPORTANCE = 5
LONGEST_LABEL = 12


def draw_study(spec: StudySpec, trials: Sequence[TrialRecord], folder: Path) -> None:
    """Draw history, importances, parallel coordinates and slices as PNG files of a folder."""
    counts = f"{len(trials)} trials, {count_unfinished(trials)}"
    footer = f"{mark_source(spec.source)}  ·  {spec.metric} on {spec.measured_on}  ·  {counts}"
    study = rebuild_study(spec, trials)
    with drawing_in_style():
        for name, draw in (
            ("history", draw_history),
            ("importance", draw_importance),
            ("slices", draw_slices),
        ):
            finish(draw(spec, study), footer, folder / f"{name}.png")
        finish(draw_parallel(spec, trials), footer, folder / "parallel_coordinates.png")


def rebuild_study(spec: StudySpec, trials: Sequence[TrialRecord]) -> "Study":
    """Rebuild the study in memory, as Optuna's functions take it."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = TypeAdapter(dict[str, Range]).validate_python(spec.space)
    study = optuna.create_study(direction=spec.direction)
    for trial in trials:
        rebuilt = create_trial(
            state=TrialState[trial.state],
            value=trial.value,
            params={key: to_stored(space[key], value) for key, value in trial.params.items()},
            distributions={key: to_distribution(space[key]) for key in trial.params},
        )
        study.add_trial(rebuilt)
    return study


@contextmanager
def drawing_in_style() -> Iterator[None]:
    """Draw without a screen; leave neither style nor figures behind."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    # The numbers on logarithmic axes are formulas.
    changes: dict[Any, Any] = {"text.parse_math": True, "figure.constrained_layout.use": True}
    with rc_context(STYLE | changes), warnings.catch_warnings(action="ignore"):
        yield
    pyplot.close("all")


def finish(figure: Figure, footer: str, path: Path) -> None:
    """Lay out a figure, put the footer under it and write it as a PNG file."""
    for text in figure.findobj(Text):  # those of Optuna's style leave long names no room
        text.set_fontsize(min(text.get_fontsize(), LARGEST_TEXT))
    figure.supxlabel(footer, x=0.02, ha="left", fontsize=7.5, color=GREY)
    figure.set_layout_engine("constrained")
    write_figure(figure, path, DPI)


def draw_history(spec: StudySpec, study: "Study") -> Figure:
    """Draw the value of each trial and the best so far."""
    from optuna.visualization.matplotlib import plot_optimization_history

    axes = plot_optimization_history(study, target_name=spec.metric)
    axes.set_title(f"Study {spec.name}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _resize(axes, 3.9)


def draw_importance(spec: StudySpec, study: "Study") -> Figure:
    """Draw the share of the value's variance that each param explains, by fANOVA."""
    from matplotlib import pyplot
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization.matplotlib import plot_param_importances

    values = [t.value for t in study.trials if t.value is not None]
    if len(values) < FEWEST_FOR_IMPORTANCE or len(set(values)) < 2:
        axes = pyplot.subplots()[1]
        text = f"fewer than {FEWEST_FOR_IMPORTANCE} complete trials that differ"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set(xticks=[], yticks=[])
    else:
        axes = plot_param_importances(study, FanovaImportanceEvaluator(seed=0))
        axes.set(xlabel="share of the variance (fANOVA over complete trials)", ylabel="")
        axes.legend().remove()
    axes.set_title(f"Study {spec.name}: which params matter for {spec.metric}", loc="left")
    return _resize(axes, 1.6 + 0.32 * max(len(spec.space), 3))


def draw_slices(spec: StudySpec, study: "Study") -> Figure:
    """Draw the value of each complete trial against each param; later trials are darker."""
    from optuna.visualization.matplotlib import plot_slice

    slices = np.atleast_1d(np.array(plot_slice(study, target_name=spec.metric)))
    figure = slices[0].figure
    # Optuna's one row of nine params would be two feet wide.
    rows = math.ceil(len(slices) / SLICES_IN_ROW)
    grid = figure.add_gridspec(rows, SLICES_IN_ROW)
    for place, axes in enumerate(slices):
        axes.set_subplotspec(grid[place])
        axes.tick_params("x", labelsize=7, rotation=45)
        axes.tick_params("y", labelleft=place % SLICES_IN_ROW == 0)
        axes.set_xlabel(axes.get_xlabel(), fontsize=8)
    figure.suptitle(f"Study {spec.name}: {spec.metric} by param", fontsize=10)
    return _resize(slices[0], 0.9 + 2.3 * rows)


def _resize(axes: Axes, height: float) -> Figure:
    """Give the figure of some axes our width and a height in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(WIDTH, height)
    return figure


def draw_parallel(spec: StudySpec, trials: Sequence[TrialRecord]) -> Figure:
    """Draw each complete trial as a line over all params, coloured by its value."""
    complete = [(t.value, t.params) for t in trials if t.value is not None]
    complete.sort(key=itemgetter(0), reverse=spec.direction != "maximize")
    spans = list(enumerate(spec.space.items()))
    lines = [
        [(x, place_value(span, params[name])) for x, (name, span) in spans]
        for _, params in complete
    ]
    figure = Figure(figsize=(WIDTH, 4.6))
    axes = figure.subplots()
    collection = LineCollection(lines, cmap="viridis", linewidths=1.4, alpha=0.85)
    collection.set_array(np.array([value for value, _ in complete]))
    axes.add_collection(collection)
    for x, (_, span) in spans:
        axes.axvline(x, color=FAINT, zorder=0)
        _label_ends(axes, x, span)
    axes.set(xlim=(-0.3, len(spec.space) - 0.7), ylim=(-0.02, 1.02), yticks=[])
    turned = {"rotation": 40, "rotation_mode": "anchor", "ha": "right"}
    axes.set_xticks(range(len(spec.space)), list(spec.space), fontsize=8, **turned)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.set_title(f"Study {spec.name}: {len(complete)} complete trials", pad=18)
    figure.colorbar(collection, ax=axes, label=spec.metric)
    return figure


def _label_ends(axes: Axes, x: int, span: dict[str, Any]) -> None:
    """Write the ends of a range below and above its axis, or each value of a choice on it."""
    if span["type"] != "choice":
        axes.text(x, -0.03, f"{span['low']:g}", ha="center", va="top", fontsize=7.5, color=GREY)
        axes.text(x, 1.03, f"{span['high']:g}", ha="center", va="bottom", fontsize=7.5, color=GREY)
        return
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    for value in span["of"]:
        axes.text(x, place_value(span, value), _shorten(str(value)), ha="center", va="center",
                  fontsize=7, color=GREY, bbox=ground)  # fmt: skip


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
