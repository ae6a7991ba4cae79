"""Where the nuclei of a folder of frames are: in BreCaHAD's layout, or in a table of points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histofuse.core.errors import Fault, FaultList, InputError, collect_faults
from histofuse.core.ids import FrameId, case_of_frame
from histofuse.core.progress import report
from histofuse.data.brecahad import GROUND_TRUTH, IMAGES, read_brecahad
from histofuse.data.tiff import read_size
from histofuse.params.data import ClassesParams, FrameParams

_SHOWN = 20  # bad values of a column


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


def _list_tiffs(folder: Path) -> dict[str, Path]:
    where = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    if not where.is_dir():
        raise InputError([Fault(folder, "no such folder", "a folder of TIFF frames")])
    files = {p.stem: p for p in sorted(where.iterdir()) if p.suffix.lower() in {".tif", ".tiff"}}
    if not files:
        expected = f"<frame>.tif files; without --points also {GROUND_TRUTH}/<frame>.json"
        raise InputError([Fault(where, "no frames", expected)])
    return files


def _read_point_table(path: Path, files: dict[str, Path], reading: FrameParams) -> pd.DataFrame:
    columns = ["frame_id", "x_px", "y_px"]
    expected = f"a CSV of {', '.join(columns)}"
    try:
        table = pd.read_csv(path, dtype={"frame_id": "str"})
    except FileNotFoundError:
        raise InputError([Fault(path, "no such file", expected)]) from None
    except (ValueError, OSError) as error:
        raise InputError([Fault(path, f"cannot be read ({error})", expected)]) from None
    with collect_faults() as faults:
        for name in columns:
            if name not in table:
                faults.add(path, f"no column {name!r}", expected)
        if not len(table):
            faults.add(path, "no points", "at least one")
    with collect_faults() as faults:
        _check_points(table, path, _read_sizes(table, files, reading, faults), files, faults)
    case = [case_of_frame(FrameId(f)) for f in table["frame_id"]]
    table = table[columns].assign(case_id=case).sort_values("frame_id", kind="stable")
    table = table.astype({"x_px": "float64", "y_px": "float64"})
    return table[["case_id", *columns]].reset_index(drop=True)


def _check_points(
    table: pd.DataFrame,
    path: Path,
    sizes: dict[str, tuple[int, int]],
    files: dict[str, Path],
    faults: FaultList,
) -> None:
    for frame in sorted(set(table["frame_id"].astype(str)) - set(files)):
        faults.add(path, f"unknown frame_id {frame!r}", "a TIFF file of this name")
    for axis, side in (("x_px", 0), ("y_px", 1)):
        values = pd.to_numeric(table[axis], errors="coerce")
        limit = table["frame_id"].map({frame: size[side] for frame, size in sizes.items()})
        bad = values.isna() | (values < 0) | (values > limit)
        for line in table.index[bad][:_SHOWN]:
            most = limit[line]
            expected = "a number of pixels" if math.isnan(most) else f"from 0 to {most:.0f}"
            faults.add(f"{path}, line {line + 2}, {axis}", f"is {table[axis][line]}", expected)


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
