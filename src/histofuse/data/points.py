"""Where the nuclei of a folder of frames are: in BreCaHAD's layout, or in a table of points."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import polars as pl

from histofuse.core.errors import Fault, FaultList, InputError, collect_faults
from histofuse.core.ids import FrameId, case_of_frame, identify, unify_names
from histofuse.core.progress import report
from histofuse.core.text_tables import read_csv_text, read_numbers
from histofuse.data.brecahad import GROUND_TRUTH, IMAGES, read_brecahad
from histofuse.data.tiff import read_size
from histofuse.params.data import ClassesParams, FrameParams

_SHOWN = 20  # bad values of a column
_POINTS = (
    "The model classifies nuclei at given points and finds none itself. FILE is a CSV of "
    "frame_id,x_px,y_px: the file's name without .tif, and pixels from the upper left corner."
)


@dataclass(frozen=True)
class Points:
    """Nuclei and their frames.

    Attributes:
        table: ``case_id, frame_id, x_px, y_px``, sorted by frame.
        files: Frame to its file.
    """

    table: pd.DataFrame
    files: dict[str, Path]


def read_points(
    frames: Path, points: Path | None, classes: ClassesParams, reading: FrameParams
) -> Points:
    """Read where the nuclei are.

    Args:
        frames: A folder in BreCaHAD's layout, or with `points` any folder of TIFF files.
        points: CSV of ``frame_id,x_px,y_px``; pixel i spans [i, i + 1).
        classes: Maps the keys of BreCaHAD's JSON files to classes; others are not read.
        reading: How frames are understood.

    Raises:
        InputError: With all that is wrong: files, columns, frames, points.
    """
    if points is None:
        _require_layout(frames)
        data = read_brecahad(frames, classes, reading)
        for note in data.notes:
            report(note)
        names = data.frames.set_index("frame_id")["file"]
        files = {str(frame): frames / name for frame, name in names.items()}
        return Points(data.annotations[["case_id", "frame_id", "x_px", "y_px"]], files)
    files = _list_tiffs(frames)
    table = _read_point_table(points, files, reading)
    used = set(table["frame_id"])
    return Points(table, {frame: path for frame, path in files.items() if frame in used})


def _require_layout(folder: Path) -> None:
    """Refuse a folder without points, saying how they are given.

    Raises:
        InputError: If it has none.
    """
    files = _list_tiffs(folder)
    if not (folder / IMAGES).is_dir() or not (folder / GROUND_TRUTH).is_dir():
        problem = f"{len(files)} frames, and no points of nuclei"
        expected = f"--points FILE; or {IMAGES}/ and {GROUND_TRUTH}/, as in BreCaHAD"
        raise InputError([Fault(folder, problem, expected, _POINTS)])


def _list_tiffs(folder: Path) -> dict[str, Path]:
    where = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    if not where.is_dir():
        raise InputError([Fault(folder, "no such folder", "a folder of TIFF frames")])
    files: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    with collect_faults() as faults:
        for path in sorted(p for p in where.iterdir() if p.suffix.lower() in {".tif", ".tiff"}):
            if (known := seen.setdefault(identify(path.stem), path)) != path:
                faults.add(path, f"the same frame as {known.name}", "one file per frame")
            files[path.stem] = path
        if not files:
            others = Counter(p.suffix for p in where.iterdir() if p.is_file() and p.suffix)
            held = "".join(f", but {n} {suffix} files" for suffix, n in others.most_common(1))
            expected = f"<frame>.tif files; without --points also {GROUND_TRUTH}/<frame>.json"
            faults.add(where, f"no frames{held}", expected)
    return files


def _read_point_table(path: Path, files: dict[str, Path], reading: FrameParams) -> pd.DataFrame:
    columns = ["frame_id", "x_px", "y_px"]
    text = read_csv_text(path, columns, f"a CSV of {', '.join(columns)}")
    if text.is_empty():
        raise InputError([Fault(path, "no points", "at least one")])
    names = {identify(frame): frame for frame in files}
    given = text["frame_id"].fill_null("").to_list()
    table = pd.DataFrame({"frame_id": [names.get(identify(frame), frame) for frame in given]})
    table = table.assign(**{axis: read_numbers(text[axis]).to_numpy() for axis in columns[1:]})
    with collect_faults() as faults:
        sizes = _read_sizes(table, files, reading, faults)
        for frame in sorted(set(table["frame_id"]) - set(files)):
            faults.add(path, f"unknown frame_id {frame!r}", "a TIFF file of this name")
        _check_points(table, text, path, sizes, faults)
    case_of = unify_names(case_of_frame(FrameId(frame)) for frame in set(table["frame_id"]))
    table["case_id"] = [case_of[case_of_frame(FrameId(frame))] for frame in table["frame_id"]]
    unique = table.drop_duplicates(columns).sort_values("frame_id", kind="stable")
    if repeated := len(table) - len(unique):
        report(f"{repeated} repeated points dropped")
    return unique[["case_id", *columns]].reset_index(drop=True)


def _check_points(
    table: pd.DataFrame,
    text: pl.DataFrame,
    path: Path,
    sizes: dict[str, tuple[int, int]],
    faults: FaultList,
) -> None:
    """Note points that are no numbers or outside of their frame."""
    places = table[["x_px", "y_px"]].to_numpy()
    if len(table) > 1 and ((places >= 0) & (places <= 1)).all():
        problem = f"all {len(table)} points lie within one pixel, as fractions of the sides would"
        faults.add(path, problem, "x_px and y_px in pixels")
    for axis, side in (("x_px", 0), ("y_px", 1)):
        limit = table["frame_id"].map({frame: size[side] for frame, size in sizes.items()})
        bad = table[axis].isna() | (table[axis] < 0) | (table[axis] > limit)
        for row in table.index[bad][:_SHOWN]:
            most, where = limit[row], f"{path}, line {text['line'][row]}, {axis}"
            expected = "a number of pixels" if math.isnan(most) else f"from 0 to {most:.0f}"
            faults.add(where, f"is {text[axis][row]}", expected)


def _read_sizes(
    table: pd.DataFrame, files: dict[str, Path], reading: FrameParams, faults: FaultList
) -> dict[str, tuple[int, int]]:
    """Read width and height of each frame that has points from its header."""
    sizes = {}
    for frame in sorted(set(table["frame_id"]) & set(files)):
        try:
            sizes[frame] = read_size(files[frame], reading)
        except InputError as error:
            faults.faults += error.faults
    return sizes
