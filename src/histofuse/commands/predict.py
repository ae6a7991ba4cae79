"""``histofuse predict``: a folder of frames, a table of patients, or both, through a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from histofuse.commands.serve import name_address
from histofuse.core.artifacts import replacing_file
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import Fault, FaultList, InputError, collect_faults
from histofuse.core.ids import FrameId, case_of_frame
from histofuse.core.progress import report, track
from histofuse.data.brecahad import GROUND_TRUTH, IMAGES, read_brecahad
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams
from histofuse.serving.predict import open_predictor
from histofuse.tracking.store import open_store

if TYPE_CHECKING:
    from histofuse.serving.fusion import FusionPredictor
    from histofuse.serving.image import ImagePredictor
    from histofuse.serving.tabular import TabularPredictor

SUFFIXES: Final = (".parquet", ".csv")
KEY: Final = ("subject_id", "hadm_id")
CASE: Final = "case_id"
ROWS_AT_ONCE: Final = 4096


@dataclass(frozen=True)
class Request:
    """What is to be predicted.

    Attributes:
        frames: Folder of frames; None for a model of health records.
        points: CSV of ``frame_id,x_px,y_px``; None where the folder has BreCaHAD's layout.
        patients: Table of raw features with ``subject_id`` and, if several admissions, ``hadm_id``.
        crosswalk: CSV of ``case_id,subject_id[,hadm_id]``; None where patients name their case.
        model: A registered model, a ``models:/`` address, or the folder of a bundle.
        out: Where the answer goes.
        batch: Patches the network gets at once.
    """

    frames: Path | None
    points: Path | None
    patients: Path | None
    crosswalk: Path | None
    model: str
    out: Path
    batch: int


@dataclass(frozen=True)
class Points:
    """Nuclei and the frames they lie in.

    Attributes:
        table: ``case_id, frame_id, x_px, y_px``, those of a frame together.
        files: Frame to its file.
    """

    table: pd.DataFrame
    files: dict[str, Path]


def predict(request: Request) -> str:
    """Predict and write the answer; nothing is left behind if that fails.

    Returns:
        What was done, in a line.

    Raises:
        InputError: With all that is wrong with what was given.
        RegistryError: If there is no such model.
    """
    with collect_faults() as faults:
        if request.out.suffix not in SUFFIXES:
            faults.add("--out", f"is {request.out.name}", "a name that ends in .parquet or .csv")
    predictor = open_model(request.model)
    if predictor.bundle.config["kind"] == "tabular":
        return _predict_records(predictor, request)  # pyright: ignore[reportArgumentType]
    return _predict_frames(predictor, request)  # pyright: ignore[reportArgumentType]


def open_model(model: str) -> ImagePredictor | TabularPredictor | FusionPredictor:
    """Open a registered model, or the bundle of a folder.

    Raises:
        BundleError: If it is altered.
        RegistryError: If there is none.
    """
    if (Path(model) / MANIFEST).is_file():
        return open_predictor(Path(model))
    folder = open_store().locate_model(name_address(model)) / "artifacts"
    encoders = folder / "encoders"
    return open_predictor(folder / "bundle", encoders if encoders.is_dir() else None)


# --- health records -----------------------------------------------------------------------------


def _predict_records(predictor: TabularPredictor, request: Request) -> str:
    if request.patients is None:
        expected = "a table of raw features, for this model reads health records"
        raise InputError([Fault("--patients", "nothing", expected)])
    table = read_patients(request.patients)
    named = [name for name in (CASE, *KEY) if name in table]
    with _open_writer(request.out) as write:
        starts = range(0, len(table), ROWS_AT_ONCE)
        for start in track(starts, "predicting", total=len(starts)):
            rows = table.iloc[start : start + ROWS_AT_ONCE]
            write(pd.concat([rows[named], predictor.predict(rows)], axis=1))
    return f"wrote {request.out}: {len(table):,} records"


def read_patients(path: Path) -> pd.DataFrame:
    """Read a table of raw features, CSV or Parquet.

    Raises:
        InputError: If it cannot be read, or names no patients.
    """
    expected = f"a table of raw features with {KEY[0]}, as .parquet or .csv"
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except FileNotFoundError:
        raise InputError([Fault(path, "no such file", expected)]) from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        problem = f"cannot be read ({str(error).splitlines()[0]})"
        raise InputError([Fault(path, problem, expected)]) from None
    if KEY[0] not in table and CASE not in table:
        raise InputError([Fault(path, f"no column {KEY[0]!r}", expected)])
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    # As text: the name of case 07 is not 7.
    return pd.read_csv(path, dtype={CASE: "str"})


# --- frames -------------------------------------------------------------------------------------


def _predict_frames(predictor: ImagePredictor | FusionPredictor, request: Request) -> str:
    from histofuse.serving.frames import FrameModel, embed_records, predict_frames
    from histofuse.serving.fusion import FusionPredictor

    if request.frames is None:
        raise InputError([Fault("FRAMES", "nothing", "a folder of frames, which this model reads")])
    points = read_points(request.frames, request.points)
    fused = isinstance(predictor, FusionPredictor)
    records = _read_records(request, points) if fused else pd.DataFrame()
    embeddings = embed_records(predictor, records) if fused else {}
    model = FrameModel(predictor, embeddings)
    whose = records[[name for name in KEY if name in records]].convert_dtypes()
    total = -(-len(points.table) // request.batch)
    parts = predict_frames(model, points.table, points.files, request.batch)
    with _open_writer(request.out) as write:
        for part in track(parts, "predicting", total=total):
            write(part.join(whose, on=CASE))
    return _describe(request, points, records, embeddings, fused=fused)


def _describe(
    request: Request, points: Points, records: pd.DataFrame, embeddings: Any, *, fused: bool
) -> str:
    done = f"wrote {request.out}: {len(points.table):,} nuclei of {len(points.files)} frames"
    if not fused:
        return done
    cases = set(points.table[CASE])
    alone = sorted(cases - set(embeddings))
    idle = len(set(map(str, records.index)) - cases)
    notes = [f"{len(alone)} of {len(cases)} cases without a record, answered by the image alone"]
    notes += [f"{idle} records without a frame, not answered"] if idle else []
    return f"{done}; {'; '.join(notes)}"


def read_points(frames: Path, points: Path | None) -> Points:
    """Read where the nuclei are.

    Args:
        frames: A folder in BreCaHAD's layout, whose JSON files are read, of the keys that
            params.yaml folds into classes; or any folder of TIFF files, with `points`.
        points: CSV of ``frame_id,x_px,y_px``; pixel i spans [i, i + 1).

    Raises:
        InputError: With all that is wrong: files, columns, frames, points.
    """
    if points is None:
        data = read_brecahad(frames, load_section(ClassesParams, "classes"))
        for note in data.notes:
            report(note)
        files = {f: frames / n for f, n in zip(data.frames["frame_id"], data.frames["file"],
                                               strict=True)}  # fmt: skip
        return Points(data.annotations[[CASE, "frame_id", "x_px", "y_px"]], files)
    files = _list_tiffs(frames)
    table = _read_point_table(points, files)
    used = set(table["frame_id"])
    return Points(table, {frame: path for frame, path in files.items() if frame in used})


def _list_tiffs(folder: Path) -> dict[str, Path]:
    where = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    if not where.is_dir():
        raise InputError([Fault(folder, "no such folder", "a folder of TIFF frames")])
    found = {p.stem: p for p in sorted(where.iterdir()) if p.suffix.lower() in {".tif", ".tiff"}}
    if not found:
        expected = f"<frame>.tif files; without --points also {GROUND_TRUTH}/<frame>.json"
        raise InputError([Fault(where, "no frames", expected)])
    return found


def _read_point_table(path: Path, files: dict[str, Path]) -> pd.DataFrame:
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
        _check_points(table, path, files, faults)
    case = [case_of_frame(FrameId(f)) for f in table["frame_id"]]
    table = table[columns].assign(**{CASE: case}).sort_values("frame_id", kind="stable")
    table = table.astype({"x_px": "float64", "y_px": "float64"})
    return table[[CASE, *columns]].reset_index(drop=True)


def _check_points(
    table: pd.DataFrame, path: Path, files: dict[str, Path], faults: FaultList
) -> None:
    sizes = {
        frame: _read_size(files[frame], faults) for frame in set(table["frame_id"]) & set(files)
    }
    for frame in sorted(set(table["frame_id"].astype(str)) - set(files)):
        faults.add(path, f"unknown frame_id {frame!r}", "a TIFF file of this name")
    for axis, side in (("x_px", 0), ("y_px", 1)):
        values = pd.to_numeric(table[axis], errors="coerce")
        limit = table["frame_id"].map({frame: size[side] for frame, size in sizes.items()})
        bad = values.isna() | (values < 0) | (values > limit)
        for line in table.index[bad][:20]:
            most = limit[line]
            expected = "a number of pixels" if math.isnan(most) else f"from 0 to {most:.0f}"
            faults.add(f"{path}, line {line + 2}, {axis}", f"is {table[axis][line]}", expected)


def _read_size(path: Path, faults: FaultList) -> tuple[float, float]:
    """Read width and height from a TIFF's header."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return float(page.imagewidth), float(page.imagelength)
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        faults.add(path, f"not readable ({str(error).splitlines()[0]})", "a TIFF frame")
        return float("nan"), float("nan")


def _read_records(request: Request, points: Points) -> pd.DataFrame:
    """Read the record of each case: raw features, the case in the index."""
    if request.patients is None:
        return pd.DataFrame()
    table = read_patients(request.patients)
    if request.crosswalk is not None:
        table = _link(table, request.crosswalk)
    if CASE not in table:
        expected = f"a column {CASE!r}, or --crosswalk, a CSV of {CASE},{KEY[0]}[,{KEY[1]}]"
        raise InputError([Fault(request.patients, "does not say whose tissue is whose", expected)])
    repeated = table[CASE][table[CASE].duplicated()].unique()
    with collect_faults() as faults:
        for case in sorted(map(str, repeated)):
            faults.add(request.patients, f"several records for case {case!r}", "one a case")
    return table.set_index(table[CASE].astype(str)).drop(columns=CASE)


def _link(patients: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Give each case of a crosswalk the record of its patient.

    Raises:
        InputError: With all that is wrong with the crosswalk.
    """
    crosswalk = _read_crosswalk(path)
    by_admission = crosswalk["hadm_id"].notna()
    with collect_faults() as faults:
        for name in KEY if by_admission.any() else KEY[:1]:
            if name not in patients:
                faults.add("--patients", f"no column {name!r}", f"those of {path}")
            elif not pd.api.types.is_numeric_dtype(patients[name]):
                faults.add(f"--patients, {name}", "holds text", "whole numbers")
    patients = patients.drop(columns=CASE, errors="ignore")
    parts = [
        crosswalk[by_admission].merge(patients, on=list(KEY)) if by_admission.any() else None,
        crosswalk.loc[~by_admission, [CASE, KEY[0]]].merge(patients, on=KEY[0]),
    ]
    linked = pd.concat([part for part in parts if part is not None and len(part)] or parts[1:])
    unknown = len(crosswalk) - linked[CASE].nunique()
    if unknown:
        report(f"{unknown} cases of {path.name} have no record in the table of patients")
    return linked


def _read_crosswalk(path: Path) -> pd.DataFrame:
    """Read case_id, subject_id and hadm_id, the last null where it is not given."""
    expected = f"a CSV of {CASE}, {KEY[0]}[, {KEY[1]}]"
    try:
        table = pd.read_csv(path, dtype="str")
    except FileNotFoundError:
        raise InputError([Fault(path, "no such file", expected)]) from None
    except (ValueError, OSError) as error:
        raise InputError([Fault(path, f"cannot be read ({error})", expected)]) from None
    with collect_faults() as faults:
        for name in (CASE, KEY[0]):
            if name not in table:
                faults.add(path, f"no column {name!r}", expected)
        if not len(table):
            faults.add(path, "no rows", "one a case", "Without --crosswalk no case has a record.")
    table = table.reindex(columns=[CASE, *KEY]).astype("str")
    with collect_faults() as faults:
        for line in table.index[table[CASE].isna()]:
            faults.add(f"{path}, line {line + 2}", f"no {CASE}", "the name of a case")
        for line in table.index[table[CASE].duplicated() & table[CASE].notna()]:
            faults.add(f"{path}, line {line + 2}", f"{CASE} {table[CASE][line]!r} again", "once")
        for name in KEY:
            bad = ~table[name].str.fullmatch(r"\d+(\.0)?", na=name == KEY[1]).astype(bool)
            for line in table.index[bad]:
                faults.add(f"{path}, line {line + 2}, {name}", "not a number", "a whole number")
    numbers = {name: pd.to_numeric(table[name]).astype("Int64") for name in KEY}
    return table.assign(**numbers)


# --- the answer ---------------------------------------------------------------------------------


@contextmanager
def _open_writer(path: Path) -> Iterator[Any]:
    """Yield a function that adds rows; the file takes its name once all are written."""
    with replacing_file(path) as temporary:
        writer = _ParquetWriter(temporary) if path.suffix == ".parquet" else _CsvWriter(temporary)
        try:
            yield writer.write
        finally:
            writer.close()


class _ParquetWriter:
    def __init__(self, path: Path) -> None:
        self.path, self._writer = path, None

    def write(self, rows: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(rows, preserve_index=False)
        if self._writer is None:
            self._writer: Any = pq.ParquetWriter(self.path, table.schema)
        self._writer.write_table(table.cast(self._writer.schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _CsvWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._begun = False

    def write(self, rows: pd.DataFrame) -> None:
        rows.to_csv(self._file, index=False, header=not self._begun)
        self._begun = True

    def close(self) -> None:
        self._file.close()
