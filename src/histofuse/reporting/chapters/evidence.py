"""Chapters on the evidence: alarms and controls, calibration and use, explanations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.core.naming import name_check, name_model, name_pairing, show_interval, show_name
from histofuse.reporting.blocks import (
    Block,
    Cell,
    Chapter,
    Fold,
    Grid,
    Heading,
    Mark,
    Note,
    Prose,
    Tone,
    not_run,
)
from histofuse.reporting.figures import show_figures, show_model
from histofuse.reporting.inputs import Run
from histofuse.reporting.markdown_tables import read_grids
from histofuse.reporting.small_cells import hide_small_rows

_USE: Final = ("reliability", "decision_curve", "conformal", "subgroups")
_USE_TITLES: Final[Mapping[str, str]] = {
    "calibration": "Calibration",
    "operating_points": "Operating points",
    "conformal": "Prediction sets",
    "subgroups": "Subgroups",
}
_LONGEST: Final = 12
_CARDS: Final = 2
_OUTCOMES: Final[Mapping[str, tuple[str, Tone]]] = {
    "passed": ("passed", "good"),
    "alarm": ("alarm", "bad"),
    "not_made": ("not checked", "warn"),
}


def write_controls_chapter(run: Run) -> Chapter:
    """Write the chapter on alarms and controls."""
    blocks: list[Block] = [Heading("Alarms", "alarms"), *_list_checks(run)]
    blocks.append(Heading("Controls", "control-arms"))
    found = run.read("controls")
    if found is None:
        blocks.append(not_run("Controls", run.command("controls")))
        return Chapter("controls", "Controls and alarms", blocks)
    folder = run.locate("controls").parent
    tables = read_grids(folder / "tables")
    order = sorted(tables, key=lambda name: name != "verdicts")
    blocks += [_guard(run, tables[name]) for name in order]
    blocks.append(show_figures(run, sorted(folder.rglob("*.png")), ""))
    return Chapter("controls", "Controls and alarms", blocks)


def _list_checks(run: Run) -> Iterator[Block]:
    found = run.read("alarms")
    if found is None:
        yield not_run("Alarms", run.command("alarms"))
        return
    rows = [
        [
            name_check(check["name"]),
            name_model(check["model"]) if check["model"] else "data",
            Mark(*_OUTCOMES[check["outcome"]]),
            check["detail"],
        ]
        for check in found["checks"]
    ]
    raised = [row for row, c in zip(rows, found["checks"], strict=True) if c["outcome"] != "passed"]
    headings = ["Check", "Model", "Outcome", "Detail"]
    if raised:
        yield Grid("Checks that raised an alarm or could not be run", headings, raised)
    caption = f"All {len(rows)} checks"
    yield Fold(caption, [Grid(caption, headings, rows)])


def write_use_chapter(run: Run) -> Chapter:
    """Write the chapter on calibration and use."""
    blocks: list[Block] = []
    if "assessment" not in run.present:
        blocks.append(not_run("Calibration and use", run.command("assessment")))
        return Chapter("use", "Calibration and use", blocks)
    folder = run.locate("assessment").parent
    tables = read_grids(folder / "tables")
    for name in [*(n for n in _USE_TITLES if n in tables), *sorted(tables.keys() - _USE_TITLES)]:
        blocks += [
            Heading(_USE_TITLES.get(name, show_name(name).capitalize()), f"use-{name}"),
            *_shorten(run, _guard(run, tables[name])),
        ]
    blocks.append(Heading("Reliability, decision curves and prediction sets by model"))
    shown = folder / "figures"
    for model in run.metrics["models"]:
        gallery = show_model(run, shown, model, _USE)
        if gallery.figures:
            blocks.append(Fold(f"Figures of {name_model(model)}", [gallery]))
    return Chapter("use", "Calibration and use", blocks)


def write_explanations_chapter(run: Run) -> Chapter:
    """Write the chapter on explanations and their faithfulness."""
    root = run.locate("explain")
    if "explain" not in run.present:
        return Chapter("explanations", "Explanations", [not_run("Explanations", "dvc repro")])
    blocks: list[Block] = [
        Prose(
            "Each map or ranking is shown with its tests: whether the decision depends on what it "
            "marks, and whether it changes when the network's weights are randomised."
        ),
    ]
    titles = {"gradcam": "Grad-CAM", "fusion": "Grad-CAM through the fusion head", "shap": "SHAP"}
    for kind, title in titles.items():
        models = sorted(p for p in (root / kind).glob("*") if p.is_dir())
        if models:
            blocks.append(Heading(title, f"explain-{kind}"))
        for folder in models:
            blocks += _show_explained(run, folder, kind)
    if not run.shows_patients:
        text = "The records are under a data use agreement: single patients are not shown."
        blocks.append(Note("calm", text))
    return Chapter("explanations", "Explanations", blocks)


def _show_explained(run: Run, folder: Path, kind: str) -> list[Block]:
    name = name_model(folder.name)
    blocks: list[Block] = []
    summary = folder / "summary.json"
    if summary.is_file():
        blocks.append(Prose(f"{name}: {_describe_maps(load_json(summary))}"))
    tested = folder / "faithfulness.json"
    if tested.is_file():
        blocks += _tabulate_faithfulness(name, load_json(tested))
    sheets = sorted(folder.glob("contact_sheet_*.png"))
    cards = sorted(folder.rglob("case_card*.png"))
    ranks = [folder / f"{stem}.png" for stem in ("mean_abs_shap", "beeswarm")]
    waterfalls = sorted(folder.glob("waterfall*.png"))
    shown = show_figures(run, [*sheets, *ranks, *waterfalls], name)
    if shown.figures:
        blocks.append(shown if kind == "shap" else Fold(f"Contact sheets of {name}", [shown]))
    if figures := show_figures(run, cards, name).figures:
        blocks += [Heading(f"Case cards of {name}"), *figures[:_CARDS]]
        if len(figures) > _CARDS:
            blocks.append(Fold(f"{len(figures) - _CARDS} more case cards", figures[_CARDS:]))
    return blocks


def _describe_maps(summary: Mapping[str, Any]) -> str:
    side, share = summary.get("map_px"), summary.get("empty_share")
    text = f"maps of {side} × {side} cells on {summary.get('layer')}"
    if share is not None:
        text += f"; {100 * share:.1f} % of {summary.get('empty_patches', 0):,} maps are empty"
    return text


def _tabulate_faithfulness(name: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Tabulate the tests; their baselines, which are neither good nor bad, are folded."""
    headings = ["Test", "Value", "Better", "Concern", "Meaning"]
    tests = {m: e for m, e in metrics.items() if e.get("better") or e.get("concern")}
    rest = {m: e for m, e in metrics.items() if m not in tests}
    caption = f"{name}: faithfulness of its explanations"
    blocks: list[Block] = [Grid(caption, headings, [_describe_test(*t) for t in tests.items()])]
    if rest:
        grid = Grid(f"{name}: baselines", headings, [_describe_test(*t) for t in rest.items()])
        blocks.append(Fold(f"Baselines of {name}", [grid]))
    return blocks


def _describe_test(metric: str, entry: Mapping[str, Any]) -> list[Cell]:
    said = (entry.get("meaning"), entry.get("concern"), entry.get("note"))
    return [
        show_name(metric).capitalize(),
        show_interval(entry["value"], entry.get("low"), entry.get("high")),
        entry.get("better") or "–",
        Mark("concern", "bad") if entry.get("concern") else Mark("none", "calm"),
        ". ".join(text for text in said if text),
    ]


def _shorten(run: Run, grid: Grid) -> list[Block]:
    """Show the rows of the leading models of a long table, and fold the rest."""
    encoder = run.params["encoders"]["image"]
    pairing = name_pairing(run.primary).replace("_", "-")
    leaders = (name_model(encoder), "XGBoost", f", {pairing}")
    kept = [row for row in grid.rows if str(row[0]).endswith(leaders)]
    if len(grid.rows) <= _LONGEST or not kept:
        return [grid]
    short = Grid(grid.caption, grid.headings, kept, grid.notes)
    whole = Grid(grid.caption, grid.headings, grid.rows)
    return [short, Fold(f"All {len(grid.rows)} rows", [whole])]


def _guard(run: Run, grid: Grid) -> Grid:
    return grid if run.shows_patients else hide_small_rows(grid)
