"""One figure of models on patches, one of models on health records: folds and pooled intervals."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.evaluation.crossval.evaluate import CrossValidation
from histofuse.evaluation.crossval.report import choose_metrics
from histofuse.evaluation.drawing import (
    BLACK,
    CLASS_COLOURS,
    describe_footer,
    draw_interval,
    make_row,
    save_drawing,
)
from histofuse.evaluation.performance.results import Result

SHOWN = ("auprc", "recall", "f1", "auroc", "macro_f1")


def draw_crossval(crossval: CrossValidation, folder: Path) -> None:
    """Draw ``patches.png`` and ``health_records.png``, each where it has models."""
    for name, on_patches in (("patches", True), ("health_records", False)):
        results = [r for r in crossval.results if r.model.on_patches == on_patches]
        if results:
            footer = describe_footer(results[0], crossval.context.split, results[0].model)
            save_drawing(_draw, (crossval, results), footer, folder / f"{name}.png")


def _draw(crossval: CrossValidation, results: Sequence[Result]) -> Figure:
    """Draw a panel a metric: a dot a fold, and the pooled value with its interval."""
    columns = choose_metrics(results)
    count = len(crossval.folds.splits)
    share = f"{crossval.intervals.params.confidence:.0%}"
    title = (
        f"Cross-validation by case over {count} folds: all together with {share} interval, and each"
    )
    size = (11.5, 1.9 + 0.42 * len(results))
    figure, panels = make_row(title, size, len(SHOWN), left=3.1, bottom=1.05)
    for axes, column in zip(panels, SHOWN, strict=True):
        heading, metric = columns[column]
        _draw_panel(axes, metric, crossval, results)
        axes.set_xlabel(heading)
    panels[0].set_yticks(range(len(results)), [r.title for r in results])
    for axes in panels[1:]:
        axes.set_yticks(range(len(results)), [])
    _add_legend(figure, panels[0])
    return figure


def _draw_panel(
    axes: Axes, metric: str, crossval: CrossValidation, results: Sequence[Result]
) -> None:
    for row, result in enumerate(results):
        values = [m[metric] for m in crossval.per_fold[result.name]]
        known = [v for v in values if v is not None]
        colour = CLASS_COLOURS[1]
        axes.scatter(known, [row + 0.2] * len(known), s=14, color=colour, alpha=0.6, linewidths=0)
        pooled = crossval.intervals.of[result.name][metric]
        if pooled.value is None:
            axes.text(0.5, row, "not defined", fontsize=7, ha="center", va="center")
        draw_interval(axes, pooled, row - 0.12, BLACK, marker="D", markersize=5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(results) - 0.5, -0.6)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _add_legend(figure: Figure, axes: Axes) -> None:
    fold = axes.scatter([], [], s=14, color=CLASS_COLOURS[1], alpha=0.6, linewidths=0)
    (pooled,) = axes.plot([], [], marker="D", markersize=5, color=BLACK, linewidth=1.4)
    labels = ["a fold", "all folds together, with interval"]
    place = {"loc": "lower right", "bbox_to_anchor": (0.985, 0.0), "ncols": 2}
    figure.legend([fold, pooled], labels, **place)
