"""BreCaHAD on disk -> a table of frames and a table of annotations, after checking every file.

Source: Aksac et al., BMC Research Notes 2019;12:82 (figshare 7379186): ``images/Case_*-*.tif`` and
``groundTruth/Case_*-*.json``, each JSON a mapping from key to points ``{"x": ..., "y": ...}`` as
fractions of width and height with the origin at the top left.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.ids import CaseId, FrameId, case_of_frame, identify, list_spellings, unify_names
from histofuse.core.naming import show_count
from histofuse.core.privacy import SIMULATED_MARKER
from histofuse.core.progress import track
from histofuse.core.tables import Contract, parse_columns
from histofuse.core.workers import map_jobs
from histofuse.data.images.slides import SLIDE_SUFFIXES
from histofuse.data.images.tiff import read_rgb
from histofuse.params.data import (
    ANNOTATION_KEYS,
    KEY_ALIASES,
    ClassesParams,
    DataParams,
    FrameParams,
)

IMAGES = "images"
GROUND_TRUTH = "groundTruth"

FRAMES = Contract(
    name="frames",
    columns=parse_columns("frame_id case_id file width_px:int height_px:int pixels_sha256"),
    key=("frame_id",),
)
ANNOTATIONS = Contract(
    name="annotations",
    columns=parse_columns("frame_id case_id x_px:float y_px:float label source_key"),
    key=("frame_id", "source_key", "x_px", "y_px"),
)

Source = Literal["simulated", "restricted", "brecahad", "published"]
_Point = tuple[str, float, float]  # key, x and y
# A case of two parts, such as Case-10, is one of a word and a number; "Case-10" alone is no frame.
_FRAME_NAME = re.compile(r"(?!case\s*-\s*\d+\s*$)(?:[^-]+|[^\W\d_]+-\d+)-\d+\s*", re.IGNORECASE)
_PLACE = ["frame_id", "x_px", "y_px"]
_TIFF_SUFFIXES = {".tif", ".tiff"}
_REMEDY = (
    "Run histofuse fetch brecahad, or set data.brecahad in params.yaml to the folder that holds "
    f"{IMAGES}/ and {GROUND_TRUTH}/."
)


@dataclass(frozen=True)
class DataSet:
    """A checked data set."""

    # a `FRAMES` table by frame_id; `file` is relative to the data set's folder
    frames: pd.DataFrame
    # an `ANNOTATIONS` table by frame_id, then key and place in the JSON. A point at fraction x of
    # the width lies at x_px = x * width: pixel i spans [i, i + 1).
    annotations: pd.DataFrame
    notes: list[str]  # what was done to the input on the way, for the user to know


def read_brecahad(folder: Path, classes: ClassesParams, reading: FrameParams) -> DataSet:
    """Read and check a data set in BreCaHAD's layout.

    Keys may be spelt as in the files (``lumen``) or as in the data set's README (``tubule``).
    Points of keys that no class names are checked and left out; a point given twice in one class
    counts once. Raises InputError with the faults of all files, or if there is no annotation of any
    class.
    """
    images, truths = list_layout(folder, {".json"})
    with collect_faults() as faults:
        match_files(images, truths, ".json", faults)
        points = {frame: _read_points(path, faults) for frame, path in truths.items()}
        frames, notes = read_frames(folder, images, reading, faults)

    annotations, repeated = _tabulate(points, frames, classes)
    notes += describe_spellings(images)
    if repeated:
        notes.append(f"{show_count(repeated, 'repeated annotations')} dropped")
    notes += describe_contradictions(annotations)
    if annotations.empty:
        expected = f"points under {', '.join(classes.class_of_key)}"
        raise InputError.of(folder / GROUND_TRUTH, "no annotation of any class", expected)
    return DataSet(frames, annotations, notes)


def identify_source(params: DataParams) -> Source:
    """Identify the frames: simulated, by its marker, patients' that may not be shown, or open."""
    if (Path(params.brecahad) / SIMULATED_MARKER).is_file():
        return "simulated"
    if params.images_restricted:
        return "restricted"
    return "brecahad" if params.annotations == "brecahad" else "published"


def list_layout(
    folder: Path, suffixes: set[str]
) -> tuple[dict[FrameId, Path], dict[FrameId, Path]]:
    """Map frames to their TIFF, and to their file of annotations, which ends with a suffix.

    Raises InputError with what is missing, named badly or there twice.
    """
    if not folder.is_dir():
        raise InputError.of(folder, "no such folder", "the BreCaHAD data set", _REMEDY)
    with collect_faults() as faults:
        for part in (IMAGES, GROUND_TRUTH):
            if not (folder / part).is_dir():
                faults.add(folder, f"no folder {part}/ in it", "BreCaHAD's layout", _REMEDY)
    with collect_faults() as faults:
        images = _by_frame(folder / IMAGES, _TIFF_SUFFIXES, faults)
        truths = _by_frame(folder / GROUND_TRUTH, suffixes, faults)
        if not images and not truths and not faults.faults:
            faults.add(folder / IMAGES, "no frames", "Case_<case>-<number>.tif files", _REMEDY)
    names = {identify(frame): frame for frame in images}
    return images, {names.get(identify(frame), frame): path for frame, path in truths.items()}


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """List the files of a folder that end with one of some suffixes, in lower case, by name.

    Names that start with a dot are the leavings of file managers and archives.
    """
    named = (p for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(path for path in named if path.suffix.lower() in suffixes)


def name_frame(path: Path) -> FrameId:
    """Name the frame of a file: "a.geojson" and "a.tif.geojson" are of "a"."""
    inner = Path(path.stem)
    return FrameId(inner.stem if inner.suffix.lower() in SLIDE_SUFFIXES else path.stem)


def match_files(
    images: Mapping[FrameId, Path], truths: Mapping[FrameId, Path], suffix: str, faults: FaultList
) -> None:
    """Note frames without a file of annotations, and the reverse."""
    for frame in sorted(images.keys() - truths.keys()):
        faults.add(images[frame], "no annotation file", f"{GROUND_TRUTH}/{frame}{suffix}")
    for frame in sorted(truths.keys() - images.keys()):
        faults.add(truths[frame], "no frame for it", f"{IMAGES}/{frame}.tif")


def _by_frame(folder: Path, suffixes: set[str], faults: FaultList) -> dict[FrameId, Path]:
    paths: dict[FrameId, Path] = {}
    seen: dict[str, Path] = {}
    for path in list_files(folder, suffixes):
        frame = name_frame(path)
        if not _FRAME_NAME.fullmatch(frame):
            faults.add(path, "a name without case and number", f"Case_<case>-<nn>{path.suffix}")
        elif (known := seen.setdefault(identify(frame), path)) != path:
            faults.add(path, f"the same frame as {known.name}", "one file per frame")
        else:
            paths[frame] = path
    return paths


def _read_points(path: Path, faults: FaultList) -> list[_Point]:
    """Read the points of one JSON, in the published order of keys."""
    try:
        content = load_json(path)
    except InputError as error:
        faults.faults += error.faults
        return []
    if not isinstance(content, dict):
        faults.add(path, f"holds {_describe(content)}", "an object from key to list of points")
        return []

    points: dict[str, list[_Point]] = {key: [] for key in ANNOTATION_KEYS}
    for spelt, entries in content.items():
        key = KEY_ALIASES.get(spelt, spelt)
        if key not in points:
            known = ", ".join((*ANNOTATION_KEYS, *KEY_ALIASES))
            faults.add(path, f"unknown key {spelt!r}", f"one of: {known}")
        elif not isinstance(entries, list):
            faults.add(f"{path}, {spelt}", f"is {_describe(entries)}", "a list of points")
        else:
            for n, entry in enumerate(entries):
                if _check_point(entry, f"{path}, {spelt}[{n}]", faults):
                    points[key].append((key, float(entry["x"]), float(entry["y"])))
    return [point for key in ANNOTATION_KEYS for point in points[key]]


def _check_point(entry: Any, where: str, faults: FaultList) -> bool:
    if not isinstance(entry, dict) or not {"x", "y"} <= entry.keys():
        faults.add(where, f"is {_describe(entry)}", 'a point {"x": ..., "y": ...}')
        return False
    bad = [axis for axis in ("x", "y") if not _is_fraction(entry[axis])]
    for axis in bad:
        faults.add(f"{where}.{axis}", f"is {repr(entry[axis])[:60]}", "a fraction in [0, 1]")
    return not bad


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def read_frames(
    folder: Path, images: dict[FrameId, Path], reading: FrameParams, faults: FaultList
) -> tuple[pd.DataFrame, list[str]]:
    """Decode all frames, in several threads, and tabulate their sizes and digests."""
    rows, changes = [], Counter()
    case_of = unify_names(case_of_frame(frame) for frame in images)
    results = map_jobs(partial(_describe_frame, reading=reading), images.values(), engine="threads")
    results = track(results, "reading frames", total=len(images))
    for (frame, path), result in zip(images.items(), results, strict=True):
        if isinstance(result, InputError):
            faults.faults += result.faults
            continue
        size, digest, changed = result
        case = case_of[case_of_frame(frame)]
        rows.append((frame, case, path.relative_to(folder).as_posix(), *size, digest))
        changes.update(changed)
    notes = [f"{change} in {show_count(n, 'frames')}" for change, n in sorted(changes.items())]
    return pd.DataFrame(rows, columns=list(FRAMES.columns)), notes


def _describe_frame(
    path: Path, reading: FrameParams
) -> tuple[tuple[int, int], str, tuple[str, ...]] | InputError:
    """Width and height, SHA-256 of the decoded RGB bytes, and what decoding changed."""
    try:
        rgb, changes = read_rgb(path, reading)
    except InputError as error:
        return error
    height, width, _ = rgb.shape
    return (width, height), hashlib.sha256(rgb.data).hexdigest(), changes


def _tabulate(
    points: dict[FrameId, list[_Point]], frames: pd.DataFrame, classes: ClassesParams
) -> tuple[pd.DataFrame, int]:
    class_of_key = classes.class_of_key
    described = frames[["frame_id", "case_id", "width_px", "height_px"]].itertuples(index=False)
    rows = [
        (frame, case, x * width, y * height, class_of_key[key], key)
        for frame, case, width, height in described
        for key, x, y in points[frame]
        if key in class_of_key
    ]
    table = pd.DataFrame(rows, columns=list(ANNOTATIONS.columns))
    unique = table.drop_duplicates([*_PLACE, "label"], ignore_index=True)
    return unique, len(table) - len(unique)


def describe_spellings(images: dict[FrameId, Path]) -> list[str]:
    """Say which cases are spelt in several ways, each spelling with its first file."""
    files = {case_of_frame(frame): path.name for frame, path in reversed(images.items())}
    return [
        f"one case in {len(spellings)} spellings: "
        + ", ".join(f"{spelling!r} ({files[CaseId(spelling)]})" for spelling in spellings)
        for spellings in list_spellings(files)
    ]


def describe_contradictions(annotations: pd.DataFrame) -> list[str]:
    """Say which points lie in several classes."""
    several = annotations[annotations.duplicated(_PLACE, keep=False)]
    if several.empty:
        return []
    first = several[several["frame_id"] == several["frame_id"].iloc[0]]
    labels, count = ", ".join(sorted(set(first["label"]))), len(several.drop_duplicates(_PLACE))
    points = show_count(count, "points")
    return [f"{points} in several classes, such as in {first.iloc[0, 0]} ({labels})"]


def _describe(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
