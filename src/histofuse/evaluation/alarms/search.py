"""All alarm checks of data and models, from their files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.ids import SPLITS
from histofuse.core.naming import name_pairing
from histofuse.core.tables import Contract, read_table
from histofuse.data.cohort import COHORT
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.evaluation.alarms.checks import RECORDS, AlarmCheck, AlarmRules, skip_check
from histofuse.evaluation.alarms.data import (
    check_encoded,
    check_encoder,
    check_features,
    check_image_split,
    check_patient_split,
)
from histofuse.evaluation.alarms.linkage import check_linkage
from histofuse.evaluation.alarms.models import AlarmModel, check_model, check_scaler
from histofuse.features.embeddings import load_embeddings, select_pairs
from histofuse.features.encoding import ENCODED, join_splits
from histofuse.features.pairing import PAIRS
from histofuse.features.specs import FEATURES, FeatureSpec, load_specs
from histofuse.patients.bags import PATIENTS, PatientBags, load_bags

# Read by the checks, relative to the data folder.
DATA_FILES: Final = (
    "splits/patches.parquet",
    "splits/patches_audit.json",
    "splits/patients_audit.json",
    "splits/patients.parquet",
    "cohort/cohort.parquet",
    "ehr/features.parquet",
    "ehr/features.json",
    "encoded/with_missing.parquet",
    "encoded/encoder.json",
    "embeddings/meta.json",
    "embeddings/image.npy",
    "linked/patients.parquet",
    "linked/features.json",
    "linked/nuclei.parquet",
    "linked/image.npy",
    "linked/logits.npy",
)


@dataclass(frozen=True)
class AlarmData:
    """The current data below a folder; each part is None if a file of it is missing."""

    root: Path

    def load(self, name: str) -> Any:
        """Load a JSON file."""
        path = self.root / name
        return load_json(path) if path.is_file() else None

    def read(self, name: str, contract: Contract) -> pd.DataFrame | None:
        """Read a table."""
        path = self.root / name
        return read_table(path, contract) if path.is_file() else None

    @cached_property
    def joined(self) -> pd.DataFrame | None:
        """Raw features with split and target."""
        features = self.read("ehr/features.parquet", FEATURES)
        splits = self.read("splits/patients.parquet", PATIENT_SPLITS)
        cohort = self.read("cohort/cohort.parquet", COHORT)
        if features is None or splits is None or cohort is None:
            return None
        return join_splits(features, splits, cohort)

    @cached_property
    def encoded(self) -> pd.DataFrame | None:
        """The encoded table with missing values as NaN."""
        return self.read("encoded/with_missing.parquet", ENCODED)

    @cached_property
    def linked(self) -> pd.DataFrame | None:
        """Linked patients: record, split and outcome."""
        return self.read("linked/patients.parquet", PATIENTS)

    @cached_property
    def bags(self) -> PatientBags | None:
        """Linked patients with their nuclei."""
        folder = self.root / "linked"
        return load_bags(folder) if folder.is_dir() else None

    def load_specs(self, folder: str) -> list[FeatureSpec] | None:
        """Load the specifications of the features of a folder."""
        path = self.root / folder / "features.json"
        return load_specs(path) if path.is_file() else None

    def embed_pairs(self, pairing: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Look up the image embeddings of a pairing by split, and their ``meta.json``."""
        table = self.read(f"pairs/{pairing}.parquet", PAIRS)
        folder = self.root / "embeddings"
        if table is None or not (folder / "meta.json").is_file():
            return None
        embeddings = load_embeddings(folder)
        image, _ = select_pairs(embeddings, table)
        split = table["split"].to_numpy(dtype=object)
        parts = {s: image[split == s] for s in SPLITS}
        return parts, embeddings.meta

    def read_test_rows(self, kind: str, name: str) -> pd.DataFrame | None:
        """Read the rows of the current test split of a model, with what they belong to."""
        file, contract = {
            "fusion": (f"pairs/{name_pairing(name)}.parquet", PAIRS),
            "tabular": ("splits/patients.parquet", PATIENT_SPLITS),
            "image": ("splits/patches.parquet", PATCH_SPLITS),
            "patient": ("linked/patients.parquet", PATIENTS),
        }[kind]
        rows = self.read(file, contract)
        if rows is None:
            return None
        return rows[rows["split"] == "test"].rename(columns={"patient_id": "subject_id"})


def find_alarms(
    models: Sequence[AlarmModel], data: AlarmData, rules: AlarmRules
) -> tuple[list[AlarmCheck], list[AlarmCheck]]:
    """Make every check of the data and of each model; return the alarms, and all checks."""
    checks = [*check_data(data, rules)]
    if any(model.kind == "patient" for model in models):
        checks.append(check_linkage(data.bags, rules))
    for model in models:
        test = data.read_test_rows(model.kind, model.name)
        checks += check_model(model, test, rules)
        checks += _check_fits(model, data, rules)
    return [c for c in checks if c.outcome == "alarm"], checks


def check_data(data: AlarmData, rules: AlarmRules) -> Iterator[AlarmCheck]:
    """Check the data as a whole, for all models of a kind."""
    audit = data.load("splits/patches_audit.json")
    yield from check_image_split(audit, rules.split_units)
    yield check_patient_split(data.load("splits/patients_audit.json"))
    joined, encoded, specs = data.joined, data.encoded, data.load_specs("ehr")
    stored = data.load("encoded/encoder.json")
    missing = "features, splits, cohort or encoded tables are missing; dvc repro"
    if joined is None or encoded is None or stored is None:
        for name in ("feature", "encoder", "encoded_table"):
            yield skip_check(name, None, RECORDS, missing)
        return
    yield check_features(joined, encoded, rules.alarms)
    yield check_encoder(stored, joined, specs, rules)
    yield check_encoded(stored, joined, encoded, rules.alarms.fit_tolerance)


def _check_fits(model: AlarmModel, data: AlarmData, rules: AlarmRules) -> Iterator[AlarmCheck]:
    """Check what was fitted before the model: its encoder and its scaler."""
    if model.kind != "image":
        of_patients = model.kind == "patient"
        table = data.linked if of_patients else data.joined
        if model.encoder is None or table is None:
            why = "the encoder of the record, or the record, is missing; dvc repro"
            yield skip_check("encoder", model.name, (model.kind,), why)
        else:
            specs = data.load_specs("linked" if of_patients else "ehr")
            yield check_encoder(model.encoder, table, specs, rules, model.name)
    if model.kind == "fusion":
        yield _check_scaler(model, data, rules)


def _check_scaler(model: AlarmModel, data: AlarmData, rules: AlarmRules) -> AlarmCheck:
    embedded = data.embed_pairs(name_pairing(model.name))
    if embedded is None:
        return skip_check("scaler", model.name, ("fusion",), "pairs or embeddings are missing")
    parts, meta = embedded
    if meta["encoders"]["image"]["digest"] != model.config["encoders"]["image"]["digest"]:
        why = "the current embeddings are of another image encoder; dvc repro"
        return skip_check("scaler", model.name, ("fusion",), why)
    standardised = bool(model.config["params"].get("standardise", False))
    tolerance = rules.alarms.fit_tolerance
    return check_scaler(model, parts, standardised=standardised, tolerance=tolerance)
