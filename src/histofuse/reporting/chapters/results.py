"""Chapters on results: rare class first, accuracy last, each number with its interval."""

from typing import Final

from histofuse.core.naming import name_model
from histofuse.reporting.blocks import Block, Chapter, Fold, Heading, Prose, not_run
from histofuse.reporting.figures import show_figures, show_model
from histofuse.reporting.inputs import Run
from histofuse.reporting.markdown_tables import leave_out, read_grids

_ORDER: Final = (
    "mitosis",
    "fusion_vs_image",
    "table1_image",
    "table2_tabular",
    "table2_diagnoses",
    "table3_all",
)
_LEFT_OUT: Final = ("ECE", "Brier"), "ECE and Brier score: see Calibration and use."
_FIGURES: Final = ("precision_recall", "confusion", "roc")


def write_results_chapter(run: Run) -> Chapter:
    """Write the chapter on results."""
    tables = run.tables
    known = [name for name in _ORDER if name in tables]
    ordered = [*known, *(name for name in tables if name not in known)]
    first, rest = ordered[:3], ordered[3:]
    text = (
        "Each table starts with average precision, recall and F1 of the rarest class and ends with "
        "accuracy, which can be high for a model that never finds that class."
    )
    tables = {name: leave_out(grid, *_LEFT_OUT) for name, grid in tables.items()}
    blocks: list[Block] = [Prose(text), *(tables[name] for name in first)]
    figures = run.locate("figures")
    blocks.append(show_figures(run, [figures / "comparison" / "fusion_vs_resnet.png"], ""))
    blocks += [tables[name] for name in rest]
    blocks.append(Heading("Curves by model"))
    blocks += [
        Fold(f"Figures of {name_model(name)}", [show_model(run, figures, name, _FIGURES)])
        for name in run.metrics["models"]
    ]
    return Chapter("results", "Results", blocks)


def write_crossval_chapter(run: Run) -> Chapter:
    """Write the chapter on cross-validation by case, and on the paper's protocol."""
    blocks: list[Block] = []
    titles = {"crossval": "Cross-validation by case", "protocol": "The paper's protocol and ours"}
    for name, title in titles.items():
        if name not in run.present:
            blocks.append(not_run(title, run.command(name)))
            continue
        folder = run.locate(name).parent
        blocks.append(Heading(title, f"{name}-results"))
        blocks += [run.guard(grid) for grid in read_grids(folder / "tables").values()]
    return Chapter("crossval", "Cross-validation", blocks)
