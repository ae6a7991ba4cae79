"""Figures of a study, by Optuna: its history, importance of the params, and good values of each."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from pydantic import TypeAdapter

from histofuse.core.naming import show_count
from histofuse.evaluation.drawing import DPI, GREY, STYLE, mark_source, write_figure
from histofuse.params.tune import Range
from histofuse.studies.space import to_distribution, to_stored
from histofuse.studies.trials import StudySpec, TrialRecord, count_unfinished

if TYPE_CHECKING:
    from optuna import Study

WIDTH = 7.2  # inches
LARGEST_TEXT = 9.5  # points
SLICES_IN_ROW = 3
FEWEST_FOR_IMPORTANCE = 5


def draw_study(spec: StudySpec, trials: Sequence[TrialRecord], folder: Path) -> None:
    """Draw history, importances, parallel coordinates and slices as PNG files of a folder."""
    counts = f"{show_count(trials, 'trials')}, {count_unfinished(trials)}"
    footer = f"{mark_source(spec.source)}  ·  {spec.metric} on {spec.measured_on}  ·  {counts}"
    study = rebuild_study(spec, trials)
    with drawing_in_style():
        for name, draw in (
            ("history", draw_history),
            ("importance", draw_importance),
            ("parallel_coordinates", draw_parallel),
            ("slices", draw_slices),
        ):
            finish(draw(spec, study), footer, folder / f"{name}.png")


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


def draw_parallel(spec: StudySpec, study: "Study") -> Figure:
    """Draw each complete trial as a line over its value and all params."""
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    axes = plot_parallel_coordinate(study, target_name=spec.metric)
    figure = _resize(axes, 4.6)
    for one in figure.axes:
        one.tick_params(labelsize=7, labelcolor="black")
        one.grid(visible=False)
        if one.get_yscale() == "log":
            one.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            one.yaxis.set_minor_locator(NullLocator())
            one.yaxis.set_major_formatter("{x:g}")
        for label in one.get_yticklabels():  # lines run behind them
            label.set_bbox({"facecolor": "white", "alpha": 0.7, "pad": 0.5, "linewidth": 0})
    # Optuna cuts the names, which it sorts.
    turned = {"rotation": 30, "rotation_mode": "anchor", "ha": "right"}
    places = range(1 + len(spec.space))
    axes.set_xticks(places, [spec.metric, *sorted(spec.space)], **turned)
    axes.set_title(f"Study {spec.name}: {spec.metric} and params of complete trials")
    return figure
