"""Annotated frames -> tables of frames and annotations, whatever the dots were written with."""

from collections import Counter
from pathlib import Path

import pandas as pd

from histofuse.core.errors import InputError, collect_faults
from histofuse.core.naming import show_count
from histofuse.data.brecahad import (
    ANNOTATIONS,
    GROUND_TRUTH,
    DataSet,
    describe_contradictions,
    describe_spellings,
    list_files,
    list_layout,
    match_files,
    read_brecahad,
    read_frames,
)
from histofuse.data.geojson import SUFFIXES
from histofuse.data.points import check_points, read_point_table
from histofuse.params.data import ClassesParams, DataParams, fold_name

_NAMELESS = "no class"


def read_annotations(params: DataParams, classes: ClassesParams) -> DataSet:
    """Read and check a data set: frames in ``images/``, dots in ``groundTruth/``.

    Objects whose class ``data.class_names`` does not map are counted and left out; a point given
    twice in one class counts once. Raises InputError with the faults of all files, or if no class
    is known.
    """
    folder = Path(params.brecahad)
    if params.annotations == "brecahad":
        return read_brecahad(folder, classes, params.frames)
    geojson = params.annotations == "geojson"
    images, truths = list_layout(folder, set(SUFFIXES) if geojson else set())
    paths = list(truths.values()) if geojson else list_files(folder / GROUND_TRUTH, {".csv"})
    with collect_faults() as faults:
        if geojson:
            match_files(images, truths, SUFFIXES[0], faults)
        elif not paths:
            faults.add(folder / GROUND_TRUTH, "no CSV files", "at least one, of annotated points")
        frames, notes = read_frames(folder, images, params.frames, faults)
    points = read_point_table(paths, images)
    sizes = {f: (w, h) for f, w, h in frames[["frame_id", "width_px", "height_px"]].to_numpy()}
    with collect_faults() as faults:
        check_points(points, images, sizes, faults)
    table, more = _classify(points, params.map_names(classes))
    if table.empty:
        expected = f"objects of the classes {', '.join(classes.names)}"
        remedy = f"Map their classes in data.class_names ({'; '.join(more)})."
        raise InputError.of(folder / GROUND_TRUTH, "none of a known class", expected, remedy)
    table = table.merge(frames[["frame_id", "case_id"]], on="frame_id", validate="many_to_one")
    unique = table[list(ANNOTATIONS.columns)].drop_duplicates(
        ["frame_id", "x_px", "y_px", "label"], ignore_index=True
    )
    unique = unique.sort_values("frame_id", kind="stable", ignore_index=True)
    if n := len(table) - len(unique):
        more.append(f"{show_count(n, 'repeated annotations')} dropped")
    notes += [*describe_spellings(images), *more, *describe_contradictions(unique)]
    return DataSet(frames, unique, notes)


def _classify(points: pd.DataFrame, class_of: dict[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """Bring names to classes, and count those that are not known."""
    names = points["class_name"].fillna("").astype("str").str.strip()
    points = points.assign(label=names.map(fold_name).map(class_of), source_key=names)
    lost = Counter(name or _NAMELESS for name in names[points["label"].isna()])
    counts = ", ".join(f"{count:,} {name}" for name, count in lost.most_common())
    objects = show_count(lost.total(), "objects")
    notes = [f"{objects} of unknown classes left out: {counts}"] if lost else []
    return points[points["label"].notna()].astype({"label": "str", "source_key": "str"}), notes
