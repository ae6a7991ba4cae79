"""``histofuse validate``: a model on another data set, nothing refitted."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.commands.validation.external_data import TRAINED_ON, External
from histofuse.core.artifacts import load_json, render, replacing_folder, write_json
from histofuse.core.bundle import MANIFEST, Bundle, list_bundles, open_bundle
from histofuse.core.errors import BundleError, InputError, collect_faults
from histofuse.core.naming import name_pairing
from histofuse.core.privacy import may_show_patients
from histofuse.core.tables import read_table
from histofuse.data.cohort import COHORT
from histofuse.data.patches import ShardReader, load_index
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.evaluation.assessment.assess import assess_model, describe_assessments
from histofuse.evaluation.assessment.figures import draw_assessment
from histofuse.evaluation.assessment.tables import make_assessment_tables
from histofuse.evaluation.external.calibration_line import measure_line
from histofuse.evaluation.external.shift import Distance, describe_patches, measure_distance
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import number_groups
from histofuse.evaluation.performance.results import Context, evaluate_model
from histofuse.evaluation.performance.tables import write_tables
from histofuse.evaluation.predictions import Predictions, concatenate, read_predictions
from histofuse.features.encoding import Encoder, join_splits
from histofuse.features.specs import KEY
from histofuse.models.tabular import ENCODER
from histofuse.params.base import load_section, load_seed
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams
from histofuse.promotion.scoring import SPLIT, TestData, score_test_split
from histofuse.reporting.external import write_external_page
from histofuse.tracking.names import VALIDATED_ON_TAG, VALIDATION_TAG, Version
from histofuse.tracking.publish import MODELS
from histofuse.tracking.registry import find_at, name_address
from histofuse.tracking.store import open_store
from histofuse.training.calibrate import Calibrator, fit_calibrator
from histofuse.training.decision import load_decision

OUT: Final = Path("reports/external")
_TINY: Final = 1e-7
_PATCHES_A_CASE: Final = 40  # that describe its colours
NEEDS: Final = {
    "image": ("frames",),
    "tabular": ("records",),
    "fusion": ("frames", "records", "crosswalk"),
}


@dataclass(frozen=True)
class Request:
    """A model, another data set, and what the report is called."""

    model: str
    frames: Path | None
    records: Path | None
    crosswalk: Path | None
    recalibrate_on: Path | None
    name: str


def validate(request: Request) -> list[str]:
    """Measure a model elsewhere; write the report, and attach it to the registered version."""
    bundle = find_bundle(request.model)
    kind = bundle.config["kind"]
    with collect_faults() as faults:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", request.name):
            faults.add("--name", f"is {request.name!r}", "letters, digits, _ and -")
        if kind not in NEEDS:
            faults.add("MODEL", f"{bundle.name} is a {kind} model", f"one of {', '.join(NEEDS)}")
        for option in NEEDS["fusion"] if kind in NEEDS else ():
            needed, given = option in NEEDS[kind], getattr(request, option) is not None
            if needed and not given:
                faults.add(f"--{option}", "nothing", f"a path, for {bundle.name} reads it")
            elif given and not needed:
                faults.add(f"--{option}", "given", f"nothing, for {bundle.name} does not read it")
    with TemporaryDirectory() as scratch:
        external = External(TestData(Path(scratch)))
        if "records" in NEEDS[kind]:
            external.add_records(request.records or Path())
        if "frames" in NEEDS[kind]:
            external.add_frames(request.frames or Path())
        if kind == "fusion":
            external.pair(bundle.name, request.crosswalk or Path())
        return _measure(bundle, external, request)


def find_bundle(model: str) -> Bundle:
    """Open a bundle by its folder, its name in models/, or that of a registered model."""
    held = list_bundles(MODELS)
    for path in (Path(model), *(path for path in held if path.name == model)):
        if (path / MANIFEST).is_file():
            return open_bundle(path)
    digest = find_at(name_address(model), open_store()).digest
    for path in held:
        bundle = open_bundle(path)
        if bundle.digest == digest:
            return bundle
    raise BundleError(
        f"{model}: models/ does not hold {digest[:12]}. Run dvc checkout or dvc pull."
    )


def _measure(bundle: Bundle, external: External, request: Request) -> list[str]:
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    distances = _measure_distances(bundle, external.data, bootstrap)  # of values as they are
    if "records" in NEEDS[bundle.config["kind"]]:
        external.screen(_read_encoder(bundle).ranges)
    home = _use_probabilities(read_predictions(bundle))
    here = _use_probabilities(score_test_split(bundle, None, external.data))
    rows, recalibration = {"at home": home.of(SPLIT), "here": here}, None
    if request.recalibrate_on is not None:
        named = external.find_named(request.recalibrate_on)
        rest, changed, part = recalibrate(here, named, bundle)
        rows |= {"here, the rest": rest, "here, the rest, recalibrated": changed}
        recalibration = {"fitted_on": part, "measured_on": rest.describe_size()}
    scores = {where: _score(of, bootstrap) for where, of in rows.items() if len(of)}
    facts = {
        "model": bundle.name,
        "digest": bundle.digest,
        "name": request.name,
        "sources": external.sources,
        "trained_on": _list_sources(bundle),
        "notes": external.notes,
        "size": here.describe_size(),
        "scores": render(scores),
        "distance": {side: distance.to_dict() for side, distance in distances.items()},
        "recalibration": recalibration,
    }
    folder = OUT / request.name / bundle.name
    with replacing_folder(folder) as out:
        assessed = _assess(concatenate([home.of("validation"), here]), external, bootstrap, out)
        write_json(facts | {"assessment": assessed}, out / "validation.json")
        write_external_page(out, facts, scores, distances)
    lines = [f"{bundle.name} on {request.name}: {here.describe_size()}"]
    lines += [f"note: {note}" for note in external.notes]
    for side, of in distances.items():
        alarms = [f"{side} differ from training: {shift}" for shift in of.alarms]
        alike = "no difference from training was found"
        if of.few_units:
            alike = "too few cases or patients for a difference from training to show"
        lines += alarms or [f"{side}: {alike}"]
    return [*lines, _attach(bundle, folder, facts, scores), f"wrote {folder}/index.html"]


def _assess(
    rows: Predictions, external: External, bootstrap: Bootstrap, out: Path
) -> dict[str, Any]:
    """Assess as the stage ``assess`` does; thresholds and sets come from validation at home."""
    params = load_section(AssessmentParams, "assessment")
    context = Context(
        image_source=external.sources.get("images", ""),
        patient_source=external.sources.get("records", ""),
        patch_audit={"leaky": False},
        rules={name_pairing(rows.name): "linked"},
        split=SPLIT,
        primary="",
    )
    path = external.data.root / "ehr" / "features.parquet"
    features = external.data.read_features() if path.is_file() else pd.DataFrame()
    identity = fit_calibrator(*_of(rows.of("validation")), "none")
    result = evaluate_model(rows, context)
    assessed = assess_model(result, identity, features, context, params, bootstrap=bootstrap)
    tables = make_assessment_tables([assessed], context, params, bootstrap.params)
    write_tables(tables, out / "tables")
    confidence = bootstrap.params.confidence
    draw_assessment(assessed, SPLIT, confidence, out / "figures")
    return describe_assessments([assessed], context, params, bootstrap.params)


def _read_encoder(bundle: Bundle) -> Encoder:
    """Read the encoder of records of a model, or of the patient encoder of a fusion model."""
    path = bundle.path
    if bundle.config["kind"] == "fusion":
        path = MODELS / bundle.config["encoders"]["patient"]["name"]
    return Encoder.from_dict(load_json(path / ENCODER))


def _use_probabilities(rows: Predictions) -> Predictions:
    """Take the calibrated model as it is: its logits are the logarithms of its probabilities."""
    return replace(rows, logits=np.log(np.clip(rows.probabilities, _TINY, None)))


def _of(rows: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert rows.logits is not None
    return rows.logits, rows.labels, rows.groups


def recalibrate(
    here: Predictions, named: set[Any], bundle: Bundle
) -> tuple[Predictions, Predictions, str]:
    """Fit a calibrator to a part of the data; return the rest, recalibrated too, and the part."""
    inside = np.isin(here.groups, list(named))
    if inside.all() or not inside.any():
        problem = "names everybody" if inside.any() else "names nobody who was predicted"
        raise InputError.of("--recalibrate-on", problem, "a part of the data")
    part, rest = here.take(np.flatnonzero(inside)), here.take(np.flatnonzero(~inside))
    method = "platt" if len(here.classes) == 2 else "temperature_bias"
    calibrator: Calibrator = fit_calibrator(*_of(part), method)
    probabilities = calibrator.probabilities(_of(rest)[0])
    decided = load_decision(bundle.path).thresholds.decide(probabilities)
    changed = replace(rest, probabilities=probabilities, predictions=decided)
    return rest, changed, f"{part.describe_size()}, by {method}"


def _score(rows: Predictions, bootstrap: Bootstrap) -> dict[str, Any]:
    focus, column = rows.focus_class, rows.classes.index(rows.focus_class)
    names = [f"auroc/{focus}", f"auprc/{focus}", "brier", f"recall/{focus}", f"precision/{focus}"]
    drawn = ClusterBootstrap(bootstrap, number_groups(rows))
    positive = rows.labels == column
    line = measure_line(rows.probabilities[:, column], positive, drawn)
    shares = np.column_stack([positive, rows.probabilities[:, column], np.ones(len(rows))])
    share = drawn.estimate(
        drawn.clusters.add_up(shares),
        lambda sums: {"observed": sums[:, 0] / sums[:, 2], "predicted": sums[:, 1] / sums[:, 2]},
    )
    return {**bootstrap.estimate_metrics(rows, names), **share, **line}


def _measure_distances(bundle: Bundle, here: TestData, bootstrap: Bootstrap) -> dict[str, Distance]:
    sides = {"frames": ("images", _describe_cases), "records": ("records", _describe_patients)}
    distances = {}
    for option, (side, describe) in sides.items():
        if option in NEEDS[bundle.config["kind"]]:
            training, outcome = describe(TestData(TRAINED_ON), "train", bundle)
            there, _ = describe(here, SPLIT, bundle)
            inputs = [str(name) for name in training if name != outcome]
            distances[side] = measure_distance(training, there, inputs, bootstrap)
    return distances


def _describe_cases(data: TestData, split: str, bundle: Bundle) -> tuple[pd.DataFrame, str]:
    """Describe each case by the colours of some of its patches, and its share of the class."""
    splits = read_table(data.root / "splits" / "patches.parquet", PATCH_SPLITS)
    places = load_index(data.patches)[["patch_id", "shard", "row"]]
    rows = splits[splits["split"] == split].merge(places, on="patch_id", validate="1:1")
    focus = bundle.config["focus_class"]
    outcome = f"outcome: {focus}"
    shares = (rows["label"] == focus).groupby(rows["case_id"]).mean()
    rows = rows.groupby("case_id").sample(frac=1, random_state=0).groupby("case_id")
    rows = rows.head(_PATCHES_A_CASE).sort_values("patch_id")
    described = describe_patches(ShardReader(data.patches).read(rows["shard"], rows["row"]))
    table = described.groupby(rows["case_id"].to_numpy()).mean()
    return table.assign(**{outcome: shares}), outcome


def _describe_patients(data: TestData, split: str, bundle: Bundle) -> tuple[pd.DataFrame, str]:
    """Describe each patient by the features of the first row, and the outcome."""
    cohort = read_table(data.root / "cohort" / "cohort.parquet", COHORT)
    splits = read_table(data.root / "splits" / "patients.parquet", PATIENT_SPLITS)
    rows = join_splits(data.read_features(), splits, cohort)
    rows = rows[rows["split"] == split].drop_duplicates(KEY[0])
    outcome = f"outcome: {TestData(TRAINED_ON).read_target()}"
    inputs = rows.drop(columns=[*KEY, "split", "target"])
    return inputs.assign(**{outcome: rows["target"]}), outcome


def _list_sources(bundle: Bundle) -> list[str]:
    """List the kinds of data that a model was trained on."""
    config = bundle.config
    return [config["source"]] if "source" in config else sorted(set(config["sources"].values()))


def _attach(bundle: Bundle, folder: Path, facts: dict[str, Any], scores: dict[str, Any]) -> str:
    """Log a run of the report and tag the registered version that holds the bundle with it."""
    store = open_store()
    versions: list[Version] = [v for v in store.list_versions() if v.digest == bundle.digest]
    if not versions:
        return "not in MLflow: the model is not registered (histofuse publish), validate it again"
    tags = {VALIDATION_TAG: bundle.digest, VALIDATED_ON_TAG: facts["name"]}
    run = store.create_run(f"validate {bundle.name} on {facts['name']}", tags).info.run_id
    metrics = {
        f"external/{name}": interval.value
        for name, interval in scores["here"].items()
        if interval.value is not None
    }
    metrics["external/alarms"] = float(sum(len(d["alarms"]) for d in facts["distance"].values()))
    store.log_batch(run, rows=[(0, metrics)])
    if may_show_patients([*facts["sources"].values(), *facts["trained_on"]]):
        store.log_folder(run, folder, [])
    store.end_run(run, "FINISHED")
    for version in versions:
        store.tag_version(version.name, version.number, {f"validated.{facts['name']}": run})
    return f"attached to {', '.join(map(str, versions))} in MLflow"
