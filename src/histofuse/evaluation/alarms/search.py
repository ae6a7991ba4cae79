"""All alarms of data and models, from the files they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.naming import name_pairing
from histofuse.core.tables import read_table
from histofuse.data.cohort import COHORT
from histofuse.data.splits import PATIENT_SPLITS
from histofuse.evaluation.alarms.checks import RECORDS, AlarmCheck, skip_check
from histofuse.evaluation.alarms.data import (
    check_encoded,
    check_encoder,
    check_features,
    check_image_split,
    check_patient_split,
)
from histofuse.evaluation.alarms.models import ModelFacts, check_model, check_scaler
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.features.embeddings import load_embeddings, select_pairs
from histofuse.features.encoding import ENCODED, join_splits
from histofuse.features.pairing import PAIRS
from histofuse.features.specs import FEATURES, FeatureSpec, load_specs
from histofuse.params.controls import AlarmParams
from histofuse.params.ehr import EncodingParams
from histofuse.params.promotion import PromotionParams

# Below the data's folder; what the checks of the data read.
DATA_FILES: Final = (
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
)


@dataclass(frozen=True)
class AlarmRules:
    """The sections of params.yaml that alarms go by, and the bootstrap."""

    alarms: AlarmParams
    promotion: PromotionParams
    encoding: EncodingParams
    bootstrap: Bootstrap


@dataclass(frozen=True)
class AlarmData:
    """The data of today; each part is None where its files are not there.

    Attributes:
        root: Their folder.
    """

    root: Path

    def load(self, name: str) -> Any:
        """Load a JSON file, None where it is not there."""
        path = self.root / name
        return load_json(path) if path.is_file() else None

    @cached_property
    def joined(self) -> pd.DataFrame | None:
        """Raw features with split and target."""
        names = ("ehr/features.parquet", "splits/patients.parquet", "cohort/cohort.parquet")
        contracts = (FEATURES, PATIENT_SPLITS, COHORT)
        if not all((self.root / name).is_file() for name in names):
            return None
        tables = (read_table(self.root / n, c) for n, c in zip(names, contracts, strict=True))
        return join_splits(*tables)

    @cached_property
    def encoded(self) -> pd.DataFrame | None:
        """The encoded table whose missing values are NaN."""
        path = self.root / "encoded" / "with_missing.parquet"
        return read_table(path, ENCODED) if path.is_file() else None

    @cached_property
    def specs(self) -> list[FeatureSpec] | None:
        """Of the features."""
        path = self.root / "ehr" / "features.json"
        return load_specs(path) if path.is_file() else None

    def embed_pairs(self, pairing: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Look up image embeddings of the pairs of a rule, by split, and facts about them."""
        pairs, folder = self.root / "pairs" / f"{pairing}.parquet", self.root / "embeddings"
        if not pairs.is_file() or not (folder / "meta.json").is_file():
            return None
        table, embeddings = read_table(pairs, PAIRS), load_embeddings(folder)
        image, _ = select_pairs(embeddings, table)
        split = table["split"].to_numpy(dtype=object)
        parts = {s: image[split == s] for s in ("train", "validation", "test")}
        return parts, embeddings.meta


def find_alarms(
    models: Sequence[ModelFacts], data: AlarmData, rules: AlarmRules
) -> tuple[list[AlarmCheck], list[AlarmCheck]]:
    """Make every check of the data and of each model.

    Returns:
        The alarms among them, and all checks: those of the data first.
    """
    checks = [*check_data(data, rules)]
    for facts in models:
        checks += check_model(facts, rules.alarms, rules.promotion, rules.bootstrap)
        checks += _check_fits(facts, data, rules)
    return [c for c in checks if c.outcome == "alarm"], checks


def check_data(data: AlarmData, rules: AlarmRules) -> Iterator[AlarmCheck]:
    """Make the checks that concern all models of a kind."""
    audit = data.load("splits/patches_audit.json")
    yield from check_image_split(audit, rules.promotion.split_units)
    yield check_patient_split(data.load("splits/patients_audit.json"))
    joined, encoded, specs = data.joined, data.encoded, data.specs
    stored = data.load("encoded/encoder.json")
    missing = "features, splits, cohort or encoded tables are not there; dvc repro"
    if joined is None or encoded is None or stored is None:
        for name in ("feature", "encoder", "encoded_table"):
            yield skip_check(name, None, RECORDS, missing)
        return
    yield check_features(joined, encoded, rules.alarms)
    yield _check_stored_encoder(stored, joined, specs, rules, None)
    yield check_encoded(stored, joined, encoded, rules.alarms.fit_tolerance)


def _check_fits(facts: ModelFacts, data: AlarmData, rules: AlarmRules) -> Iterator[AlarmCheck]:
    """Check what was fitted on the data before the model: its encoder, its scaler."""
    kinds = (facts.kind,)
    if facts.kind != "image":
        if facts.encoder is None or data.joined is None:
            why = "the encoder of the record, or the record, is not there; dvc repro"
            yield skip_check("encoder", facts.name, kinds, why)
        else:
            yield _check_stored_encoder(facts.encoder, data.joined, data.specs, rules, facts.name)
    if facts.kind == "fusion":
        yield _check_scaler(facts, data, rules)


def _check_stored_encoder(
    stored: Mapping[str, Any],
    joined: pd.DataFrame,
    specs: list[FeatureSpec] | None,
    rules: AlarmRules,
    model: str | None,
) -> AlarmCheck:
    if specs is None:
        return skip_check("encoder", model, RECORDS, "ehr/features.json is not there; dvc repro")
    tolerance = rules.alarms.fit_tolerance
    return check_encoder(stored, joined, specs, rules.encoding, tolerance, model)


def _check_scaler(facts: ModelFacts, data: AlarmData, rules: AlarmRules) -> AlarmCheck:
    found = data.embed_pairs(name_pairing(facts.config["name"]))
    if found is None:
        return skip_check("scaler", facts.name, ("fusion",), "pairs or embeddings are not there")
    parts, meta = found
    ours = meta["encoders"]["image"]["digest"]
    if ours != facts.config["encoders"]["image"]["digest"]:
        why = "the embeddings of today are of another image encoder; dvc repro"
        return skip_check("scaler", facts.name, ("fusion",), why)
    standardised = bool(facts.config["params"].get("standardise", False))
    tolerance = rules.alarms.fit_tolerance
    return check_scaler(facts, parts, standardised=standardised, tolerance=tolerance)
