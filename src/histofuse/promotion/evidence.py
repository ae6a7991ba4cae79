"""Evidence for the gate about a registered version: its files, test scores and alarm checks.

Everything is read from the registry, as it would be served. The copy in ``models/`` is not used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import CONFIG, PREDICTIONS, open_bundle
from histofuse.core.errors import BundleError, HistofuseError, RegistryError
from histofuse.core.naming import name_pairing
from histofuse.core.processes import ChildError, call_in_child
from histofuse.core.progress import report
from histofuse.evaluation.alarms.checks import AlarmCheck, AlarmRules, read_alarms, select_checks
from histofuse.evaluation.alarms.models import read_model
from histofuse.evaluation.alarms.search import AlarmData, find_alarms
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.patients import SIDES
from histofuse.evaluation.predictions import Predictions, read_predictions
from histofuse.explain.estimates import FAITHFULNESS, read_scores
from histofuse.params.promotion import PromotionParams
from histofuse.promotion.gate import Evidence, Scored, is_of_one_side
from histofuse.promotion.scoring import TestData, score_test_split
from histofuse.serving.pictures.finding import DETECTION_METRICS
from histofuse.serving.predict import open_predictor
from histofuse.tracking.names import (
    MODEL_FOLDER,
    SCRATCH,
    VALIDATED_ON_TAG,
    VALIDATION_TAG,
    Version,
)
from histofuse.tracking.store import Store
from histofuse.tracking.verification import ARTIFACTS, BUNDLE, ENCODERS, check_copy

ALARMS: Final = Path("reports/alarms.json")
EXPLANATIONS: Final = Path("reports/explain")
SCORING_SECONDS: Final = 3600.0  # for loading and scoring one version, many times what it takes

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class _Registered:
    """A version's files, copied from the registry."""

    version: Version
    folder: Path

    @property
    def artifacts(self) -> Path:
        return self.folder / ARTIFACTS

    @property
    def encoders(self) -> Path | None:
        """The encoders it contains; None if it has none."""
        path = self.artifacts / ENCODERS
        return path if path.is_dir() else None

    def list_files(self) -> frozenset[str]:
        files = (f for f in self.artifacts.rglob("*") if f.is_file())
        return frozenset(f.relative_to(self.artifacts).as_posix() for f in files)

    def read_config(self) -> dict[str, Any]:
        """Read its config without verifying the bundle; empty if it is missing."""
        path = self.artifacts / BUNDLE / CONFIG
        return load_json(path) if path.is_file() else {}

    def has_signature(self) -> bool:
        """Whether it is registered with a signature of inputs and outputs."""
        from ruamel.yaml import YAML

        path = self.folder / "MLmodel"
        metadata = YAML(typ="safe").load(path) if path.is_file() else {}
        signature = metadata.get("signature") or {}
        return bool(signature.get("inputs")) and bool(signature.get("outputs"))


def gather_evidence(
    store: Store,
    candidate: Version,
    production: Version | None,
    rules: AlarmRules,
    data: TestData | None = None,
) -> Evidence:
    """Gather the evidence; faults of the version itself are part of it and raise nothing.

    Raises RegistryError if the registry itself cannot be read.
    """
    data = data or TestData()
    with _copied(store, candidate) as copy:
        scored, files = _score(copy, data), copy.list_files()
        signature = copy.has_signature()
        alarms, alarms_fault = _attempt(lambda: _find_alarms(copy, scored, data, rules))
        encoder, encoder_fault = _score_encoder(copy, scored, data)
        alone, alone_fault = _attempt(lambda: _score_sides(copy, scored, data))
    name = str(scored.config.get("name", ""))
    return Evidence(
        candidate=scored,
        production=None if production is None else _score_production(store, production, data),
        files=files,
        signature=signature,
        card=bool(store.read_description(candidate.name, candidate.number).strip()),
        seed=rules.bootstrap.seed,
        alarms=alarms,
        alarms_fault=alarms_fault,
        encoder=encoder,
        encoder_fault=encoder_fault,
        alone=alone or {},
        alone_fault=alone_fault,
        validated_on=list_validations(store, candidate.digest),
        faithfulness=_attempt(lambda: read_faithfulness(name, candidate.digest))[0],
        detection=_attempt(lambda: read_detection(candidate.digest))[0],
    )


def list_validations(store: Store, digest: str) -> tuple[str, ...]:
    """List the data sets on which finished runs validated a bundle."""
    runs = store.find_runs(VALIDATION_TAG, digest)
    named = {r.data.tags.get(VALIDATED_ON_TAG, "") for r in runs if r.info.status == "FINISHED"}
    return tuple(sorted(named - {""}))


def _find_alarms(
    copy: _Registered, scored: Scored, data: TestData, rules: AlarmRules
) -> tuple[AlarmCheck, ...]:
    """Read the alarm checks of this version and the current data; make them if there are none."""
    if scored.config.get("kind") == "detector":
        return ()
    recorded = read_alarms(ALARMS, copy.version.digest, data.root)
    if recorded is not None:
        return recorded
    if scored.bundle_fault:
        raise BundleError("the version could not be opened")
    report(f"{ALARMS} is not about this version and the current data: checking for alarms now")
    patient = None if copy.encoders is None else copy.encoders / "patient"
    model = replace(read_model(copy.artifacts / BUNDLE, patient), scored=scored.scored)
    _, checks = find_alarms([model], AlarmData(data.root), rules)
    return select_checks(checks, model.name, model.kind)


def read_faithfulness(name: str, digest: str, root: Path = EXPLANATIONS) -> dict[str, Any] | None:
    """Read the scores of a model's explanations; None if none are of this version's bundle."""
    scores: dict[str, Any] = {}
    for path in sorted(root.glob(f"*/{name}/{FAITHFULNESS}")):
        if load_json(path).get("digest") == digest:
            scores |= read_scores(path)
    return scores or None


def read_detection(digest: str, path: Path = DETECTION_METRICS) -> dict[str, Any] | None:
    """Read a detector's F1 of nuclei and its gain over the baseline; None if of another bundle."""
    measured = load_json(path)
    if measured["detector"] != digest:
        return None
    return {"f1": measured["arms"]["chain"]["f1/nuclei"], "gain": measured["gain"]}


def measure_candidate(
    evidence: Evidence, params: PromotionParams
) -> dict[str, dict[str, float | None]]:
    """Measure the candidate on the test split, with intervals; empty if it was not scored."""
    rows = evidence.candidate.scored
    if rows is None:
        return {}
    intervals = Bootstrap(params.intervals, evidence.seed).estimate_metrics(rows)
    return {
        f"test/{name}": {"value": i.value, "low": i.low, "high": i.high}
        for name, i in intervals.items()
    }


def digest_test_data(config: Mapping[str, Any], data: TestData | None = None) -> dict[str, str]:
    """Digest the files that define the test split a kind of model is scored on."""
    root = (data or TestData()).root
    of_patches = {"patch_splits": root / "splits" / "patches.parquet"}
    of_patients = {
        "patient_splits": root / "splits" / "patients.parquet",
        "features": root / "ehr" / "features.parquet",
    }
    match config.get("kind"):
        case "fusion":
            pairs = root / "pairs" / f"{name_pairing(config['name'])}.parquet"
            files = of_patches | of_patients | {"pairs": pairs}
        case "tabular":
            files = of_patients
        case "patient":
            names = ("patients", "nuclei")
            files = {f"linked_{name}": root / "linked" / f"{name}.parquet" for name in names}
        case _:
            files = of_patches
    return {what: digest_file(file) for what, file in files.items() if file.is_file()}


@contextmanager
def _copied(store: Store, version: Version) -> Iterator[_Registered]:
    with TemporaryDirectory(prefix=SCRATCH) as scratch:
        folder = Path(scratch) / MODEL_FOLDER
        store.fetch(version, MODEL_FOLDER, folder)
        yield _Registered(version, folder)


def _score_production(store: Store, version: Version, data: TestData) -> Scored:
    """Score the version in production; its files may have been deleted."""
    try:
        with _copied(store, version) as copy:
            return _score(copy, data)
    except RegistryError:
        return _describe_unscored(version, {}, "its files are no longer in the registry")


def _score(copy: _Registered, data: TestData) -> Scored:
    """Verify a copied version, then load and score it in a process of its own."""
    bundle, fault = _attempt(lambda: check_copy(copy.version, copy.folder))
    scored = _describe_unscored(copy.version, _attempt(copy.read_config)[0] or {}, fault)
    if bundle is None:
        return scored
    try:
        load_fault, predictions, scoring_fault = call_in_child(
            _load_and_score, bundle.path, copy.encoders, data, seconds=SCORING_SECONDS
        )
    except ChildError as error:
        fault = f"loading and scoring it {error}"
        return replace(scored, bundle_fault=fault, scoring_fault=fault)
    has_rows = (bundle.path / PREDICTIONS).is_file()
    stored = _attempt(lambda: read_predictions(bundle))[0] if has_rows else None
    return replace(
        scored,
        bundle_fault=load_fault.replace(f"{copy.folder}/", ""),
        scored=predictions,
        scoring_fault=scoring_fault.replace(f"{copy.folder}/", ""),
        stored=stored,
    )


def _score_encoder(
    copy: _Registered, scored: Scored, data: TestData
) -> tuple[Predictions | None, str]:
    """Score the image encoder inside a fusion model that was scored; also say why it was not."""
    if copy.encoders is None or scored.scored is None or scored.scored.kind != "fusion":
        return None, ""
    try:
        _, predictions, fault = call_in_child(
            _load_and_score, copy.encoders / "image", None, data, seconds=SCORING_SECONDS
        )
    except ChildError as error:
        return None, f"loading and scoring it {error}"
    return predictions, fault


def _score_sides(copy: _Registered, scored: Scored, data: TestData) -> dict[str, Predictions]:
    """Score what a model at patient level says where it is given one side alone."""
    if scored.scored is None or scored.scored.kind != "patient" or is_of_one_side(scored.config):
        return {}
    bundle = open_bundle(copy.artifacts / BUNDLE, row_level=False)
    return {side: score_test_split(bundle, copy.encoders, data, side) for side in SIDES}


def _load_and_score(
    path: Path, encoders: Path | None, data: TestData
) -> tuple[str, Predictions | None, str]:
    """Load a verified bundle as it is served, and score it; each has its fault, empty if none.

    Model files can be intact and still crash the library that parses them; this runs in a child.
    """
    _, load_fault = _attempt(lambda: open_predictor(path, encoders).load())
    bundle = open_bundle(path, row_level=False)
    if bundle.config["kind"] == "detector":
        return load_fault, None, "a detector is measured by evaluate_detector"
    predictions, scoring_fault = _attempt(lambda: score_test_split(bundle, encoders, data))
    return load_fault, predictions, scoring_fault


def _describe_unscored(version: Version, config: Mapping[str, Any], fault: str) -> Scored:
    return Scored(version.number, version.digest, config, fault, scoring_fault=fault)


def _attempt(read: Callable[[], ValueT]) -> tuple[ValueT | None, str]:
    """Read files that older code may have written; the reason is empty if that does not fail."""
    try:
        return read(), ""
    except BundleError as error:
        return None, "; ".join(error.faults)
    except HistofuseError as error:
        return None, str(error)
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0][:300]
        return None, f"{type(error).__name__}: {reason}"
