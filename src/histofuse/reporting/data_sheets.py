"""Data sheets: what each source is, how it came about, and what it is not good for.

Source: Gebru et al., Datasheets for Datasets, CACM 2021;64(12), for the questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from histofuse.core.naming import show_name
from histofuse.reporting.blocks import Block, Chapter, Facts, Heading
from histofuse.reporting.inputs import Run

Side = Literal["images", "patients"]
SIDES: Final[tuple[Side, ...]] = ("images", "patients")
_TITLES: Final[Mapping[str, str]] = {
    "brecahad": "BreCaHAD",
    "mimic-iv-demo": "MIMIC-IV demo",
    "restricted": "MIMIC-IV",
}
_MADE: Final[Mapping[tuple[Side, str], str]] = {
    ("images", "simulated"): "Drawn by a program from random numbers in BreCaHAD's published "
    "format. No tissue, no patient.",
    ("images", "brecahad"): "H&E-stained breast tissue from one institution: 162 frames of 1360 × "
    "1024 pixels of 17 cases, nuclei marked by dots by experts (Aksac et al. 2019).",
    ("patients", "simulated"): "Drawn by a program from random numbers in MIMIC-IV's published "
    "tables. No patient.",
    ("patients", "mimic-iv-demo"): "100 patients of MIMIC-IV, published for everyone. "
    "De-identified, dates shifted. Boston, one hospital.",
    ("patients", "restricted"): "Records of one hospital in Boston (Beth Israel Deaconess), "
    "de-identified, dates shifted within the patient (Johnson et al. 2023).",
}
_ACCESS: Final[Mapping[str, str]] = {
    "simulated": "Made anew by the run; no limits.",
    "brecahad": "Open, CC BY 4.0.",
    "mimic-iv-demo": "Open, ODbL.",
    "restricted": "By agreement with PhysioNet alone. No row and no count of fewer than 10 "
    "patients stands in a report or in MLflow.",
}
_LIMITS: Final[Mapping[Side, str]] = {
    "images": "One staining protocol and scanner; few cases; mitoses are rare and gathered in few "
    "cases. Dots, not outlines. Not a screening population.",
    "patients": "One centre, admissions to a hospital. Diagnoses are billing codes, assigned after "
    "discharge. Deaths are known up to a year after the last discharge. Not linked to the images.",
}


def describe_source(run: Run, side: Side) -> list[tuple[str, str]]:
    """Answer a data sheet's questions on one source."""
    source = run.sources[SIDES.index(side)]
    answers = _describe_images(run) if side == "images" else _describe_patients(run)
    return [
        ("Source", name_source(run, side)),
        ("How it came about", _MADE.get((side, source), "not stated")),
        *answers,
        ("Access", _ACCESS.get(source, "not stated")),
        ("Good for", "Saying whether the code works; nothing about patients.")
        if source == "simulated"
        else ("Good for", "Research on methods. Not for decisions on patients."),
        ("Not good for", _LIMITS[side]),
    ]


def name_source(run: Run, side: Side) -> str:
    """Name a source for readers."""
    source = run.sources[SIDES.index(side)]
    simulated = {"images": "Simulated frames", "patients": "Simulated records"}[side]
    return simulated if source == "simulated" else _TITLES.get(source, source)


def _describe_images(run: Run) -> list[tuple[str, str]]:
    sizes, facts = run.metrics["split_sizes"]["patches"], run.patches
    counts = {c: sum(s["classes"].get(c, 0) for s in sizes.values()) for c in facts["classes"]}
    total = ", ".join(f"{n:,} {show_name(c)}" for c, n in counts.items())
    cases = sum(s.get("cases", 0) for s in sizes.values())
    return [
        ("Holds", f"{sum(counts.values()):,} nuclei ({total}) of {cases} cases"),
        ("Label", "Class of the nucleus under the dot"),
        (
            "Prepared",
            f"Windows of {facts['patch_px']} pixels a side about each dot; stain normalisation: "
            f"{facts['stain_normalisation']}",
        ),
    ]


def _describe_patients(run: Run) -> list[tuple[str, str]]:
    cohort, specs, encoder = run.cohort, run.read("features"), run.read("encoder")
    quality = run.read_rows("lab_quality")
    known = ("rows", "unit_converted", "implausible", "unknown_unit", "no_number")
    rows, *doubtful = (sum(int(r[k]) for r in quality) for k in known)
    converted, implausible, unit, number = doubtful
    groups = {s["group"]: sum(t["group"] == s["group"] for t in specs) for s in specs}
    return [
        (
            "Holds",
            f"{cohort['patients']:,} patients, {cohort['admissions']:,} index admissions, "
            f"{cohort['positives']:,} with the target",
        ),
        ("Label", f"{show_name(cohort['target'])}: {cohort['description']}"),
        ("Predicted at", show_name(cohort["prediction_time"])),
        ("Features", ", ".join(f"{n} {show_name(g)}" for g, n in groups.items())),
        (
            "Left out",
            f"{len(run.read('masked')['masked'])} variables that would give the target away",
        ),
        (
            "Quality of laboratory values",
            f"of {rows:,}: {converted:,} converted to another unit; taken as missing: "
            f"{implausible:,} implausible, {unit:,} of unknown unit, {number:,} no number",
        ),
        (
            "Prepared",
            f"{len(encoder['feature_order'])} columns after encoding: imputed by medians within "
            "strata, standardised, one-hot, indicators of missing values; fitted on training "
            "patients alone",
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
        blocks += [
            Heading(name_source(run, side), f"sheet-{side}"),
            Facts(describe_source(run, side)),
        ]
    return Chapter("sheets", "Data sheets", blocks)
