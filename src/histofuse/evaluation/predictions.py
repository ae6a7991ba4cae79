"""Predictions as bundles hold them, brought to one form for every kind of model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from histofuse.core.bundle import Bundle, open_bundle
from histofuse.core.errors import collect_faults
from histofuse.core.ids import SPLITS
from histofuse.core.tables import Contract, read_table

PREDICTIONS: Final = "predictions.parquet"
HISTORY: Final = "history.csv"

_PATCHES: Final = Contract(
    name="predictions on patches",
    columns={"patch_id": "str", "case_id": "str", "split": "str", "label": "str"}
    | {"prediction": "str"},
    key=("patch_id",),
    open_ended=True,
)
_ADMISSIONS: Final = Contract(
    name="predictions on admissions",
    columns={"subject_id": "int", "hadm_id": "int", "split": "str", "target": "int"}
    | {"probability": "float", "prediction": "int"},
    key=("subject_id", "hadm_id"),
    open_ended=True,
)


@dataclass(frozen=True)
class Predictions:
    """What one model predicted.

    Attributes:
        name: The model's name.
        config: Its ``config.json``.
        history: Its ``history.csv``.
        keys: What identifies a row, unique: the patch, or ``subject_id/hadm_id``.
        split: Split of each row.
        labels: Class numbers.
        probabilities: Calibrated; one column a class.
        predictions: Class numbers, by the model's thresholds.
        groups: Case of each patch, patient of each admission.
        subjects: Patient of each row; None for image models.
    """

    name: str
    config: dict[str, Any]
    history: pd.DataFrame
    keys: np.ndarray
    split: np.ndarray
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]
    predictions: Int[np.ndarray, " n"]
    groups: np.ndarray
    subjects: np.ndarray | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        """Class names in order."""
        return self.config["classes"]

    @property
    def kind(self) -> str:
        """``image``, ``tabular`` or ``fusion``."""
        return self.config["kind"]

    @property
    def on_patches(self) -> bool:
        """Whether a row is a patch, not an admission."""
        return self.kind != "tabular"

    @property
    def splits(self) -> list[str]:
        """The splits there are predictions for."""
        present = set(self.split)
        return [s for s in SPLITS if s in present]

    def of(self, split: str) -> Predictions:
        """Take the rows of one split."""
        return self.take(np.flatnonzero(self.split == split))

    def take(self, rows: Int[np.ndarray, " m"]) -> Predictions:
        """Take rows by position, in the order given."""
        return replace(
            self,
            keys=self.keys[rows],
            split=self.split[rows],
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            predictions=self.predictions[rows],
            groups=self.groups[rows],
            subjects=None if self.subjects is None else self.subjects[rows],
        )

    @property
    def unit(self) -> str:
        """What a row is, in the plural."""
        return "patches" if self.on_patches else "admissions"

    @property
    def group_unit(self) -> str:
        """What several rows may share, in the plural."""
        return "cases" if self.on_patches else "patients"

    def count_classes(self) -> dict[str, int]:
        """Count rows by class."""
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    def count_groups(self) -> int:
        """Count cases, or patients."""
        return len(np.unique(self.groups))

    def describe_size(self) -> str:
        """Say how many rows of how many groups: "n = 139 patches of 1 case"."""
        groups = self.count_groups()
        group_unit = self.group_unit[:-1] if groups == 1 else self.group_unit
        return f"n = {len(self):,} {self.unit} of {groups:,} {group_unit}"


def name_admissions(subjects: np.ndarray, admissions: np.ndarray) -> np.ndarray:
    """Make the key of each admission: "10002602/27168603"."""
    pairs = zip(subjects.tolist(), admissions.tolist(), strict=True)
    return np.array([f"{subject}/{admission}" for subject, admission in pairs], dtype=object)


def load_predictions(path: Path) -> Predictions:
    """Load the predictions of a bundle.

    Raises:
        BundleError: If the bundle does not match its manifest.
        InputError: If its predictions lack a column or hold an unknown class.
    """
    bundle = open_bundle(path)
    config = bundle.config
    history = pd.read_csv(bundle.path / HISTORY)
    load = _load_admissions if config["kind"] == "tabular" else _load_patches
    return load(bundle, config, history)


def _load_admissions(bundle: Bundle, config: dict[str, Any], history: pd.DataFrame) -> Predictions:
    table = read_table(bundle.path / PREDICTIONS, _ADMISSIONS)
    positive = table["probability"].to_numpy(dtype=np.float64)
    subjects = table["subject_id"].to_numpy()
    return Predictions(
        name=bundle.name,
        config=config,
        history=history,
        keys=name_admissions(subjects, table["hadm_id"].to_numpy()),
        split=table["split"].to_numpy(dtype=object),
        labels=table["target"].to_numpy(dtype=np.int64),
        probabilities=np.column_stack([1 - positive, positive]),
        predictions=table["prediction"].to_numpy(dtype=np.int64),
        groups=subjects,
        subjects=subjects,
    )


def _load_patches(bundle: Bundle, config: dict[str, Any], history: pd.DataFrame) -> Predictions:
    path, classes = bundle.path / PREDICTIONS, config["classes"]
    columns = [f"probability_{c}" for c in classes]
    contract = replace(_PATCHES, columns={**_PATCHES.columns, **dict.fromkeys(columns, "float")})
    table = read_table(path, contract)
    with collect_faults() as faults:
        for column in ("label", "prediction"):
            if unknown := sorted(set(table[column]) - set(classes)):
                faults.add(f"{path}, {column}", f"unknown classes {unknown}", f"one of {classes}")
    numbers = {name: k for k, name in enumerate(classes)}
    return Predictions(
        name=bundle.name,
        config=config,
        history=history,
        keys=table["patch_id"].to_numpy(dtype=object),
        split=table["split"].to_numpy(dtype=object),
        labels=table["label"].map(numbers).to_numpy(dtype=np.int64),
        probabilities=table[columns].to_numpy(dtype=np.float64),
        predictions=table["prediction"].map(numbers).to_numpy(dtype=np.int64),
        groups=table["case_id"].to_numpy(dtype=object),
        subjects=table["subject_id"].to_numpy() if "subject_id" in table else None,
    )
