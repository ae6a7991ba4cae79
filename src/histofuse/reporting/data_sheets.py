"""Data sheets: what each source is, how it was made, and what it is not suited for.

Source: Gebru et al., Datasheets for Datasets, CACM 2021;64(12), for the questions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.artifacts import load_json
from histofuse.core.naming import show_count, show_name
from histofuse.reporting.blocks import Block, Chapter, Heading, Terms
from histofuse.reporting.inputs import Run
from histofuse.reporting.small_cells import hide_small

Side = Literal["images", "patients"]
SIDES: Final[tuple[Side, ...]] = ("images", "patients")
_TEXTS: Final[Mapping[str, Any]] = load_json(Path(__file__).with_name("data_sheets.json"))


def describe_source(run: Run, side: Side) -> list[tuple[str, str]]:
    """Answer a data sheet's questions on one source."""
    source = _find_source(run, side)
    answers = _describe_images(run) if side == "images" else _describe_patients(run)
    return [
        ("Source", name_source(run, side)),
        ("Origin", _TEXTS["origin"][side].get(source, "not stated")),
        *answers,
        ("Access", _TEXTS["access"].get(source, "not stated")),
        ("Suited for", "Testing whether the code works. No conclusions about patients.")
        if source.startswith("simulated")
        else ("Suited for", "Research on methods. Not for decisions on patients."),
        ("Limits", _TEXTS["limits"].get(source, _TEXTS["limits"][side])),
    ]


def _find_source(run: Run, side: Side) -> str:
    """Return a key of the texts: the source, or that of a declared table."""
    source = run.sources[SIDES.index(side)]
    return f"{source} table" if side == "patients" and run.cohort.get("records") else source


def name_source(run: Run, side: Side) -> str:
    """Name a source for readers."""
    source = _find_source(run, side)
    if source == "simulated":
        return "Simulated frames" if side == "images" else "Simulated records"
    return _TEXTS["titles"].get(source, source)


def _describe_images(run: Run) -> list[tuple[str, str]]:
    sizes, facts = run.metrics["split_sizes"]["patches"], run.patches
    counts = {c: sum(s["classes"].get(c, 0) for s in sizes.values()) for c in facts["classes"]}
    total = ", ".join(f"{n:,} {show_name(c)}" for c, n in counts.items())
    cases = show_count(sum(s.get("cases", 0) for s in sizes.values()), "cases")
    return [
        ("Size", f"{show_count(sum(counts.values()), 'nuclei')} ({total}) from {cases}"),
        ("Label", "Class of the nucleus at the dot"),
        (
            "Preparation",
            f"Windows of {facts['patch_px']} pixels per side around each dot; stain normalisation: "
            f"{facts['stain_normalisation']}",
        ),
    ]


def _describe_patients(run: Run) -> list[tuple[str, str]]:
    cohort, specs, encoder = run.cohort, run.read("features"), run.read("encoder")
    quality = run.read_rows("lab_quality")
    columns = ("rows", "unit_converted", "implausible", "unknown_unit", "no_number")
    rows, converted, implausible, unit, number, positives = (
        hide_small(count, 0, run.shows_patients)
        for count in (*(sum(int(r[c]) for r in quality) for c in columns), cohort["positives"])
    )
    left_out = ", ".join(f"{d['name']} ({d['reason']})" for d in encoder["dropped"]) or "none"
    groups = {s["group"]: sum(t["group"] == s["group"] for t in specs) for s in specs}
    return [
        (
            "Size",
            f"{show_count(cohort['patients'], 'patients')}, "
            f"{show_count(cohort['admissions'], 'index admissions')}, {positives} with the target",
        ),
        ("Label", f"{show_name(cohort['target'])}: {cohort['description']}"),
        ("Predicted at", show_name(cohort["prediction_time"])),
        ("Features", ", ".join(f"{n} {show_name(g)}" for g, n in groups.items())),
        ("Masked", f"{len(run.read('masked')['masked'])} variables that would reveal the target"),
        (
            "Quality of laboratory values",
            f"of {rows}: {converted} converted to another unit; treated as missing: "
            f"{implausible} implausible, {unit} with an unknown unit, {number} not numeric",
        ),
        (
            "Preparation",
            f"{len(encoder['feature_order'])} columns after encoding: imputed by medians within "
            "strata, standardised, one-hot, missingness indicators; fitted on training "
            f"patients only; left out: {left_out}",
        ),
    ]


def write_data_sheet(run: Run, side: Side) -> str:
    """Write the data sheet of one source in Markdown, the same text for the same data."""
    lines = [f"# Data sheet: {name_source(run, side)}", ""]
    for question, answer in describe_source(run, side):
        lines += [f"**{question}.** {answer}", ""]
    return "\n".join(lines)


def write_sheets_chapter(run: Run) -> Chapter:
    """Write the chapter of the page."""
    blocks: list[Block] = []
    for side in SIDES:
        blocks.append(Heading(name_source(run, side), f"sheet-{side}"))
        blocks.append(Terms(describe_source(run, side)))
    return Chapter("sheets", "Data sheets", blocks)
