"""The page of a validation on another data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import write_text
from histofuse.core.naming import name_metric, name_model, show_name
from histofuse.evaluation.external.shift import Distance
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.reporting.blocks import Block, Cell, Chapter, Grid, Mark, Note
from histofuse.reporting.markdown_tables import read_grids
from histofuse.reporting.page import SIMULATED_DATA, SIMULATED_MODEL, render_page
from histofuse.reporting.pictures import embed_picture

_NAMES: Final = {
    "in_the_large": "Calibration in the large (0 is perfect)",
    "slope": "Calibration slope (1 is perfect)",
    "observed": "Share observed",
    "predicted": "Mean probability",
    "brier": "Brier score",
}
_ALT: Final = {
    "reliability": "Observed share against predicted probability",
    "decision_curve": "Net benefit against the probability from which one would act",
    "subgroups": "Scores by subgroup, with intervals",
}


def write_external_page(
    folder: Path,
    facts: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Interval]],
    distances: Mapping[str, Distance],
) -> None:
    """Write ``index.html`` from what `folder` holds."""
    title = f"{name_model(facts['model'])} on {facts['name']}"
    first: list[Block] = [_summarise(distances), _tabulate_scores(facts, scores)]
    if facts["notes"]:
        first.append(Note("calm", "About the data", facts["notes"]))
    chapters = [Chapter("result", f"{title}: {facts['size']}", first)]
    for side, distance in distances.items():
        lead = f"{len(distance.alarms)} of {len(distance.shifts)} comparisons differ"
        blocks = [_tabulate_shifts(distance)]
        chapters.append(Chapter(f"shift-{side}", f"Inputs: {side}", blocks, lead))
    figures: list[Block] = [
        embed_picture(path, _ALT[path.stem], _ALT[path.stem] + ".")
        for path in sorted((folder / "figures").glob("*.png"))
    ]
    grids: list[Block] = list(read_grids(folder / "tables").values())
    lead = "as fitted in training; the test split is this data set"
    chapters.append(Chapter("assessment", "Decisions, sets, subgroups", [*figures, *grids], lead))
    footer = f"Model {facts['digest'][:12]}. Nothing was refitted. For research only."
    caution = SIMULATED_MODEL if "simulated" in facts["trained_on"] else None
    caution = SIMULATED_DATA if "simulated" in facts["sources"].values() else caution
    page = render_page(
        chapters, caution=caution, footer=footer, title=f"External validation: {title}"
    )
    write_text(page, folder / "index.html")


def _summarise(distances: Mapping[str, Distance]) -> Note:
    alarms = [s for distance in distances.values() for s in distance.alarms]
    if not alarms and any(distance.few_units for distance in distances.values()):
        text = "Too few cases or patients for a difference to show."
        return Note("calm", "Inputs against training: inconclusive", [text])
    if not alarms:
        text = "No feature, outcome or combination of them differs by more than chance allows."
        return Note("good", "Inputs are like those of training", [text])
    return Note("bad", "Inputs differ from those of training", list(map(str, alarms)))


def _tabulate_scores(
    facts: Mapping[str, Any], scores: Mapping[str, Mapping[str, Interval]]
) -> Grid:
    names = list(next(iter(scores.values())))
    rows = [
        [_NAMES.get(n) or name_metric(n)] + [str(of[n]) for of in scores.values()] for n in names
    ]
    notes = ["At home: the test split that the model was developed with."]
    notes.append("Decisions (recall, precision) are those at the stored thresholds.")
    if facts["recalibration"]:
        part, rest = facts["recalibration"]["fitted_on"], facts["recalibration"]["measured_on"]
        notes.append(f"Recalibrated on a part of this data set ({part}), measured on {rest}.")
    headings = ["", *(where.capitalize() for where in scores)]
    return Grid("Scores, with intervals over cases or patients", headings, rows, notes)


def _tabulate_shifts(distance: Distance) -> Grid:
    rows: list[list[Cell]] = []
    alike = Mark("inconclusive", "calm") if distance.few_units else Mark("alike", "good")
    for s in distance.shifts:
        mark = Mark("differs", "bad") if s.p < distance.level else alike
        p = "< 0.001" if s.p < 0.001 else f"{s.p:.3f}"
        rows.append([show_name(s.name), s.training, s.here, p, s.note, mark])
    notes = ["Numbers are medians, texts the most common one; one row a patient or case."]
    notes.append("p is corrected for the number of comparisons (Holm).")
    notes.append("The classifier is to tell this data set from training: AUROC with interval.")
    headings = ["Input", "Training", "Here", "p", "Looks like", ""]
    return Grid("Every input against training", headings, rows, notes)
