"""Chapters on the evidence: alarms and controls, calibration and use, explanations."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.core.naming import (
    name_check,
    name_map_method,
    name_model,
    name_pairing,
    show_interval,
    show_name,
)
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

_USE: Final = ("reliability", "decision_curve", "subgroups")
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

_TEXTS: Final = ("meaning", "concern", "note")
_SIDES: Final = {"higher": "above", "lower": "below"}
_TEST_TONES: Final[Mapping[str, Tone]] = {
    "good": "good",
    "concern": "bad",
    "inconclusive": "warn",
    "": "calm",
}


def write_controls_chapter(run: Run) -> Chapter:
    """Write the chapter on alarms and controls."""
    blocks: list[Block] = [Heading("Alarms", "alarms"), *_list_checks(run)]
    blocks.append(Heading("Controls", "control-arms"))
    if "controls" not in run.present:
        blocks.append(not_run("Controls", run.command("controls")))
        return Chapter("controls", "Controls and alarms", blocks, "not run")
    folder = run.locate("controls").parent
    tables = read_grids(folder / "tables")
    order = sorted(tables, key=lambda name: name != "verdicts")
    blocks += [run.guard(tables[name]) for name in order]
    blocks.append(show_figures(run, sorted(folder.rglob("*.png")), ""))
    return Chapter("controls", "Controls and alarms", blocks)


def _list_checks(run: Run) -> Iterator[Block]:
    alarms = run.read("alarms")
    if alarms is None:
        yield not_run("Alarms", run.command("alarms"))
        return
    rows = [
        [
            name_check(check["name"]),
            name_model(check["model"]) if check["model"] else "data",
            Mark(*_OUTCOMES[check["outcome"]]),
            check["detail"],
        ]
        for check in alarms["checks"]
    ]
    raised = [
        row for row, c in zip(rows, alarms["checks"], strict=True) if c["outcome"] != "passed"
    ]
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
        return Chapter("use", "Calibration and use", blocks, "not run")
    folder = run.locate("assessment").parent
    tables = read_grids(folder / "tables")
    for name in [*(n for n in _USE_TITLES if n in tables), *sorted(tables.keys() - _USE_TITLES)]:
        blocks += [
            Heading(_USE_TITLES.get(name, show_name(name).capitalize()), f"use-{name}"),
            *_shorten(run, run.guard(tables[name])),
        ]
    blocks.append(Heading("Reliability and decision curves by model"))
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
        missing = [not_run("Explanations", "dvc repro")]
        return Chapter("explanations", "Explanations", missing, "not run")
    blocks: list[Block] = [
        Prose(
            "Each map or ranking is shown with its tests: whether the decision depends on what it "
            "marks, and whether it changes when the network's weights are randomised."
        )
    ]
    titles = {
        "gradcam": "Maps of image networks",
        "fusion": "Maps through the fusion head",
        "shap": "SHAP",
    }
    for kind, title in titles.items():
        models = sorted(p for p in (root / kind).glob("*") if p.is_dir())
        if models:
            blocks.append(Heading(title, f"explain-{kind}"))
        for folder in models:
            blocks += _show_explained(run, folder, kind)
    if not run.shows_patients:
        text = "Of a restricted source, single patients and their tissue are not shown."
        blocks.append(Note("calm", text))
    return Chapter("explanations", "Explanations", blocks)


def _show_explained(run: Run, folder: Path, kind: str) -> list[Block]:
    name = name_model(folder.name)
    blocks: list[Block] = []
    summary = folder / "summary.json"
    if summary.is_file():
        blocks += _describe_maps(name, load_json(summary))
    tested = folder / "faithfulness.json"
    if tested.is_file():
        blocks += _tabulate_faithfulness(run, name, load_json(tested)["scores"])
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


def _describe_maps(name: str, maps: Mapping[str, Any]) -> Iterator[Block]:
    """Describe which maps are shown, why these, and whether they tell more than the centre."""
    text = (
        f"{name}: {maps['method']} maps of {maps['map_px']} × {maps['map_px']} cells on"
        f" {maps['layer']}, of the margin of the predicted class over the most likely other one;"
        f" {maps['empty_share']:.1%} of {maps['empty_patches']:,} maps are empty."
    )
    if maps["beats_centre"] is False:
        text += (
            " They are not shown to point better than the centre of the patch, and so tell nothing"
            " beyond “the nucleus”."
        )
    yield Prose(text)
    if choice := maps["choice"]:
        yield _tabulate_methods(name, choice)


def _tabulate_methods(name: str, choice: Mapping[str, Any]) -> Grid:
    """Tabulate the scores of methods of maps on validation patches, and say how one was chosen."""
    compared = choice["compared"]
    gains = [score for score in next(iter(compared.values())) if "_gain_over_" in score]
    rows: list[list[Cell]] = [
        [
            name_map_method(method),
            f"{scores['empty_share']:.1%}",
            f"{scores['head_randomisation_rank_correlation']:.2f}",
            *(f"{scores[gain]:+.3f}" for gain in gains),
            Mark("chosen", "good") if method == choice["method"]["name"] else "",
        ]
        for method, scores in compared.items()
    ]
    headings = [
        "Method",
        "Empty maps",
        "Random head",
        *(show_name(g).capitalize() for g in gains),
        "Choice",
    ]
    note = (
        "Chosen: the highest mean gain of deletion and insertion over a random order, among methods"
        f" with at most {choice['most_empty']:.0%} of empty maps, and a rank correlation of at most"
        f" {choice['most_alike']:g} with maps of a random head; among all where none keeps to both."
    )
    title = f"{name}: methods of maps on {choice['patches']} validation patches"
    return Grid(title, headings, rows, [note])


def _tabulate_faithfulness(
    run: Run, name: str, metrics: Mapping[str, Mapping[str, Any]]
) -> list[Block]:
    """Tabulate the tests, empty maps first; baselines, neither good nor bad, are folded."""
    headings = ["Test", "Value", "Good", "Outcome", "Meaning"]
    ordered = sorted(metrics, key=lambda metric: (metric != "empty_share", metric))
    metrics = {metric: metrics[metric] for metric in ordered}
    tests = {m: e for m, e in metrics.items() if e["limit"] is not None and "/" not in m}
    rest = {m: e for m, e in metrics.items() if m not in tests}
    caption = f"{name}: faithfulness of its explanations"
    few = run.rules.fewest_groups
    notes = [f"Judged by the interval; of fewer than {few} cases, or patients, it is inconclusive."]
    rows = [_describe_test(*t) for t in tests.items()]
    blocks: list[Block] = [Grid(caption, headings, rows, notes)]
    if rest:
        grid = Grid(f"{name}: baselines", headings, [_describe_test(*t) for t in rest.items()])
        blocks.append(Fold(f"Baselines of {name}", [grid]))
    return blocks


def _describe_test(metric: str, entry: Mapping[str, Any]) -> list[Cell]:
    return [
        show_name(metric).capitalize(),
        show_interval(entry["value"], entry["low"], entry["high"]),
        "–" if entry["limit"] is None else f"{_SIDES[entry['better']]} {entry['limit']:g}",
        Mark(entry["outcome"] or "not judged", _TEST_TONES[entry["outcome"]]),
        ". ".join(t[:1].upper() + t[1:] for t in (entry[p] for p in _TEXTS) if t),
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
