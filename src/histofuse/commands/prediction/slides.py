"""``histofuse predict --slide``: whole slides -> nuclei, hot spot, GeoJSON and a heat map."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from histofuse.commands.prediction.case_pages import Case, choose_shown, write_case_page
from histofuse.commands.prediction.predict import (
    CASE,
    DETECTOR,
    NAMED,
    Request,
    choose_reading,
    describe_model,
    is_private,
    locate_detector,
    locate_model,
    read_records,
    refuse_detector,
    refuse_options,
    require_inputs,
)
from histofuse.core.artifacts import making_folder, replacing_folder, write_json
from histofuse.core.errors import Fault, InputError, collect_faults
from histofuse.core.naming import show_count, show_name
from histofuse.core.progress import report, track
from histofuse.core.tables import to_csv
from histofuse.core.workers import map_jobs
from histofuse.data.cutting import cut_windows
from histofuse.data.geojson import make_nuclei, make_region, write_features
from histofuse.data.images.pixels import require_light
from histofuse.data.images.resolution import resample, settle_mpp
from histofuse.data.images.slides import SLIDE_SUFFIXES, open_picture
from histofuse.data.images.tissue import Overview, look_over
from histofuse.data.points import note_others
from histofuse.evaluation.drawing import colour_classes, write_figure
from histofuse.evaluation.mitotic_counts import (
    HotSpot,
    MitosisErrors,
    describe_hot_spot,
    find_hot_spot,
)
from histofuse.params.base import load_section, load_seed
from histofuse.params.data import DataParams, FrameParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.slides import SlideParams
from histofuse.reporting.pictures import embed_array
from histofuse.serving.case_records import CaseRecords
from histofuse.serving.pictures.finding import load_errors
from histofuse.serving.pictures.frames import FrameModel
from histofuse.serving.pictures.overlay import DPI, draw_overview, render
from histofuse.serving.pictures.slides import (
    SlideModel,
    choose_normaliser,
    list_regions,
    predict_slide,
)
from histofuse.serving.pictures.writer import open_writer
from histofuse.serving.predict import open_predictor
from histofuse.tracking.interface import PREDICTION, name_probability

ALL_SLIDES: Final = "summary.csv"
_PLACES: Final = ["x_px", "y_px"]
_RING: Final = np.linspace(0, 2 * np.pi, 65)


@dataclass(frozen=True)
class SlideJob:
    """All that a process needs for one slide after another."""

    request: Request
    model: Path  # bundle
    encoders: Path | None  # of a fusion model
    detector: Path  # bundle
    records: CaseRecords  # of the cases, for a fusion model
    private: bool  # whether the owner alone may read the pages
    reading: FrameParams
    slides: SlideParams
    class_names: Mapping[str, list[str]]
    errors: MitosisErrors | None  # on mitoses of test frames; None if not measured
    confidence: float
    seed: int


def predict_slides(request: Request) -> str:
    """Predict all slides and sum up; those that cannot be read do not hold up the others.

    Raises InputError with what is wrong with each slide that was left out, after the others;
    RegistryError if there is no such model.
    """
    assert request.slide is not None
    with collect_faults() as faults:
        if request.out.suffix in (".parquet", ".csv") or request.out.is_file():
            faults.add("--out", f"is {request.out.name}", "a folder, for a folder of each slide")
        for option in ("frames", "points", "overlay", "geojson"):
            if getattr(request, option) is not None:
                shown = "FRAMES" if option == "frames" else f"--{option}"
                faults.add(shown, "given with --slide", "either frames or slides")
        refuse_options(request, faults)
    paths = list_slides(request.slide)
    # Next to the output: workers on other machines see it there.
    with (
        making_folder(request.out),
        TemporaryDirectory(prefix=".model-", dir=request.out) as scratch,
    ):
        bundle, encoders = locate_model(request.model, Path(scratch))
        bundle, encoders = bundle.absolute(), encoders and encoders.absolute()
        predictor = _load_model(bundle, encoders)
        if (kind := predictor.bundle.config["kind"]) not in ("image", "fusion"):
            expected = "a model of single nuclei: image or fusion"
            raise InputError.of("--model", f"is of kind {kind}", expected)
        require_inputs(request, predictor)
        detector = locate_detector(request, Path(scratch))
        if detector is None:
            raise refuse_detector(DETECTOR)
        detector = detector.absolute()
        _require_fit(predictor, _load_detector(detector), request)
        records = read_records(predictor, request, paths)
        job = SlideJob(
            request=request,
            model=bundle,
            encoders=encoders,
            detector=detector,
            records=records,
            private=is_private(request),
            reading=choose_reading(request),
            slides=load_section(SlideParams, "slides"),
            class_names=load_section(DataParams, "data").class_names,
            errors=load_errors(detector, predictor.image.bundle.name),
            confidence=load_section(IntervalParams, "intervals").confidence,
            seed=load_seed(),
        )
        run = partial(_try_slide, job=job)
        done = map_jobs(run, paths.items(), engine=request.engine, workers=1)
        answers = list(track(done, "predicting slides", total=len(paths)))
        model = describe_model(predictor, request)  # while its bundle is there
    summaries = [answer for answer in answers if isinstance(answer, dict)]
    if summaries:
        table = pd.DataFrame([_flatten(summary) for summary in summaries])
        (request.out / ALL_SLIDES).write_text(to_csv(table), encoding="utf-8")
    lines = [f"wrote {request.out}: {len(summaries)} of {show_count(paths, 'slides')}"]
    lines += [*map(describe_slide, summaries), *records.notes, *model]
    faults = [fault for answer in answers if isinstance(answer, list) for fault in answer]
    if faults:
        for line in lines if summaries else ():
            report(line)
        raise InputError(faults)
    return "\n".join(lines)


def _require_fit(predictor: Any, finder: Any, request: Request) -> None:
    """Refuse a model without a resolution, and a detector of another one."""
    if (mpp := predictor.image.model.spec.mpp) is None:
        problem = f"{request.model} does not say the resolution of its patches"
        remedy = "Set patches.patch_um and train it again."
        raise InputError.of("--model", problem, "µm per pixel", remedy)
    finder.require_mpp(mpp, f"{predictor.image.bundle.name}, the model of patches,")


def list_slides(path: Path) -> dict[str, Path]:
    """Map the name of each slide to its file."""
    if not path.exists():
        raise InputError.of(path, "no such file or folder", "a slide, or a folder of slides")
    files = [path]
    if path.is_dir():  # names that start with a dot are the leavings of file managers
        held = (f for f in sorted(path.iterdir()) if not f.name.startswith("."))
        files = [f for f in held if f.suffix.lower() in SLIDE_SUFFIXES]
    slides: dict[str, Path] = {}
    with collect_faults() as faults:
        for file in files:
            name = file.stem.removesuffix(".ome")
            if (known := slides.setdefault(name, file)) != file:
                faults.add(file, f"the same name as {known.name}", "one file per slide")
        held = note_others(path, "slides", quiet=not files) if path.is_dir() else ""
        if not files:
            faults.add(
                path, f"no slides{held}", f"files that end in {', '.join(sorted(SLIDE_SUFFIXES))}"
            )
    return slides


def _try_slide(named: tuple[str, Path], *, job: SlideJob) -> dict[str, Any] | list[Fault]:
    try:
        return _run_slide(*named, job)
    except InputError as error:
        return error.faults


def _run_slide(name: str, path: Path, job: SlideJob) -> dict[str, Any]:
    predictor, finder = _load_model(job.model, job.encoders), _load_detector(job.detector)
    request, records = job.request, job.records
    frames = FrameModel(predictor, records.embeddings)
    model = SlideModel(finder, frames, job.slides.region_px, request.batch)
    model_mpp = frames.image.model.spec.mpp
    assert model_mpp is not None
    with (
        open_picture(path, job.reading, look=False) as picture,
        replacing_folder(request.out / name) as folder,
    ):
        mpp = settle_mpp(path, request.mpp)
        if request.mpp is not None and mpp != request.mpp:
            report(f"{path.name}: says {mpp:.4g} µm per pixel, which is taken")
        overview = look_over(resample(picture, 1.0), mpp)
        require_light(overview.thumbnail, path)
        slide, factor = resample(picture, mpp / model_mpp), mpp / model_mpp
        factor = factor if slide.shapes[0] != overview.full_shape else 1.0
        regions = list_regions(slide.shapes[0], overview, model.side_px)
        prepare = choose_normaliser(frames.stain_normalisation, slide, regions)
        names = map(name_probability, predictor.bundle.config["classes"])
        kept = [*_PLACES, "score", PREDICTION, *names]
        found = []
        with open_writer(folder / "nuclei.parquet") as write:
            for part in predict_slide(model, slide, regions, prepare, name):
                rows = part.assign(**{CASE: name, "frame_id": name})
                rows[_PLACES] /= factor
                write(records.add_to(rows))
                found.append(rows[kept])
            if not found:
                found.append(frames.make_empty())
                write(found[0])
        table = pd.concat(found, ignore_index=True)
        summary, drawing = _write_results(
            table, frames, job, folder, name=name, mpp=mpp, overview=overview
        )
        if request.report is not None:
            table = table.assign(frame_id=name)
            shown = choose_shown(table, summary["focus_class"])
            stored = frames.make_stored(len(shown))
            cut_windows(slide, *(shown[_PLACES].to_numpy(float).T * factor), stored)
            stored = np.array([prepare(patch) for patch in stored], np.uint8).reshape(stored.shape)
            drawn = embed_array(drawing, "Thumbnail with mitoses and hot spot", "")
            results = [("Result", describe_slide(summary))]
            case = Case(name, [name], table, shown, stored, [drawn], results)
            page = request.report / f"{name}.html"
            write_case_page(case, frames.predictor, records, page, private=job.private)
        return summary


def _write_results(
    table: pd.DataFrame,
    frames: FrameModel,
    job: SlideJob,
    folder: Path,
    *,
    name: str,
    mpp: float,
    overview: Overview,
) -> tuple[dict[str, Any], UInt8[np.ndarray, "height width 3"]]:
    """Write GeoJSON, thumbnail and summary; return the summary and the drawing."""
    config = frames.predictor.bundle.config
    classes, focus = config["classes"], config["focus_class"]
    mitoses = table.loc[table[PREDICTION] == focus, _PLACES].to_numpy(dtype=float)
    spot = find_hot_spot(mitoses * mpp, overview.tissue, overview.mpp, job.slides.hot_spot_mm2)
    field = job.slides.field_diameter_mm
    how = {"confidence": job.confidence, "seed": job.seed}
    counts = Counter(table[PREDICTION])
    summary = {
        "slide": name,
        "mpp": mpp,
        "tissue_mm2": overview.tissue_mm2,
        "nuclei": len(table),
        "counts": {c: counts[c] for c in classes},
        "focus_class": focus,
        "hot_spot": None if spot is None else describe_hot_spot(spot, job.errors, field, **how),
        **frames.predictor.identity,
    }
    write_json(summary, folder / "summary.json")
    nuclei = make_nuclei(table, job.class_names, colour_classes(classes), of=name)
    write_features((*_outline(spot, mpp, focus, name), *nuclei), folder / "nuclei.geojson")
    title = f"{describe_slide(summary)}\n{NAMED.format_map(summary)}"
    figure = draw_overview(overview, mitoses * mpp, spot, title)
    write_figure(figure, folder / "thumbnail.png", DPI)
    return summary, render(figure)


def _outline(spot: HotSpot | None, mpp: float, focus: str, name: str) -> list[dict[str, Any]]:
    """Outline the hot spot, if it holds anything, in pixels of the slide."""
    if spot is None or not spot.mitoses:
        return []
    ring = np.array([spot.x_um, spot.y_um]) + spot.radius_um * np.stack(
        [np.cos(_RING), np.sin(_RING)], axis=1
    )
    ring[-1] = ring[0]
    measured = {f"Number of {focus}": float(spot.mitoses), f"{focus} per mm^2": spot.per_mm2}
    return [make_region(ring / mpp, "Hot spot", measured, of=name)]


@lru_cache(maxsize=1)
def _load_model(bundle: Path, encoders: Path | None) -> Any:
    return open_predictor(bundle, encoders)


@lru_cache(maxsize=1)
def _load_detector(bundle: Path) -> Any:
    from histofuse.detection.finder import NucleusFinder

    return NucleusFinder.load(bundle)


def _flatten(summary: Mapping[str, Any]) -> dict[str, Any]:
    row = {k: v for k, v in summary.items() if not isinstance(v, dict) and v is not None}
    row |= {f"count_{name}": count for name, count in summary["counts"].items()}
    spot = summary["hot_spot"] or {}
    row |= {name: spot.get(name) for name in ("mitoses", "mitoses_per_mm2", "mitotic_score")}
    interval = spot.get("interval") or {"mitoses_per_mm2": [None, None]}
    low, high = interval["mitoses_per_mm2"]
    return row | {"mitoses_per_mm2_low": low, "mitoses_per_mm2_high": high}


def describe_slide(summary: Mapping[str, Any]) -> str:
    """Describe the results of a slide in a line."""
    spot = summary["hot_spot"]
    if spot is None:
        return f"{summary['slide']}: no tissue found, so no nuclei"
    counts = ", ".join(f"{n:,} {show_name(name)}" for name, n in summary["counts"].items())
    line = (
        f"{summary['slide']}: {show_count(summary['nuclei'], 'nuclei')} ({counts}) in "
        f"{summary['tissue_mm2']:.2f} mm² of tissue; hot spot: {spot['mitoses']} "
        f"{show_name(summary['focus_class'])} in {spot['tissue_mm2']:.2f} mm², "
        f"{spot['mitoses_per_mm2']:.1f} per mm²"
    )
    if (interval := spot["interval"]) is None:
        line += ", no interval (the detector's errors were not measured)"
    else:
        low, high = interval["mitoses_per_mm2"]
        line += f" ({interval['confidence']:.0%} interval {low:.1f} to {high:.1f})"
    field = f"ten fields of {spot['field_diameter_mm']:g} mm"
    if spot["mitotic_score"] is None:
        return f"{line}; no mitotic score: less than half the tissue of {field}"
    line += f"; mitotic score {spot['mitotic_score']} ({field})"
    scores = sorted(set(interval["mitotic_score"])) if interval else []
    return ", ".join([line, *([" to ".join(map(str, scores))] if scores else [])])
