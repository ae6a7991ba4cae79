"""The chapter on nuclei found in frames without points."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from histofuse.core.naming import show_count, show_interval, show_name
from histofuse.reporting.blocks import Block, Cell, Chapter, Fold, Grid, Note, Prose, not_run
from histofuse.reporting.figures import show_figures
from histofuse.reporting.inputs import Run

_TITLE: Final = "Nuclei found"
_ARMS: Final[Mapping[str, str]] = {
    "chain": "Found, then classified by the image model",
    "own_classes": "Found and classified by the detector",
    "haematoxylin": "Baseline: dark spots of haematoxylin",
}
_METRICS: Final[Mapping[str, str]] = {
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "ap": "AP",
    "froc": "FROC",
}
_REGIONS: Final = {"hot_spots": "Hot spots", "elsewhere": "Elsewhere"}


def write_detection_chapter(run: Run) -> Chapter:
    """Write the chapter on the detector and the whole chain."""
    found = run.read("detection")
    if found is None:
        missing = [not_run(_TITLE, run.command("detection"))]
        return Chapter("detection", _TITLE, missing, "not run")
    picture = run.locate("detection").parent / "figures" / "detector" / "found_nuclei.png"
    return Chapter(
        "detection",
        _TITLE,
        [*_describe(found), *_count(run, found), show_figures(run, [picture], "")],
    )


def _describe(found: Mapping[str, Any]) -> Iterator[Block]:
    unit = f"{found['radius_px']:.0f} px"
    if found["mpp"] is not None:
        unit = f"{found['radius_px'] * found['mpp']:.1f} µm ({unit})"
    yield Prose(
        f"Frames without points go through the detector and then the image model. Its answers on "
        f"{show_count(found['frames'], 'test frames')} of {show_count(found['cases'], 'cases')} "
        "are paired one to one with "
        f"{found['dots']:,} dots within {unit}; intervals are over cases."
    )
    headings = ["Answer", "Of", *_METRICS.values()]
    rows = [row for arm in _ARMS for row in _list_rows(arm, found["arms"][arm])]
    notes = [
        "AP ranks by the score of a nucleus, times the probability of the class. FROC is the mean "
        "sensitivity at 1/8 to 8 false answers a frame.",
        "Where dots are not exhaustive, as in BreCaHAD, a nucleus without a dot counts as false: "
        "precision, F1 and AP are then lower bounds.",
    ]
    yield Grid("Nuclei found on test frames", headings, rows, notes)


def _list_rows(arm: str, metrics: Mapping[str, Any]) -> Iterator[list[Cell]]:
    for answer in dict.fromkeys(name.partition("/")[2] for name in metrics):
        found = [metrics[f"{metric}/{answer}"] for metric in _METRICS]
        cells = [show_interval(i["value"], i["low"], i["high"]) for i in found]
        yield [_ARMS[arm], "nuclei" if answer == "nuclei" else show_name(answer), *cells]


def _count(run: Run, found: Mapping[str, Any]) -> Iterator[Block]:
    focus = show_name(found["focus_class"])
    rows = [
        [_REGIONS[name], *map(str, (r["found"] + r["missed"], r["found"], r["false"]))]
        for name, r in found["regions"].items()
    ]
    note = "Hot spot: where at least two others with a dot lie within ten times the radius."
    heading = ["Region", "Dots", "Found as such", "Answers without such a dot"]
    yield run.guard(Grid(f"{focus.capitalize()} in hot spots and elsewhere", heading, rows, [note]))
    if not run.shows_patients:
        yield Note("calm", "Of a restricted source, counts of single cases are not shown.")
        return
    for unit in ("case", "frame"):
        counts = [[k, *map(str, pair)] for k, pair in found["counts"][unit].items()]
        caption = f"{focus.capitalize()} by {unit}: dots against answers"
        yield Fold(caption, [Grid(caption, [unit.capitalize(), "Dots", "Answers"], counts)])
