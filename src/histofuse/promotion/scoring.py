"""Predictions of a registered model on the current test split, computed as it is served.

Two versions are only comparable on the same rows, and the predictions in their bundles may be of
different ones. So each predicts again, a few hundred rows at a time, in the order of their keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import HISTORY, Bundle
from histofuse.core.errors import InputError
from histofuse.core.naming import name_pairing, show_count
from histofuse.core.progress import track
from histofuse.core.tables import read_table
from histofuse.data.cohort import COHORT
from histofuse.data.patches import ShardReader, load_index
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.evaluation.predictions import Predictions, arrange_classes, name_admissions
from histofuse.features.encoding import join_splits
from histofuse.features.pairing import PAIRS
from histofuse.features.specs import FEATURES, KEY
from histofuse.patients.bags import META, NUCLEI, PATIENTS
from histofuse.patients.rows import View
from histofuse.serving.image import Patches
from histofuse.serving.patient import PatientInputs
from histofuse.serving.predict import open_predictor

SPLIT: Final = "test"
ROWS_AT_ONCE: Final = 256
BAGS_AT_ONCE: Final = 16
PATCH_KEY: Final = ["patch_id"]


@dataclass(frozen=True)
class TestData:
    """The current test split, below the folder of all data."""

    __test__ = False  # not a test class, despite its name
    root: Path = Path("data")

    @property
    def patches(self) -> Path:
        """Shards of patches and their index."""
        return self.root / "patches"

    def read_patches(self) -> pd.DataFrame:
        """Read the test patches: `PATCH_SPLITS` with shard and row, by key."""
        splits = read_table(self.root / "splits" / "patches.parquet", PATCH_SPLITS)
        return self._locate_test(splits)

    def read_pairs(self, pairing: str) -> pd.DataFrame:
        """Read the test pairs of a rule: `PAIRS` with shard and row, by key."""
        path = self.root / "pairs" / f"{pairing}.parquet"
        return self._locate_test(read_table(path, PAIRS))

    def _locate_test(self, table: pd.DataFrame) -> pd.DataFrame:
        rows = _locate(table[table["split"] == SPLIT], self.patches)
        return rows.sort_values(PATCH_KEY, ignore_index=True)

    def read_features(self) -> pd.DataFrame:
        """Read raw features of all admissions."""
        return read_table(self.root / "ehr" / "features.parquet", FEATURES)

    def read_admissions(self) -> pd.DataFrame:
        """Read the test admissions: key, split, target and raw features, by key."""
        splits = read_table(self.root / "splits" / "patients.parquet", PATIENT_SPLITS)
        cohort = read_table(self.root / "cohort" / "cohort.parquet", COHORT)
        joined = join_splits(self.read_features(), splits, cohort)
        return joined[joined["split"] == SPLIT].reset_index(drop=True)

    @property
    def linked(self) -> Path:
        """Patients with a tissue and a record of their own."""
        return self.root / "linked"

    def read_patients(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Read the test patients with their records, by id, and where all nuclei are stored."""
        patients = read_table(self.linked / "patients.parquet", PATIENTS)
        nuclei = read_table(self.linked / "nuclei.parquet", NUCLEI)
        test = patients[patients["split"] == SPLIT].sort_values("patient_id", ignore_index=True)
        of_test = nuclei[nuclei["patient_id"].isin(test["patient_id"])]
        return test, _locate(of_test, self.linked_patches)

    @property
    def linked_patches(self) -> Path:
        """Shards and index of their nuclei."""
        return self.root / load_json(self.linked / META)["patches"]

    def read_target(self) -> str:
        """Read the target of the cohort."""
        return load_json(self.root / "cohort" / "meta.json")["target"]


def _locate(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Add shard and row of the patches of a folder; their rows stay in order."""
    index = load_index(folder)[[*PATCH_KEY, "shard", "row"]]
    rows = rows.merge(index, on=PATCH_KEY, how="left", validate="1:1", indicator="match")
    lost = rows["match"] != "both"
    if lost.any():
        problem = f"{show_count(lost.sum(), 'test patches')} not in the index"
        raise InputError.of(folder, problem, "all of them", "Run dvc repro.")
    return rows.drop(columns="match")


def score_test_split(
    bundle: Bundle, encoders: Path | None = None, data: TestData | None = None, view: View = "both"
) -> Predictions:
    """Predict the current test split, in the order of its keys.

    `encoders` is the folder of a fusion model's frozen encoders, ``image`` and ``patient``; None
    pulls them from the registry. `view` is of a model at patient level: the sides it is given.
    Raises InputError if the model does not fit the data: other classes, another target, another
    patch size, missing features.
    """
    predictor, data = open_predictor(bundle.path, encoders), data or TestData()
    match bundle.config["kind"]:
        case "tabular":
            return _score_admissions(bundle, predictor, data)
        case "patient":
            return _score_patients(bundle, predictor, data, view)
        case "fusion":
            rows = data.read_pairs(name_pairing(bundle.name))
            inputs = _read_pairs(rows, data)
        case _:
            rows = data.read_patches()
            inputs = _read_patches(rows, data)
    _require_classes(bundle, set(rows["label"]))
    total = -(-len(rows) // ROWS_AT_ONCE)
    parts = [predictor.predict(part) for part in track(inputs, f"scoring {bundle.name}", total)]
    rows = rows.assign(key=rows["patch_id"].astype(object), group=rows["case_id"].astype(object))
    return _assemble(bundle, rows, pd.concat(parts, ignore_index=True))


def _read_patches(rows: pd.DataFrame, data: TestData) -> Iterator[np.ndarray]:
    reader = ShardReader(data.patches)
    for part in _split(rows):
        yield reader.read(part["shard"], part["row"])


def _read_pairs(rows: pd.DataFrame, data: TestData) -> Iterator[dict[str, Any]]:
    reader, features = ShardReader(data.patches), data.read_features()
    _require_records(rows, features)
    for part in _split(rows):
        records = part[list(KEY)].merge(features, on=list(KEY), how="left", validate="m:1")
        yield {
            "image": reader.read(part["shard"], part["row"]),
            "patient": records.drop(columns=list(KEY)),
        }


def _split(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    return (rows.iloc[i : i + ROWS_AT_ONCE] for i in range(0, len(rows), ROWS_AT_ONCE))


def _require_records(rows: pd.DataFrame, features: pd.DataFrame) -> None:
    wanted = pd.MultiIndex.from_frame(rows[list(KEY)].drop_duplicates())
    missing = len(wanted.difference(pd.MultiIndex.from_frame(features[list(KEY)])))
    if missing:
        problem = f"{missing} of {len(wanted)} paired admissions have no features"
        raise InputError.of("data/ehr/features.parquet", problem, "all", "Run dvc repro.")


def _require_classes(bundle: Bundle, labels: set[str]) -> None:
    known = bundle.config["classes"]
    if unknown := sorted(labels - set(known)):
        problem = f"predicts {known}, and the test patches contain {unknown}"
        remedy = "Train it again on the classes of params.yaml."
        raise InputError.of(bundle.name, problem, "a model of the same classes", remedy)


def _score_admissions(bundle: Bundle, predictor: Any, data: TestData) -> Predictions:
    classes = bundle.config["classes"]
    _require_target(bundle, data.read_target())
    rows = data.read_admissions()
    table = predictor.predict(rows.drop(columns=[*KEY, "split", "target"]))
    keys = name_admissions(*(rows[column].to_numpy() for column in KEY))
    label = np.array(classes, dtype=object)[rows["target"].to_numpy(dtype=np.int64)]
    rows = rows.assign(key=keys, group=rows["subject_id"], label=label)
    return _assemble(bundle, rows, table)


def _require_target(bundle: Bundle, target: str) -> None:
    classes = bundle.config["classes"]
    if classes != [f"no_{target}", target]:
        problem = f"predicts {classes[-1]}, and the cohort's target is {target}"
        raise InputError.of(bundle.name, problem, "a model of the same target", "Train it again.")


def _score_patients(bundle: Bundle, predictor: Any, data: TestData, view: View) -> Predictions:
    _require_target(bundle, load_json(data.linked / META)["target"])
    rows, nuclei = data.read_patients()
    total = -(-len(rows) // BAGS_AT_ONCE)
    bags = track(_read_bags(rows, nuclei, predictor, data, view), f"scoring {bundle.name}", total)
    table = pd.concat([predictor.answer(bag) for bag in bags], ignore_index=True)
    ids = rows["patient_id"].astype(object)
    label = np.array(bundle.config["classes"], dtype=object)[rows["outcome"].to_numpy()]
    return _assemble(bundle, rows.assign(key=ids, group=ids, subject_id=ids, label=label), table)


def _read_bags(
    patients: pd.DataFrame, nuclei: pd.DataFrame, predictor: Any, data: TestData, view: View
) -> Iterator[PatientInputs]:
    reader = ShardReader(data.linked_patches)
    for first in range(0, len(patients), BAGS_AT_ONCE):
        part = patients.iloc[first : first + BAGS_AT_ONCE]
        ids = part["patient_id"]
        own = nuclei[nuclei["patient_id"].isin(ids)] if view != "record" else nuclei.iloc[:0]
        own = own.sort_values("patient_id", kind="stable")  # as the patients are
        sizes = own["patient_id"].value_counts().reindex(ids, fill_value=0)
        records = part.drop(columns=list(PATIENTS.columns))
        yield PatientInputs(
            Patches(reader.read(own["shard"], own["row"]), own.index),
            sizes.to_numpy(dtype=np.int64),
            predictor.read_records(records if view != "image" else records.mask(records.notna())),
        )


def _assemble(bundle: Bundle, rows: pd.DataFrame, table: pd.DataFrame) -> Predictions:
    history = pd.read_csv(bundle.path / HISTORY)
    about = {"name": bundle.name, "config": bundle.config, "history": history}
    answers = ["prediction", *(f"probability_{c}" for c in bundle.config["classes"])]
    rows = rows.assign(**{name: table[name].to_numpy() for name in answers})
    keys, groups = rows["key"].to_numpy(dtype=object), rows["group"].to_numpy()
    return arrange_classes(rows, about, keys=keys, groups=groups)
