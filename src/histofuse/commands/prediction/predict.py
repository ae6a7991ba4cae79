"""``histofuse predict``: a folder of frames, a table of patients, or both, through a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import MANIFEST, open_bundle
from histofuse.core.errors import FaultList, InputError, RegistryError, collect_faults
from histofuse.core.ids import identify
from histofuse.core.naming import show_count
from histofuse.core.privacy import SIMULATED_MARKER, may_show_patients
from histofuse.core.progress import track
from histofuse.data.geojson import make_nuclei, write_features
from histofuse.data.images.resolution import check_mpp, find_factors
from histofuse.data.points import has_points, list_tiffs, read_points, refuse_frames
from histofuse.evaluation.drawing import colour_classes
from histofuse.features.encoding import find_unknown
from histofuse.features.specs import KEY
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, DataParams, FrameParams
from histofuse.serving.case_records import (
    CASE,
    CaseRecords,
    count_ignored,
    name_unknown,
    read_case_records,
    read_patients,
    screen_records,
)
from histofuse.serving.fusion import FusionPredictor
from histofuse.serving.pictures.frames import (
    EMBEDDING,
    EmbeddingModel,
    FrameModel,
    FrameSource,
    embed_records,
    predict_frames,
)
from histofuse.serving.pictures.writer import open_writer
from histofuse.serving.predict import open_predictor
from histofuse.serving.records import WHERE, find_recorded, join_warnings
from histofuse.serving.records import read_records as read_raw
from histofuse.tracking.interface import (
    ANSWERED_BY,
    DISTANCE,
    PREDICTION,
    WARNINGS,
    name_probability,
)
from histofuse.tracking.names import SCRATCH
from histofuse.tracking.registry import fetch_model
from histofuse.tracking.store import open_store
from histofuse.tracking.verification import ARTIFACTS, BUNDLE, ENCODERS

if TYPE_CHECKING:
    from histofuse.serving.image import ImagePredictor
    from histofuse.serving.patient import PatientPredictor
    from histofuse.serving.predictor import Predictor
    from histofuse.serving.tabular import TabularPredictor

SUFFIXES: Final = (".parquet", ".csv")
ROWS_AT_ONCE: Final = 4096
NAMED: Final = "model: {model}, trained on {trained_on} data"
DETECTOR: Final = "models/detector"  # finds nuclei if none is named
_DRAWN: Final = ("overlay", "geojson", "report")  # options with a folder
_OF_FRAMES: Final = ("points", "detector", "orientation", "bits", "mpp")
_PLACE: Final = ["frame_id", "x_px", "y_px"]
_LONGEST_NAME: Final = 200  # bytes, of a file
_MOST_FRAMES: Final = 40  # counted one by one on the screen


@dataclass(frozen=True)
class Request:
    """Inputs, model and output of a prediction."""

    frames: Path | None  # folder; None for a model of health records
    points: Path | None  # CSV or GeoJSON; None if the folder has BreCaHAD's layout
    patients: Path | None  # raw features by subject_id and, if several admissions, hadm_id
    crosswalk: Path | None  # CSV of case_id,subject_id[,hadm_id]; None if patients name their case
    model: str  # a registered model, a models:/ address, or the folder of a bundle
    out: Path  # Parquet or CSV
    batch: int  # patches in a batch of the network
    orientation: str | None = None  # in place of data.frames.orientation
    bits: int | None = None  # in place of data.frames.bits
    overlay: Path | None = None  # folder for a drawing of each frame
    report: Path | None = None  # folder for a page of each case
    geojson: Path | None = None  # folder for each frame's nuclei as QuPath opens them
    slide: Path | None = None  # a whole slide, or a folder of them, in place of frames
    detector: str | None = None  # finds nuclei without points, in place of `DETECTOR`
    mpp: float | None = None  # of frames and slides whose files do not say
    engine: str = "threads"  # of slides: threads, or the address of a Dask scheduler


def predict(request: Request) -> str:
    """Predict, write the answer and return a summary of it; on failure no file is left."""
    with collect_faults() as faults:
        if request.out.suffix not in SUFFIXES:
            faults.add("--out", f"is {request.out.name}", "a name that ends in .parquet or .csv")
        elif request.out.is_dir():
            faults.add("--out", f"{request.out.name} is a folder", "a file")
        refuse_options(request, faults)
    with TemporaryDirectory(prefix=SCRATCH) as scratch:
        predictor: Any = open_predictor(*locate_model(request.model, Path(scratch)))
        require_inputs(request, predictor)
        match predictor.bundle.config["kind"]:
            case "tabular":
                answer = _predict_records(predictor, request)
            case "patient":
                answer = _predict_patients(predictor, request, Path(scratch))
            case _:
                answer = _predict_frames(predictor, request, Path(scratch))
        return "\n".join([answer, *describe_model(predictor, request)])


def refuse_options(request: Request, faults: FaultList) -> None:
    """Note files where folders are due, and a resolution that shows no nuclei."""
    check_mpp(request.mpp, faults)
    for option in _DRAWN:
        folder = getattr(request, option)
        if folder is not None and folder.is_file():
            faults.add(f"--{option}", f"{folder.name} is a file", "a folder")


def require_inputs(request: Request, predictor: Any) -> None:
    """Refuse what the model lacks, and each option that is given and that it would not read."""
    kind = predictor.bundle.config["kind"]
    with collect_faults() as faults:
        if kind == "detector":
            problem = "is a detector, which finds nuclei and does not classify them"
            expected = "a model that answers about nuclei or patients; --detector names it"
            faults.add("--model", problem, expected)
        if kind == "tabular" and request.patients is None:
            expected = "a table of raw features, for this model reads health records"
            faults.add("--patients", "nothing", expected)
        if kind in ("image", "fusion") and request.frames is request.slide is None:
            faults.add("FRAMES", "nothing", "a folder of frames, which this model reads")
        if kind == "patient" and request.frames is request.patients is None:
            expected = "FRAMES, a folder of frames, --patients, a table of records, or both"
            faults.add("input", "nothing", expected)
        faults.raise_if_any()
        for option, why in _list_unread(request, predictor).items():
            if getattr(request, option) != getattr(Request, option, None):
                shown = "FRAMES" if option == "frames" else f"--{option}"
                faults.add(shown, "given", f"nothing: {why}")


def _list_unread(request: Request, predictor: Any) -> dict[str, str]:
    """Map the options that are not read to the reason."""
    kind, unread = predictor.bundle.config["kind"], dict[str, str]()
    if request.slide is None:
        unread["engine"] = "it is for slides"
    if request.patients is None:
        unread["crosswalk"] = "it links --patients, of which there are none"
    if request.frames is request.slide is None:
        unread |= dict.fromkeys(_OF_FRAMES, "there are no frames")
    elif request.slide is None and kind != "tabular" and predictor.image.model.spec.mpp is None:
        unread["mpp"] = f"{predictor.image.bundle.name} does not say the resolution of its patches"
    if request.frames is not None and (request.points or has_points(request.frames)):
        unread["detector"] = "the nuclei are where the points of the frames are"
    match kind:
        case "tabular":
            options = ("frames", *_OF_FRAMES, "crosswalk", *_DRAWN)
            unread |= dict.fromkeys(options, "the model answers about records")
        case "patient":
            unread |= dict.fromkeys(("overlay", "geojson"), "the model answers about patients")
        case "image":
            unread |= dict.fromkeys(("patients", "crosswalk"), "the model reads no records")
    return unread


def describe_model(predictor: Predictor, request: Request) -> list[str]:
    """Name the model, and warn if it was trained on simulated data and the input is other data."""
    lines = [NAMED.format_map(predictor.identity)]
    given = (request.frames, request.slide, request.patients)
    inputs = [path for path in given if path is not None]
    if "simulated" in predictor.sources and not all(
        _is_simulated(path.absolute()) for path in inputs
    ):
        lines.append(
            "WARNING: the model was trained on simulated data and the input is not marked as "
            "simulated: the predictions say nothing about these patients."
        )
    return lines


def is_private(request: Request) -> bool:
    """Tell whether pages of the input may be seen by their owner alone."""
    pictures, records = request.frames or request.slide, request.patients
    if records is not None and not may_show_patients([_read_source(records.absolute())]):
        return True
    restricted = load_section(DataParams, "data").images_restricted
    return pictures is not None and restricted and not _is_simulated(pictures.absolute())


def _is_simulated(path: Path) -> bool:
    """Whether frames, or the cohort next to a table of features, are marked as simulated."""
    return (
        (path / SIMULATED_MARKER).is_file() if path.is_dir() else _read_source(path) == "simulated"
    )


def _read_source(table: Path) -> str:
    """Read the source of a table of features from the cohort next to it; "" if it has none."""
    cohort = table.parent.parent / "cohort" / "meta.json"
    return load_json(cohort).get("source", "") if cohort.is_file() else ""


def locate_model(model: str, scratch: Path) -> tuple[Path, Path | None]:
    """Locate a bundle and its encoders, None if there are none or the registry holds them.

    A registered model is copied to `scratch`.
    """
    if (Path(model) / MANIFEST).is_file():
        return Path(model), None
    folder = fetch_model(model, open_store(), scratch) / ARTIFACTS
    encoders = folder / ENCODERS
    return folder / BUNDLE, encoders if encoders.is_dir() else None


def locate_detector(request: Request, scratch: Path) -> Path | None:
    """Locate a detector as `locate_model` does a model; None if the usual one is not there.

    Raises InputError if another one was named and is not there, or is none.
    """
    (scratch / "detector").mkdir()
    named = request.detector or DETECTOR
    try:
        bundle, _ = locate_model(named, scratch / "detector")
    except RegistryError as error:
        if request.detector is None:
            return None
        raise refuse_detector(named, str(error)) from None
    if (kind := open_bundle(bundle, row_level=False).config["kind"]) != "detector":
        raise InputError.of("--detector", f"{named} is of kind {kind}", "a detector of nuclei")
    return bundle


def refuse_detector(detector: str, remedy: str = "Run dvc repro, or name another.") -> InputError:
    """Say that a detector is not there."""
    problem = f"{detector} is no bundle, and no registered model in production"
    return InputError.of("--detector", problem, "a detector of nuclei", remedy)


def read_records(
    predictor: ImagePredictor | FusionPredictor, request: Request, cases: Iterable[str]
) -> CaseRecords:
    """Read and embed the records of cases, for a model that takes them."""
    if not isinstance(predictor, FusionPredictor):
        return CaseRecords(pd.DataFrame(), pd.DataFrame(), {}, [])
    records, patients = _read_by_case(request, cases)
    with naming_table(request.patients):
        records, patients[WARNINGS], notes = _screen_cases(predictor.patient, records)
    return CaseRecords(records, patients, embed_records(predictor, records), notes)


def _read_by_case(request: Request, cases: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read raw features, each case spelt as in `cases`, and whose they are."""
    records = read_case_records(request.patients, request.crosswalk)
    named = {identify(case): case for case in cases}
    records = records.rename(index=lambda case: named.get(identify(case), case))
    return records, records[[name for name in KEY if name in records]].convert_dtypes()


def _predict_records(predictor: TabularPredictor, request: Request) -> str:
    assert request.patients is not None
    table = read_patients(request.patients)
    named = [name for name in (CASE, *KEY) if name in table]
    ranges = predictor.encoder.ranges
    screened, unknown = screen_records(table, ranges), Counter[Any]()
    with open_writer(request.out) as write:
        starts = range(0, len(table), ROWS_AT_ONCE)
        for start in track(starts, "predicting", total=len(starts)):
            chosen = slice(start, start + ROWS_AT_ONCE)
            with naming_table(request.patients):
                records = predictor.read(screened.table.iloc[chosen])
            unknown.update(find_unknown(predictor.encoder, records).sum().to_dict())
            answer = predictor.answer(records)
            warnings = join_warnings(screened.warnings.iloc[chosen], answer[WARNINGS])
            answer[WARNINGS] = warnings
            write(pd.concat([table[named].iloc[chosen], answer], axis=1))
    notes = count_ignored(screened.outside, unknown, ranges)
    notes += name_unknown(screened.table, predictor.encoder.inputs)
    return "; ".join([f"wrote {request.out}: {show_count(table, 'records')}", *notes])


@contextmanager
def naming_table(path: Path | None) -> Iterator[None]:
    """Let faults of a record name the table it comes from."""
    try:
        yield
    except InputError as error:
        named = [replace(f, where=str(f.where).replace(WHERE, str(path), 1)) for f in error.faults]
        raise InputError(named) from None


def _predict_frames(
    predictor: ImagePredictor | FusionPredictor, request: Request, scratch: Path
) -> str:
    points, frames = _take_points(predictor.image, request, scratch)
    records = read_records(predictor, request, points[CASE].unique())
    model = FrameModel(predictor, records.embeddings)
    classes = predictor.bundle.config["classes"]
    scored = [name for name in ("score",) if name in points]
    kept = [CASE, *_PLACE, *scored, PREDICTION, DISTANCE, *map(name_probability, classes)]
    answered: list[pd.DataFrame] = []
    with open_writer(request.out) as write:
        for part in _track_frames(model, points, frames, request.batch, "predicting"):
            write(records.add_to(part))
            answered.append(part[kept])
        if not answered:
            part = model.make_empty()
            write(part)
            answered.append(part[kept])
    table = pd.concat(answered)
    _draw(table, model, records, frames, request)
    of = f"{show_count(points, 'nuclei')} of {show_count(frames.files, 'frames')}"
    done = f"wrote {request.out}: {of}"
    counts = _count_records(points, records) if isinstance(predictor, FusionPredictor) else []
    counted = _count_classes(table, classes)
    return "\n".join(["; ".join([done, *counts, *records.notes]), counted, *_find_far(table)])


def _track_frames(
    model: FrameModel, points: pd.DataFrame, frames: FrameSource, batch: int, doing: str
) -> Iterator[pd.DataFrame]:
    parts = predict_frames(model, points, frames, batch)
    yield from track(parts, doing, total=-(-len(points) // batch))


def _draw(
    table: pd.DataFrame,
    model: FrameModel,
    records: CaseRecords,
    frames: FrameSource,
    request: Request,
) -> None:
    """Draw overlays, outlines and pages of answered nuclei, those that are asked for."""
    classes = model.predictor.bundle.config["classes"]
    if request.overlay is not None:
        from histofuse.serving.pictures.overlay import draw_overlays

        footer = NAMED.format_map(model.predictor.identity)
        draw_overlays(table, frames, classes=classes, footer=footer, folder=request.overlay)
    if request.geojson is not None:
        request.geojson.mkdir(parents=True, exist_ok=True)
        names = load_section(DataParams, "data").class_names
        for frame in frames.files:
            rows = table[table["frame_id"] == frame]
            nuclei = make_nuclei(rows, names, colour_classes(classes), of=frame)
            write_features(nuclei, request.geojson / f"{frame}.geojson")
    if request.report is not None:
        from histofuse.commands.prediction.case_pages import write_frame_pages

        private = is_private(request)
        write_frame_pages(table, model, records, frames, request.report, private=private)


def _predict_patients(predictor: PatientPredictor, request: Request, scratch: Path) -> str:
    """Answer each case from its patient's nuclei, record, or one of both; a row a case."""
    bags, frames = _embed_cases(predictor, request, scratch) if request.frames else ({}, None)
    records, patients = _read_by_case(request, bags)
    names = pd.Index(sorted({*bags, *map(str, records.index)}), name=CASE)
    known = patients[KEY[0]].dropna().astype(str) if KEY[0] in patients else {}
    owners = pd.Series({name: known.get(name, f"of {name}") for name in names}, dtype="str")
    bags = _share_nuclei(bags, owners)
    with naming_table(request.patients):
        screened, warnings, notes = _screen_cases(predictor, records)
        given = predictor.read_records(screened.reindex(names))
    sizes = np.array([len(bags.get(name, ())) for name in names], dtype=np.int64)
    if unknown := list(names[(sizes == 0) & ~find_recorded(given)]):
        where = request.patients or "input"
        raise InputError.of(where, f"nothing known of {unknown}", "a record each")
    if request.report is not None:
        _refuse_paths(names, request.patients)
    warnings = warnings.reindex(names).fillna("")
    none = np.empty((0, predictor.image.model.embedding_dim), np.float32)
    embeddings = [np.stack(list(bags[name][EMBEDDING])) if name in bags else none for name in names]
    answer = predictor.answer_embedded(np.concatenate([none, *embeddings]), sizes, given)
    answer[WARNINGS] = warnings
    table = pd.concat([patients.reindex(names), answer.assign(nuclei=sizes)], axis=1).reset_index()
    with open_writer(request.out) as write:
        write(table)
    if request.report is not None:
        from histofuse.commands.prediction.patient_pages import PatientCase, write_patient_page

        place = pd.DataFrame(columns=pd.Index(_PLACE))
        for name, embedded in track(list(zip(names, embeddings, strict=True)), "writing pages"):
            nuclei, record = bags.get(name, place)[_PLACE], given.loc[[name]]
            case = PatientCase(name, nuclei, embedded, record, warnings[name])
            page = request.report / f"{name}.html"
            write_patient_page(case, predictor, frames, page, private=is_private(request))
    by = ", ".join(f"{n} by {view}" for view, n in Counter(answer[ANSWERED_BY]).items())
    of = show_count(owners.nunique(), "patients")
    return "; ".join([f"wrote {request.out}: {of}, {by}", *notes])


def _refuse_paths(names: Iterable[str], where: Path | None) -> None:
    """Refuse names of cases that cannot be the name of a file."""
    with collect_faults() as faults:
        for name in names:
            if len(name.encode()) > _LONGEST_NAME or any(sign in name for sign in "/\\\0"):
                expected = f"up to {_LONGEST_NAME} bytes without / and \\: the page's file has it"
                faults.add(where or "input", f"case {name!r}", expected)


def _share_nuclei(bags: dict[str, pd.DataFrame], owners: pd.Series) -> dict[str, pd.DataFrame]:
    """Give each case the nuclei of all cases of its patient."""
    shared = {}
    for _, cases in owners.groupby(owners):
        if known := [bags[case] for case in map(str, cases.index) if case in bags]:
            shared |= dict.fromkeys(cases.index, pd.concat(known, ignore_index=True))
    return shared


def _embed_cases(
    predictor: PatientPredictor, request: Request, scratch: Path
) -> tuple[dict[str, pd.DataFrame], FrameSource]:
    """Embed the nuclei of frames: for each case where they are and their embeddings."""
    points, frames = _take_points(predictor.image, request, scratch)
    model = EmbeddingModel(predictor.image, {})
    tables = list(_track_frames(model, points, frames, request.batch, "embedding nuclei"))
    if not tables:
        return {}, frames
    return {str(case): rows for case, rows in pd.concat(tables).groupby(CASE)}, frames


def _count_classes(answered: pd.DataFrame, classes: list[str]) -> str:
    """Count each class by case and, of few frames, by frame, with the median distance of both."""
    if answered.empty:
        return "no nuclei"
    keys = [answered[CASE].rename("case"), answered["frame_id"].rename("frame")]
    frames = pd.crosstab(keys, answered[PREDICTION]).reindex(columns=classes, fill_value=0)
    cases = frames.groupby(level="case").sum()
    frames[DISTANCE] = answered.groupby(keys)[DISTANCE].median()
    cases[DISTANCE] = answered.groupby(keys[0])[DISTANCE].median()
    total = cases.assign(frame="all").set_index("frame", append=True)
    table = pd.concat([total, frames]) if len(frames) <= _MOST_FRAMES else total
    return table.sort_index(level="case", sort_remaining=False, kind="stable").to_string()


def _find_far(answered: pd.DataFrame) -> list[str]:
    """Warn of frames most of which is less like the training patches than nearly all validation."""
    far = answered.groupby("frame_id")[DISTANCE].median().loc[lambda d: d > 1]
    if far.empty:
        return []
    share = f"{len(far)} of {show_count(answered['frame_id'].nunique(), 'frames')}"
    return [
        f"WARNING: {share} unlike the training patches, by a median distance above 1, below which "
        f"95 % of the validation patches stay, at most {far.max():.1f} ({far.idxmax()})."
    ]


def _take_points(
    image: ImagePredictor, request: Request, scratch: Path
) -> tuple[pd.DataFrame, FrameSource]:
    """Read the points of frames or, where none are given, find them."""
    assert request.frames is not None
    reading, mpp = choose_reading(request), image.model.spec.mpp
    # Params say the resolution of frames if nothing else does.
    declared = load_section(DataParams, "data").mpp
    given = request.mpp or (None if declared == "none" else declared)
    if request.points is not None or has_points(request.frames):
        classes = load_section(ClassesParams, "classes")
        points = read_points(request.frames, request.points, classes, reading)
        factors = find_factors(points.files, mpp, given)
        return points.table, FrameSource(points.files, reading, factors)
    from histofuse.detection.finder import NucleusFinder
    from histofuse.serving.pictures.finding import find_points, load_errors

    files = list_tiffs(request.frames)
    bundle = locate_detector(request, scratch)
    if bundle is None:
        raise refuse_frames(request.frames)
    finder = NucleusFinder.load(bundle)
    finder.require_mpp(mpp, f"{image.bundle.name}, the model of patches,")
    errors = load_errors(bundle, image.bundle.name)
    frames = FrameSource(files, reading, find_factors(files, mpp, given), errors)
    return find_points(frames, finder), frames


def choose_reading(request: Request) -> FrameParams:
    """Choose how frames are understood: as in params.yaml, but for what the request names."""
    params = load_section(DataParams, "data").frames
    named = {"orientation": request.orientation, "bits": request.bits}
    chosen = {key: value for key, value in named.items() if value is not None}
    return FrameParams(**(params.model_dump() | chosen))


def _screen_cases(
    patient: TabularPredictor | PatientPredictor, records: pd.DataFrame
) -> tuple[pd.DataFrame, pd.Series, list[str]]:
    """Return usable records, a warning for each, and a summary of what is not used of them."""
    if not len(records):
        return records, pd.Series(dtype="str"), []
    ranges = patient.encoder.ranges
    screened = screen_records(records, ranges)
    read = read_raw(screened.table, patient.encoder)
    unknown = find_unknown(patient.encoder, read).sum().to_dict()
    notes = count_ignored(screened.outside, unknown, ranges)
    notes += name_unknown(read, patient.encoder.inputs)
    return screened.table, join_warnings(screened.warnings, patient.warn(read)), notes


def _count_records(points: pd.DataFrame, records: CaseRecords) -> list[str]:
    cases = set(points[CASE])
    alone = sorted(cases - set(records.embeddings))
    idle = sorted(set(map(str, records.table.index)) - cases)
    of = f"{len(alone)} of {show_count(cases, 'cases')}"
    notes = [f"{of} without a record, answered by the image alone"]
    if idle:
        named = f" (such as {idle[0]}; a frame without a record: {alone[0]})" if alone else ""
        notes.append(f"{show_count(idle, 'records')} without a frame, not answered{named}")
    return notes
