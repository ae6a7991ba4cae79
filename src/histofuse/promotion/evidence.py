"""What the gate is shown of a registered version: its files, its loading, and its test scores.

Everything is read from the registry, as whoever serves the version would read it; what lies in
``models/`` is another copy and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import CONFIG, MANIFEST, Bundle, open_bundle
from histofuse.core.errors import HistofuseError, RegistryError
from histofuse.core.naming import name_pairing
from histofuse.core.progress import report
from histofuse.evaluation.alarms.checks import AlarmCheck, read_alarms, select_checks
from histofuse.evaluation.alarms.models import read_model
from histofuse.evaluation.alarms.search import AlarmData, AlarmRules, find_alarms
from histofuse.evaluation.predictions import PREDICTIONS, Predictions, read_predictions
from histofuse.models.tabular import name_table
from histofuse.promotion.gate import Evidence, Scored
from histofuse.promotion.scoring import TestData, score_test_split
from histofuse.tracking.names import MODEL_FOLDER, Version
from histofuse.tracking.publish import MODELS
from histofuse.tracking.store import Store

ARTIFACTS: Final = "artifacts"
BUNDLE: Final = "bundle"
ENCODERS: Final = "encoders"
ALARMS: Final = Path("reports/alarms.json")
EXPLANATIONS: Final = Path("reports/explain")
FAITHFULNESS: Final = "faithfulness.json"

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class _Registered:
    """A version's files, copied out of the registry."""

    version: Version
    folder: Path

    @property
    def artifacts(self) -> Path:
        return self.folder / ARTIFACTS

    @property
    def encoders(self) -> Path | None:
        """The encoders it brings along; None for those that have none."""
        path = self.artifacts / ENCODERS
        return path if path.is_dir() else None

    def list_files(self) -> frozenset[str]:
        files = (f for f in self.artifacts.rglob("*") if f.is_file())
        return frozenset(f.relative_to(self.artifacts).as_posix() for f in files)

    def read_config(self) -> dict[str, Any]:
        """Read what can be read of its config; whether it is the true one is another question."""
        path = self.artifacts / BUNDLE / CONFIG
        return load_json(path) if path.is_file() else {}

    def has_signature(self) -> bool:
        """Tell whether MLflow knows what goes in and what comes out."""
        from ruamel.yaml import YAML

        path = self.folder / "MLmodel"
        described = YAML(typ="safe").load(path) if path.is_file() else {}
        signature = described.get("signature") or {}
        return bool(signature.get("inputs")) and bool(signature.get("outputs"))


def gather_evidence(
    store: Store,
    candidate: Version,
    production: Version | None,
    rules: AlarmRules,
    data: TestData | None = None,
) -> Evidence:
    """Gather what the gate looks at; a version that fails does so in the evidence, not here.

    Raises:
        RegistryError: If the registry itself cannot be read.
    """
    data = data or TestData()
    with _copied(store, candidate) as copy:
        scored, files, signature = (
            _score(store, copy, data),
            copy.list_files(),
            copy.has_signature(),
        )
        alarms, alarms_fault = _attempt(lambda: _find_alarms(copy, data, rules))
    return Evidence(
        registered=candidate.name,
        candidate=scored,
        production=None if production is None else _score_production(store, production, data),
        files=files,
        signature=signature,
        card=bool(store.read_description(candidate.name, candidate.number).strip()),
        patch_audit=_load_if_there(data.root / "splits" / "patches_audit.json"),
        patient_audit=_load_if_there(data.root / "splits" / "patients_audit.json"),
        seed=rules.bootstrap.seed,
        inputs=_attempt(lambda: _digest_inputs(scored.config, data))[0] or {},
        alarms=alarms,
        alarms_fault=_shorten(alarms_fault, copy),
        faithfulness=_attempt(lambda: read_faithfulness(scored.config, candidate.digest))[0],
    )


def _find_alarms(copy: _Registered, data: TestData, rules: AlarmRules) -> tuple[AlarmCheck, ...]:
    """Read the alarms of this version; where they are of another one or other data, look anew."""
    known = read_alarms(ALARMS, copy.version.digest, data.root)
    if known is not None:
        return known
    report(f"{ALARMS} is not about this version and these data: looking for alarms now")
    patient = None if copy.encoders is None else copy.encoders / "patient"
    model = read_model(copy.artifacts / BUNDLE, patient)
    _, checks = find_alarms([model], AlarmData(data.root), rules)
    return select_checks(checks, model.name, model.kind)


def read_faithfulness(
    config: Mapping[str, Any], digest: str, root: Path = EXPLANATIONS, models: Path = MODELS
) -> Mapping[str, Any] | None:
    """Read what the explain stages measured of a model; None where it is of another version.

    They explain the bundle in ``models/``, so another digest there makes them say nothing.
    """
    name = str(config.get("name", ""))
    manifest = models / name / MANIFEST
    if not manifest.is_file() or digest_file(manifest) != digest:
        return None
    found = [load_json(path) for path in sorted(root.glob(f"*/{name}/{FAITHFULNESS}"))]
    return {metric: facts for part in found for metric, facts in part.items()} or None


def _digest_inputs(config: Mapping[str, Any], data: TestData) -> dict[str, str]:
    """Digest what a model of this kind would be trained on today, by its name in the config."""
    match config.get("kind"):
        case "fusion":
            what, file = "pairs", data.root / "pairs" / f"{name_pairing(config['name'])}.parquet"
        case "tabular":
            table = name_table(config["architecture"]["kind"])
            what, file = "encoded", data.root / "encoded" / f"{table}.parquet"
        case _:
            what, file = "splits", data.root / "splits" / "patches.parquet"
    return {what: digest_file(file)} if file.is_file() else {}


def digest_test_data(config: Mapping[str, Any], data: TestData | None = None) -> dict[str, str]:
    """Digest the files that make up the test split a kind of model is scored on."""
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
        case _:
            files = of_patches
    return {what: digest_file(file) for what, file in files.items() if file.is_file()}


@contextmanager
def _copied(store: Store, version: Version) -> Iterator[_Registered]:
    with TemporaryDirectory(prefix="histofuse-") as scratch:
        folder = Path(scratch) / MODEL_FOLDER
        store.fetch(version, MODEL_FOLDER, folder)
        yield _Registered(version, folder)


def _score_production(store: Store, version: Version, data: TestData) -> Scored:
    """Score the version in production, which may have lost its files since."""
    try:
        with _copied(store, version) as copy:
            return _score(store, copy, data)
    except RegistryError:
        return _describe_unscored(version, {}, "its files are no longer in the registry")


def _score(store: Store, copy: _Registered, data: TestData) -> Scored:
    bundle, fault = _attempt(lambda: _open(store, copy))
    fault = _shorten(fault, copy)
    scored = _describe_unscored(copy.version, _attempt(copy.read_config)[0] or {}, fault)
    if bundle is None:
        return scored
    predictions, fault = _attempt(lambda: score_test_split(bundle, copy.encoders, data))
    stored = _attempt(lambda: _load_stored(bundle))[0]
    return replace(scored, scored=predictions, scoring_fault=fault, stored=stored)


def _shorten(fault: str, copy: _Registered) -> str:
    """Take out where the copy lay, and a remedy that is not for it."""
    return fault.replace(f"{copy.folder}/", "").partition(" Restore it with")[0]


def _describe_unscored(version: Version, config: Mapping[str, Any], fault: str) -> Scored:
    return Scored(
        version=version.number,
        digest=version.digest,
        config=config,
        bundle_fault=fault,
        scored=None,
        scoring_fault=fault,
        stored=None,
    )


def _open(store: Store, copy: _Registered) -> Bundle:
    """Verify the bundle and its encoders by digest, and load the version as it is served."""
    path, version = copy.artifacts / BUNDLE, copy.version
    bundle = open_bundle(path, digest=version.digest, row_level=False)
    for side, facts in bundle.config.get("encoders", {}).items():
        encoder = copy.artifacts / ENCODERS / side
        open_bundle(encoder, digest=facts["digest"], row_level=False)
    store.load_model(version.name, version.number)
    return bundle


def _load_stored(bundle: Bundle) -> Predictions | None:
    return read_predictions(bundle) if (bundle.path / PREDICTIONS).is_file() else None


def _attempt(read: Callable[[], ValueT]) -> tuple[ValueT | None, str]:
    """Do what may fail for any reason there is: the files are of another day and another code.

    Returns:
        The value, None where it failed; and why, empty where it did not.
    """
    try:
        return read(), ""
    except HistofuseError as error:
        return None, str(error)
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0][:300]
        return None, f"{type(error).__name__}: {reason}"


def _load_if_there(path: Path) -> Mapping[str, Any] | None:
    return load_json(path) if path.is_file() else None
