"""Train, validation and test splits that keep cases, frames and patients whole."""

import warnings
from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from histofuse.core.errors import InputError, collect_faults
from histofuse.core.ids import SPLITS, identify, unify_names
from histofuse.core.naming import show_count
from histofuse.core.seeding import derive_seed, make_rng
from histofuse.core.tables import Contract, parse_columns
from histofuse.params.splits import ImageSplitParams, PatientSplitParams, Unit

PATCH_SPLITS = Contract(
    name="patch splits",
    columns=parse_columns("patch_id frame_id case_id label split"),
    key=("patch_id",),
)
PATIENT_SPLITS = Contract(
    name="patient splits",
    columns={"subject_id": "int", "hadm_id": "int", "split": "str"},
    key=("subject_id", "hadm_id"),
)


def split_patches(
    index: pd.DataFrame,
    params: ImageSplitParams,
    seed: int,
    same_patient: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Split a `PATCH_INDEX` table by case, frame or patch, stratified on the class.

    `same_patient` maps each case to the one that stands for all cases of its patient, which a
    split by case then keeps together (`crosswalk.unite_cases`).

    Raises InputError if there are fewer groups than folds, or naming every split that lacks a
    required class.
    """
    table = index[["patch_id", "frame_id", "case_id", "label"]].reset_index(drop=True)
    grouped = table if same_patient is None else unite(table, same_patient)
    split = np.full(len(table), "train", dtype=object)
    test = _select_fold(grouped, params.unit, params.folds, params.test_fold, seed)
    split[test] = "test"

    rest, unit = grouped[~test], params.validation_unit
    validation = _select_fold(rest, unit, params.folds, params.validation_fold, seed)
    split[rest.index[validation]] = "validation"

    result = table.assign(split=pd.array(split, dtype="str"))
    _require_classes(result, params)
    return result


def unite(table: pd.DataFrame, same_patient: Mapping[str, str]) -> pd.DataFrame:
    """Give all cases of a patient one name."""
    return table.assign(case_id=table["case_id"].map(same_patient))


def _select_fold(table: pd.DataFrame, unit: Unit, folds: int, fold: int, seed: int) -> np.ndarray:
    """Mark the rows of one fold; the folds are stratified on the class and keep groups whole."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = table[f"{unit}_id"]
    groups = groups.map(unify_names(groups))
    count = groups.nunique()
    # Fewer groups than folds: one group per fold, as long as there are two.
    folds = min(folds, count)
    if folds < 2 or fold >= folds:
        problem = f"fold {fold} of {folds} requested, of {show_count(count, f'{unit}s')}"
        expected = f"at least {max(2, fold + 1)} {unit}s"
        remedy = "Split by a finer unit (frame), or bring more data."
        raise InputError.of("params.yaml, splits.images", problem, expected, remedy)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=derive_seed(seed, "patches"))
    with warnings.catch_warnings():
        # A class rarer than the folds is reported by _require_classes, with the split's name.
        warnings.simplefilter("ignore", UserWarning)
        chosen = [test for _, test in splitter.split(table, table["label"], groups)][fold]
    mask = np.zeros(len(table), dtype=bool)
    mask[chosen] = True
    return mask


def _require_classes(table: pd.DataFrame, params: ImageSplitParams) -> None:
    remedy = (
        "Choose another fold or a finer unit in splits.images, or take the class out of "
        "classes_required: its metrics are then undefined in that split."
    )
    with collect_faults() as faults:
        for split, label in product(SPLITS, params.classes_required):
            splits = table["split"][table["label"] == label]
            if split not in set(splits):
                where, expected = f"split {split!r} by {params.unit}", "at least one"
                expected += f" (the whole set has {len(splits)})"
                faults.add(where, f"holds no {label}", expected, remedy)


def count_folds(index: pd.DataFrame, folds: int) -> int:
    """Number of folds by case: as requested, but at most one per case."""
    return min(folds, len({identify(case) for case in index["case_id"].unique()}))


def split_patients(
    cohort: pd.DataFrame, params: PatientSplitParams, seed: int, linked: pd.Series | None = None
) -> pd.DataFrame:
    """Split patients, stratified on whether any of their admissions has the outcome.

    Patients of one ``split_group``, if the cohort has that column, stay together. `linked` is the
    split of patients assigned through their tissue, by subject_id; the shares are of the others.
    Returns a `PATIENT_SPLITS` table in the order of `cohort`. Raises InputError if too few patients
    have, or have not, the outcome to fill three splits.
    """
    outcome, split_of = _start_in_train(cohort, linked)
    rng = np.random.default_rng(derive_seed(seed, "patients"))
    for value in (0, 1):
        patients = outcome.index[outcome == value].to_numpy(copy=True)
        if len(patients) < len(SPLITS) and linked is None:
            named = "groups" if "split_group" in cohort else "patients"
            problem = f"{len(patients)} {named} with target {value}"
            raise InputError.of(
                "the cohort", problem, "at least 3, one per split", "Widen the cohort."
            )
        shuffled = rng.permutation(patients)
        n_validation = max(1, round(len(patients) * params.validation))
        n_test = max(1, round(len(patients) * params.test))
        split_of[shuffled[:n_test]] = "test"
        split_of[shuffled[n_test : n_test + n_validation]] = "validation"

    return _spread_splits(cohort, split_of)


def fold_patients(
    cohort: pd.DataFrame, folds: int, test_fold: int, seed: int, linked: pd.Series | None = None
) -> pd.DataFrame:
    """Split patients for one fold of a cross-validation, stratified as `split_patients` does.

    Over all folds each patient that is not linked is tested once. Validation is one of as many
    folds of the rest. Fold `test_fold`, from 0, is the test split; the folds are the same for each
    of them. Cohort, links, result and error are as of `split_patients`.
    """
    outcome, split_of = _start_in_train(cohort, linked)
    dealt = 0
    for value in (0, 1):
        patients = outcome.index[outcome == value].to_numpy(copy=True)
        # Continue where the last outcome stopped, so that no fold gets every odd patient.
        fold = (np.arange(len(patients)) + dealt) % folds
        dealt += len(patients)
        # One random stream each: the draw for validation must not change the test folds.
        shuffled = make_rng(seed, "patient folds", value).permutation(patients)
        outside = shuffled[fold != test_fold]
        rest = make_rng(seed, "patient folds", value, "rest").permutation(outside)
        if linked is None and len(rest) < 2:
            left = show_count(rest, "patients")
            problem = f"{left} with target {value} left outside the test split"
            expected = "at least 2, for training and validation"
            raise InputError.of(
                f"the cohort, fold {test_fold}", problem, expected, "Widen the cohort."
            )
        split_of[shuffled[fold == test_fold]] = "test"
        split_of[rest[::folds]] = "validation"

    return _spread_splits(cohort, split_of)


def _start_in_train(cohort: pd.DataFrame, linked: pd.Series | None) -> tuple[pd.Series, pd.Series]:
    """The outcome of each unit still to be split, and the split of each, by unit."""
    units = _name_units(cohort)
    outcome = cohort.groupby(units)["target"].max().sort_index()
    split_of = pd.Series("train", index=outcome.index, dtype="str")
    if linked is not None:
        of_units = linked.groupby(units.groupby(cohort["subject_id"]).first()).agg(["min", "max"])
        crossing = of_units.index[of_units["min"] != of_units["max"]]
        if len(crossing):
            problem = f"linked to tissue of several splits: split_group {crossing[0]!r}"
            remedy = "Declare a finer split_group, or none."
            raise InputError.of("the cohort", problem, "a group in one split", remedy)
        split_of.update(of_units["min"])
        outcome = outcome.drop(of_units.index)
    return outcome, split_of


def _name_units(cohort: pd.DataFrame) -> pd.Series:
    """Name what is not split further: the patient, or the one group that the cohort puts it in."""
    if "split_group" not in cohort:
        return cohort["subject_id"]
    groups = cohort.groupby("subject_id")["split_group"].nunique(dropna=False)
    alone = int((groups > 1).sum())
    if alone or cohort["split_group"].isna().any():
        problem = f"{alone} patients in several, {cohort['split_group'].isna().sum()} rows in none"
        raise InputError.of("the cohort, split_group", problem, "one group a patient")
    return cohort["split_group"]


def _spread_splits(cohort: pd.DataFrame, split_of: pd.Series) -> pd.DataFrame:
    """Give each admission the split of its unit."""
    split = _name_units(cohort).map(split_of).astype("str").reset_index(drop=True)
    return cohort[["subject_id", "hadm_id"]].reset_index(drop=True).assign(split=split)
