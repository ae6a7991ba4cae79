"""Chapters on the data: cohort, tissue, missing values, and the split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from histofuse.core.ids import SPLITS
from histofuse.core.naming import show_count, show_name, show_percent
from histofuse.core.privacy import FEWEST_PATIENTS
from histofuse.reporting.blocks import (
    Block,
    Cell,
    Chapter,
    Fold,
    Gallery,
    Grid,
    Heading,
    Mark,
    Note,
)
from histofuse.reporting.inputs import Run
from histofuse.reporting.pictures import embed_strip
from histofuse.reporting.small_cells import HIDDEN, hide_small, hide_small_counts, merge_small_steps

if TYPE_CHECKING:
    import pyarrow as pa

_EXAMPLES: Final = 8  # patches of each class
_MOST_MISSING: Final = 12
_MOST_VALUES: Final = 6


def write_data_chapter(run: Run) -> Chapter:
    """Write the chapter on the data."""
    blocks: list[Block] = [
        Heading("Patients", "data-patients"),
        _tabulate_attrition(run),
        _tabulate_characteristics(run),
        *_tabulate_missing(run),
        _tabulate_masked(run),
        Heading("Tissue", "data-tissue"),
        _tabulate_classes(run),
    ]
    if run.shows_patients:
        blocks.append(_show_examples(run))
    return Chapter("data", "The data", blocks)


def write_split_chapter(run: Run) -> Chapter:
    """Write the chapter on the split and its audit."""
    audits = {"Patches": run.read("patch_audit"), "Patients": run.read("patient_audit")}
    rows = [row for what, audit in audits.items() for row in _list_shared(what, audit)]
    leaky = [what for what, audit in audits.items() if audit["leaky"]]
    unit = audits["Patches"]["unit"]
    if leaky:
        text = "Scores on this split are not valid results."
        verdict = Note("bad", f"Leaky split: {', '.join(leaky)}", [text])
    else:
        text = "Training, validation and test share no pixels, frames, cases or patients."
        verdict = Note("good", "Splits are disjoint", [text])
    caption = f"Overlap between splits. Patches are split by {unit}, records by patient."
    pairs = [pair.replace("-", " and ") for pair in audits["Patches"]["shared"]]
    grid = Grid(caption, ["Shared", *pairs, "Audit"], rows)
    return Chapter("split", "The split", [verdict, grid])


def _read_columns(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """Read columns of a table without pandas: importing it takes as long as the whole page."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return file.read(columns)


def _list_shared(what: str, audit: Mapping[str, Any]) -> list[list[Cell]]:
    pairs = audit["shared"]
    kinds = list(dict.fromkeys(kind for shared in pairs.values() for kind in shared))
    rows: list[list[Cell]] = []
    for kind in kinds:
        counts = {pair: shared.get(kind, 0) for pair, shared in pairs.items()}
        if not any(counts.values()):
            mark = Mark("nothing shared", "good")
        elif any(n and kind in audit["forbidden"][pair] for pair, n in counts.items()):
            mark = Mark("forbidden", "bad")
        else:
            mark = Mark("allowed, but leaks", "bad")
        rows.append([f"{what}: {show_name(kind)}", *map(show_count, counts.values()), mark])
    return rows


def _tabulate_attrition(run: Run) -> Grid:
    steps = run.read_rows("attrition")
    shown = steps if run.shows_patients else merge_small_steps(steps)
    rows = [
        [
            step["description"],
            show_count(int(step["patients"])),
            hide_small(int(step["removed_patients"]), 0, run.shows_patients),
            show_count(int(step["admissions"])),
        ]
        for step in shown
    ]
    cohort = run.cohort
    target = f"{show_name(cohort['target'])} ({cohort['description']})"
    positives = hide_small(cohort["positives"], 0, run.shows_patients)
    notes = [
        f"Target: {target}; {positives} of {cohort['admissions']:,} index admissions. "
        f"Predicted at: {show_name(cohort['prediction_time'])}."
    ]
    headings = ["Step", "Patients remaining", "Patients removed", "Admissions remaining"]
    return Grid("Attrition from the data set to the cohort", headings, rows, notes)


def _tabulate_characteristics(run: Run) -> Grid:
    names = ["subject_id", "hadm_id", "target", "age_years", "sex", "race", "insurance"]
    held = _read_columns(run.locate("patients"))
    present = [name for name in names if name in held.column_names]
    people = held.select(present).to_pylist()
    splits = {
        (row["subject_id"], row["hadm_id"]): row["split"]
        for row in _read_columns(run.locate("patient_splits")).to_pylist()
    }
    groups: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for person in people:
        groups[splits[person["subject_id"], person["hadm_id"]]].append(person)
    shown = list(groups.values())
    rows = [["Index admissions", *(show_count(len(g)) for g in shown)]]
    rows.append(_count_row(run, f"Target {show_name(run.cohort['target'])}", shown, "target", 1))
    if "age_years" in present:
        ages = [f"{median(p['age_years'] for p in g):.0f}" if g else "–" for g in shown]
        rows.append(["Age, median, years", *ages])
    for column in ("sex", "race", "insurance"):
        rows += _count_values(run, column, shown) if column in present else []
    caption = "Characteristics by split"
    note = "The six most common values of each column"
    note += "." if run.shows_patients else "; what fewer than 10 patients have is hidden."
    return Grid(caption, ["", *map(str.capitalize, groups)], rows, [note])


def _count_row(
    run: Run, label: str, groups: Sequence[Sequence[Mapping[str, Any]]], column: str, value: Any
) -> list[str]:
    counts = [(sum(person[column] == value for person in group), len(group)) for group in groups]
    return [label, *(hide_small(n, of, run.shows_patients) for n, of in counts)]


def _count_values(
    run: Run, column: str, groups: Sequence[Sequence[Mapping[str, Any]]]
) -> list[list[str]]:
    """Count the most common values; of a restricted source, only those of many patients."""
    values = [[str(person[column]) for person in group] for group in groups]
    common = Counter(chain.from_iterable(values)).most_common(_MOST_VALUES)
    fewest = 1 if run.shows_patients else FEWEST_PATIENTS
    named = [value for value, count in common if count >= fewest]
    cells = [
        hide_small_counts([held.count(v) for v in named], len(held), shown=run.shows_patients)
        for held in values
    ]
    labels = [f"{column.capitalize()}: {value}" for value in named]
    return [[label, *row] for label, row in zip(labels, zip(*cells, strict=True), strict=True)]


def _tabulate_missing(run: Run) -> list[Block]:
    table = _read_columns(run.locate("feature_table"))
    specs = {spec["name"]: spec for spec in run.read("features")}
    missing = {n: table.column(n).null_count / max(1, table.num_rows) for n in specs}
    rows = []
    for name in sorted(filter(missing.get, specs), key=lambda name: (-missing[name], name)):
        spec = specs[name]
        unit = f" ({spec['unit']})" if spec["unit"] else ""
        nulls = table.column(name).null_count
        few = hide_small(nulls, table.num_rows, run.shows_patients) == HIDDEN
        share = HIDDEN if few else show_percent(missing[name])
        rows.append([f"{spec['description']}{unit}", spec["group"], share])
    encoder = run.read("encoder")
    notes = [
        f"{len(specs)} features before encoding, {len(encoder['feature_order'])} after; "
        f"{len(encoder['dropped'])} dropped because too many values were missing. "
        "Imputation and scaling are fitted on training patients only."
    ]
    caption = f"Missing values: {len(rows)} of {len(specs)} features"
    headings = ["Feature", "Group", "Missing"]
    blocks: list[Block] = [
        Grid(f"{caption}, most incomplete first", headings, rows[:_MOST_MISSING], notes)
    ]
    if len(rows) > _MOST_MISSING:
        blocks.append(Fold("All features with missing values", [Grid(caption, headings, rows)]))
    return blocks


def _tabulate_masked(run: Run) -> Fold:
    masked = run.read("masked")["masked"]
    rows = [[show_name(m["name"]), m["group"], m["reason"]] for m in masked]
    caption = "Masked variables, which would reveal the target"
    grid = Grid(caption, ["Variable", "Kind", "Reason"], rows)
    return Fold(f"{len(rows)} variables masked", [grid])


def _tabulate_classes(run: Run) -> Grid:
    sizes = run.metrics["split_sizes"]["patches"]
    classes = run.patches["classes"]
    rows = [
        [
            split.capitalize(),
            *(show_count(sizes[split]["classes"].get(c, 0)) for c in classes),
            show_count(sizes[split]["n"]),
            show_count(sizes[split]["cases"]) if "cases" in sizes[split] else "–",
        ]
        for split in SPLITS
        if split in sizes
    ]
    headings = ["Split", *(show_name(c).capitalize() for c in classes), "Patches", "Cases"]
    side, norm = run.patches["patch_px"], run.patches["stain_normalisation"]
    note = f"A patch is {side} × {side} pixels around a nucleus; stain normalisation: {norm}."
    return Grid("Patches by class and split", headings, rows, [note])


def _show_examples(run: Run) -> Gallery:
    import numpy as np

    folder = run.locate("patch_index").parent
    index = _read_columns(run.locate("patch_index"), ["label", "shard", "row"]).to_pydict()
    margin, side = run.patches["margin_px"], run.patches["patch_px"]
    window = slice(margin, margin + side)
    figures = []
    for name in run.patches["classes"]:
        places = [n for n, label in enumerate(index["label"]) if label == name]
        chosen = places[:: max(1, len(places) // _EXAMPLES)][:_EXAMPLES]
        patches = []
        for n in chosen:
            shard = np.load(folder / f"shard-{index['shard'][n]:05d}.npy", mmap_mode="r")
            patches.append(np.array(shard[index["row"][n], window, window]))
        if patches:
            shown, count = show_name(name), len(patches)
            alt = f"{count} example patches of class {shown}, side by side"
            figures.append(embed_strip(patches, alt, f"{shown.capitalize()}: {count} examples"))
    return Gallery(figures)
