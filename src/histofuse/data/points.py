"""Where the nuclei of a folder of frames are: in BreCaHAD's layout, CSV or QuPath's GeoJSON."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from histofuse.core.errors import FaultList, InputError, collect_faults, shorten
from histofuse.core.ids import FrameId, case_of_frame, identify, unify_names
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.core.text_tables import read_csv_text, read_numbers
from histofuse.data.brecahad import GROUND_TRUTH, IMAGES, list_files, name_frame, read_brecahad
from histofuse.data.geojson import LARGEST_NUCLEUS_PX, SUFFIXES, read_objects
from histofuse.data.images.slides import SLIDE_SUFFIXES
from histofuse.data.images.tiff import read_size
from histofuse.params.data import ClassesParams, FrameParams

_SHOWN = 20  # bad values of a column
_COLUMNS = ["frame_id", "x_px", "y_px"]
_POINTS = (
    "Or name a --detector, which finds them. FILE is a CSV of "
    "frame_id,x_px,y_px (the file's name without .tif, and pixels from the upper left corner), or "
    "QuPath's GeoJSON: <frame>.geojson, or a folder of such files."
)
_TIFFS = {".tif", ".tiff"}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

Sizes = Mapping[str, tuple[int, int]]  # frame to width and height


@dataclass(frozen=True)
class Points:
    """Nuclei and their frames."""

    table: pd.DataFrame  # ``case_id, frame_id, x_px, y_px``, sorted by frame
    files: dict[str, Path]  # frame to its file


def read_points(
    frames: Path, points: Path | None, classes: ClassesParams, reading: FrameParams
) -> Points:
    """Read where the nuclei are: of frames in BreCaHAD's layout or, with `points`, of any TIFFs.

    Points are a CSV of ``frame_id,x_px,y_px``, a GeoJSON file of a frame, or a folder of such;
    pixel i spans [i, i + 1). Raises InputError with all that is wrong: files, columns, frames,
    points.
    """
    files = list_tiffs(frames)
    if points is None:
        data = read_brecahad(frames, classes, reading)
        for note in data.notes:
            report(note)
        names = data.frames.set_index("frame_id")["file"]
        files = {str(frame): frames / name for frame, name in names.items()}
        return Points(data.annotations[["case_id", "frame_id", "x_px", "y_px"]], files)
    with collect_faults() as faults:
        table = read_point_table(list_point_files(points), files)
        sizes = _read_sizes(table, files, reading, faults)
        check_points(table, files, sizes, faults)
    table = name_cases(table)[["case_id", *_COLUMNS]]
    unique = table.drop_duplicates(_COLUMNS).sort_values("frame_id", kind="stable")
    if repeated := len(table) - len(unique):
        report(f"{show_count(repeated, 'repeated points')} dropped")
    used = set(unique["frame_id"])
    chosen = {frame: path for frame, path in files.items() if frame in used}
    if unused := [frame for frame in files if frame not in used]:
        left_out = show_count(unused, "frames")
        report(f"{left_out} without points, left out: {shorten(', '.join(unused))}")
    return Points(unique.reset_index(drop=True), chosen)


def has_points(folder: Path) -> bool:
    """Tell whether frames come with their points, in BreCaHAD's layout."""
    return (folder / IMAGES).is_dir() and (folder / GROUND_TRUTH).is_dir()


def refuse_frames(folder: Path) -> InputError:
    """Say of frames without points, and without a detector, how points are given."""
    problem = f"{show_count(list_tiffs(folder), 'frames')}, and no points of nuclei"
    expected = f"--points FILE; or {IMAGES}/ and {GROUND_TRUTH}/, as in BreCaHAD"
    return InputError.of(folder, problem, expected, _POINTS)


def list_tiffs(folder: Path) -> dict[str, Path]:
    """Map each frame of a folder, or of ``images/`` in it, to its one file."""
    where = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    if not where.is_dir():
        problem = "is a file" if where.exists() else "no such folder"
        raise InputError.of(folder, problem, "a folder of TIFF frames; of a slide, --slide")
    files: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    with collect_faults() as faults:
        for path in list_files(where, _TIFFS):
            if (known := seen.setdefault(identify(path.stem), path)) != path:
                faults.add(path, f"the same frame as {known.name}", "one file per frame")
            files[path.stem] = path
        held = note_others(where, "frames", SLIDE_SUFFIXES - _TIFFS, quiet=not files)
        if not files:
            expected = f"<frame>.tif files; without --points also {GROUND_TRUTH}/<frame>.json"
            faults.add(where, f"no frames{held}", expected)
    return files


def note_others(folder: Path, of: str, more: Collection[str] = (), *, quiet: bool) -> str:
    """Report pictures that are none of what is looked for; say what a folder holds most of."""
    others = Counter(
        f"{path.suffix} files" if path.is_file() else "folders"
        for path in folder.iterdir()
        if path.suffix or path.is_dir()
    )
    left_out = {f"{suffix} files" for suffix in (*more, *_PICTURES)}
    for kind in sorted(others.keys() & left_out) if not quiet else ():
        report(f"{folder}: {show_count(others[kind], kind)} left out: no {of}")
    return "".join(f", but {show_count(n, kind)}" for kind, n in others.most_common(1))


def list_point_files(points: Path) -> list[Path]:
    """List the files of points: one, or those of a folder."""
    if not points.is_dir():
        return [points]
    if not (files := list_files(points, (".csv", *SUFFIXES))):
        raise InputError.of(points, "no files of points", "<frame>.geojson files")
    return files


def read_point_table(paths: Iterable[Path], files: Iterable[str]) -> pd.DataFrame:
    """Read CSV files of ``frame_id,x_px,y_px`` and GeoJSON files named by their frame.

    The spelling of `files`, the frames, is taken. Returns ``frame_id, x_px, y_px, class_name``
    (None without one), and for messages ``where`` and ``x_px_text, y_px_text``. Raises InputError
    with the faults of all files, or if they hold no point.
    """
    paths, names = list(paths), {identify(frame): frame for frame in files}
    parts = []
    with collect_faults() as faults:
        for path in paths:
            with faults.catching():
                geojson = path.suffix.lower() in SUFFIXES
                parts.append(_read_geojson(path, names) if geojson else _read_csv(path))
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise InputError.of(paths[0], "no points", "at least one")
    table["frame_id"] = [names.get(identify(frame), frame) for frame in table["frame_id"]]
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    text = read_csv_text(path, _COLUMNS, f"a CSV of {', '.join(_COLUMNS)}")
    classes = text["class_name"].to_list() if "class_name" in text.columns else None
    return pd.DataFrame(
        {"frame_id": text["frame_id"].fill_null("").to_list()}
        | {axis: read_numbers(text[axis]).cast(pl.Float64).to_numpy() for axis in _COLUMNS[1:]}
        | {"class_name": pd.Series(classes, range(len(text)), dtype=object)}
        | {"where": [f"{path}, line {line}" for line in text["line"]]}
        | {f"{axis}_text": text[axis].fill_null("empty").to_list() for axis in _COLUMNS[1:]}
    )


def _read_geojson(path: Path, names: Mapping[str, str]) -> pd.DataFrame:
    objects = read_objects(path)
    for kind, count in objects.ignored.items():
        report(f"{path.name}: {show_count(count, 'objects')} of {kind} left out: no nuclei")
    table = objects.table
    if wide := int((table["width_px"] > LARGEST_NUCLEUS_PX).sum()):
        note = f"{show_count(wide, 'polygons')} wider than {LARGEST_NUCLEUS_PX} px"
        report(f"{path.name}: {note}: the centre is taken for a nucleus")
    where = [f"{path}, feature {feature}" for feature in table["feature"]]
    texts = {f"{axis}_text": table[axis].map("{:.2f}".format) for axis in _COLUMNS[1:]}
    chosen = table[[*_COLUMNS[1:], "class_name"]]
    return chosen.assign(frame_id=_name_frame(path, names), where=where, **texts)


def _name_frame(path: Path, names: Mapping[str, str]) -> str:
    frame = name_frame(path)
    if identify(frame) not in names and len(names) == 1:
        only = next(iter(names.values()))
        report(f"{path.name}: taken for {only}, the only frame")
        return only
    return frame


def name_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``case_id``, in one spelling for all frames of a case."""
    cases = [case_of_frame(FrameId(frame)) for frame in table["frame_id"]]
    case_of = unify_names(set(cases))
    return table.assign(case_id=[case_of[case] for case in cases])


def check_points(
    table: pd.DataFrame, files: Collection[str], sizes: Sizes, faults: FaultList
) -> None:
    """Note points of unknown frames, that are no numbers, or that lie outside of their frame."""
    unknown = table[~table["frame_id"].isin(set(files))].drop_duplicates("frame_id")
    for frame, where in zip(unknown["frame_id"], unknown["where"], strict=True):
        expected = f"the name of a frame, such as {next(iter(files))!r}"
        faults.add(where, f"unknown frame_id {frame!r}", expected)
    places = table[_COLUMNS[1:]].to_numpy()
    if len(table) > 1 and ((places >= 0) & (places <= 1)).all():
        problem = f"all {len(table)} points lie within one pixel, as fractions of the sides would"
        faults.add(table["where"].iloc[0].rpartition(",")[0], problem, "x_px and y_px in pixels")
    sides = np.array([sizes.get(frame, (np.nan, np.nan)) for frame in table["frame_id"]])
    turned = places[:, ::-1]
    fits = bool(((turned >= 0) & (turned <= sides)).all())
    remedy = "With x and y exchanged all points lie inside." if fits else ""
    for side, axis in enumerate(_COLUMNS[1:]):
        limit = sides[:, side]
        bad = np.isnan(places[:, side]) | (places[:, side] < 0) | (places[:, side] > limit)
        for row in (rows := np.flatnonzero(bad))[:_SHOWN]:
            known = not np.isnan(limit[row])
            expected = f"a number from 0 to {limit[row]:.0f}" if known else "a number of pixels"
            problem = f"is {table[f'{axis}_text'].iloc[row]}"
            faults.add(f"{table['where'].iloc[row]}, {axis}", problem, expected, remedy)
        if (more := len(rows) - _SHOWN) > 0:
            faults.add("points", f"{more:,} more such {axis}", "places inside the frame")


def _read_sizes(
    table: pd.DataFrame, files: dict[str, Path], reading: FrameParams, faults: FaultList
) -> dict[str, tuple[int, int]]:
    sizes = {}
    for frame in sorted(set(table["frame_id"]) & set(files)):
        with faults.catching():
            sizes[frame] = read_size(files[frame], reading)
    return sizes
