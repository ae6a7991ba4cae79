"""The predictions of a bundle, in one form for every kind of model."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from histofuse.core.bundle import HISTORY, PREDICTIONS, Bundle, open_bundle
from histofuse.core.errors import collect_faults
from histofuse.core.ids import SPLITS
from histofuse.core.naming import show_count
from histofuse.core.tables import Contract, read_table

_PATCHES: Final = Contract(
    name="predictions on patches",
    columns=dict.fromkeys(("patch_id", "case_id", "split", "label", "prediction"), "str"),
    key=("patch_id",),
    open_ended=True,
)


def _make_contract(unit: str, ids: dict[str, str]) -> Contract:
    columns: dict[str, str] = {"split": "str", "target": "int"}
    columns |= {"probability": "float", "prediction": "int"}
    return Contract(f"predictions on {unit}", ids | columns, key=tuple(ids), open_ended=True)


_ADMISSIONS: Final = _make_contract("admissions", {"subject_id": "int", "hadm_id": "int"})
_PATIENTS: Final = _make_contract("patients", {"patient_id": "str"})


@dataclass(frozen=True)
class Predictions:
    """The predictions of one model."""

    name: str
    config: dict[str, Any]
    history: pd.DataFrame
    # identifier of each row, unique: the patch, ``subject_id/hadm_id`` or the patient
    keys: np.ndarray
    split: np.ndarray
    labels: Int[np.ndarray, " n"]  # class numbers
    probabilities: Float[np.ndarray, "n k"]  # calibrated; one column a class
    predictions: Int[np.ndarray, " n"]  # class numbers, by the model's thresholds
    groups: np.ndarray  # case of each patch, patient of each admission
    subjects: np.ndarray | None  # patient of each row; None for image models
    # ``subject_id/hadm_id`` of each row; None for image models
    admissions: np.ndarray | None = None
    # before calibration, one column a class; None where the bundle holds none
    logits: Float[np.ndarray, "n k"] | None = None
    digest: str = ""  # of the bundle; empty for predictions that are not of a bundle

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        """Class names in order."""
        return self.config["classes"]

    @property
    def focus_class(self) -> str:
        """The class in focus, chosen on the training rows; InputError if the bundle is too old."""
        with collect_faults() as faults:
            if "focus_class" not in self.config:
                where = f"config.json of {self.name}, focus_class"
                faults.add(where, "missing", "the class in focus", "Train the model again.")
        return self.config["focus_class"]

    @property
    def kind(self) -> str:
        """``image``, ``tabular``, ``fusion`` or ``patient``."""
        return self.config["kind"]

    @property
    def on_patches(self) -> bool:
        """Whether a row is a patch, not an admission or a patient."""
        return self.kind in ("image", "fusion")

    @property
    def splits(self) -> list[str]:
        """The splits with predictions, in order."""
        present = set(self.split)
        return [s for s in SPLITS if s in present]

    def of(self, split: str) -> "Predictions":
        """Take the rows of one split."""
        return self.take(np.flatnonzero(self.split == split))

    def take(self, rows: Int[np.ndarray, " m"]) -> "Predictions":
        """Take rows by position, in the order given."""
        columns = {name: getattr(self, name) for name in _list_columns()}
        return replace(self, **{n: None if c is None else c[rows] for n, c in columns.items()})

    @property
    def unit(self) -> str:
        """Unit of a row, in the plural."""
        others = {"tabular": "admissions", "patient": "patients"}
        return others.get(self.kind, "patches")

    @property
    def group_unit(self) -> str:
        """Unit of a group, in the plural."""
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
        groups = show_count(self.count_groups(), self.group_unit)
        return f"n = {show_count(self, self.unit)} of {groups}"


def name_admissions(subjects: np.ndarray, admissions: np.ndarray) -> np.ndarray:
    """Make the key of each admission: "10002602/27168603"."""
    pairs = zip(subjects.tolist(), admissions.tolist(), strict=True)
    return np.array([f"{subject}/{admission}" for subject, admission in pairs], dtype=object)


def _list_columns() -> list[str]:
    """List the fields with an entry for each row."""
    whole = ("name", "config", "history", "digest")
    return [field.name for field in fields(Predictions) if field.name not in whole]


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate rows of the same kind; name, config, history and digest are the first part's."""

    def join(name: str) -> np.ndarray | None:
        columns = [getattr(part, name) for part in parts]
        return None if any(c is None for c in columns) else np.concatenate(columns)

    return replace(parts[0], **{name: join(name) for name in _list_columns()})


def load_predictions(path: Path) -> Predictions:
    """Open a bundle and read its predictions; BundleError if it does not match its manifest."""
    return read_predictions(open_bundle(path))


def read_predictions(bundle: Bundle) -> Predictions:
    """Read predictions; InputError if they lack a column or hold an unknown class."""
    config, about, path = bundle.config, _describe(bundle), bundle.path / PREDICTIONS
    if config["kind"] == "tabular":
        return _read_admissions(path, about)
    if config["kind"] == "patient":
        return arrange_patients(read_table(path, _PATIENTS), about)
    return _read_patches(path, about, config["classes"])


def _read_admissions(path: Path, about: dict[str, Any]) -> Predictions:
    table = read_table(path, _ADMISSIONS)
    subjects = table["subject_id"].to_numpy()
    keys = name_admissions(subjects, table["hadm_id"].to_numpy())
    return _arrange_binary(table, about, "", keys=keys, groups=subjects, admissions=keys)


def read_view(bundle: Bundle, view: Literal["both", "image", "record"]) -> Predictions:
    """Read what a model at patient level predicts where these sides are given."""
    table = read_table(bundle.path / PREDICTIONS, _PATIENTS)
    return arrange_patients(table, _describe(bundle), view)


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "config": bundle.config,
        "history": pd.read_csv(bundle.path / HISTORY),
        "digest": bundle.digest,
    }


def arrange_patients(table: pd.DataFrame, about: dict[str, Any], view: str = "both") -> Predictions:
    """Arrange a table of predictions on patients where both sides are given, or one."""
    ids = table["patient_id"].to_numpy(dtype=object)
    suffix = "" if view == "both" else f"_{view}"
    return _arrange_binary(table, about, suffix, keys=ids, groups=ids)


def _arrange_binary(
    table: pd.DataFrame,
    about: dict[str, Any],
    suffix: str,
    *,
    keys: np.ndarray,
    groups: np.ndarray,
    admissions: np.ndarray | None = None,
) -> Predictions:
    """Arrange a table of one probability a row; `suffix` ends the names of its columns."""
    positive = table[f"probability{suffix}"].to_numpy(dtype=np.float64)
    logits = _read_logits(table, [f"logit{suffix}"])
    return Predictions(
        **about,
        keys=keys,
        groups=groups,
        subjects=groups,
        admissions=admissions,
        split=table["split"].to_numpy(dtype=object),
        labels=table["target"].to_numpy(dtype=np.int64),
        probabilities=np.column_stack([1 - positive, positive]),
        predictions=table[f"prediction{suffix}"].to_numpy(dtype=np.int64),
        logits=None if logits is None else np.column_stack([np.zeros(len(logits)), logits]),
    )


def _read_patches(path: Path, about: dict[str, Any], classes: list[str]) -> Predictions:
    columns = [f"probability_{c}" for c in classes]
    contract = replace(_PATCHES, columns={**_PATCHES.columns, **dict.fromkeys(columns, "float")})
    table = read_table(path, contract)
    with collect_faults() as faults:
        for column in ("label", "prediction"):
            if unknown := sorted(set(table[column]) - set(classes)):
                faults.add(f"{path}, {column}", f"unknown classes {unknown}", f"one of {classes}")
    keys, groups = (table[name].to_numpy(dtype=object) for name in ("patch_id", "case_id"))
    return arrange_classes(table, about, keys=keys, groups=groups)


def arrange_classes(
    table: pd.DataFrame, about: dict[str, Any], *, keys: np.ndarray, groups: np.ndarray
) -> Predictions:
    """Arrange a table of one probability a class, whose labels and predictions are names."""
    classes = about["config"]["classes"]
    numbers = {name: k for k, name in enumerate(classes)}
    subjects = table["subject_id"].to_numpy() if "subject_id" in table else None
    return Predictions(
        **about,
        keys=keys,
        split=table["split"].to_numpy(dtype=object),
        labels=table["label"].map(numbers).to_numpy(dtype=np.int64),
        probabilities=table[[f"probability_{c}" for c in classes]].to_numpy(dtype=np.float64),
        predictions=table["prediction"].map(numbers).to_numpy(dtype=np.int64),
        groups=groups,
        subjects=subjects,
        admissions=name_admissions(subjects, table["hadm_id"].to_numpy())
        if subjects is not None and "hadm_id" in table
        else None,
        logits=_read_logits(table, [f"logit_{c}" for c in classes]),
    )


def _read_logits(table: pd.DataFrame, columns: list[str]) -> Float[np.ndarray, "n k"] | None:
    return table[columns].to_numpy(dtype=np.float64) if set(columns) <= set(table) else None
