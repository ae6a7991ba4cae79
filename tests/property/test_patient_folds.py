"""Folds of patients: whatever the cohort, nobody is in two splits and everybody is tested once."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histofuse.core.errors import InputError
from histofuse.data.splits import fold_patients


def make_cohort(positives, negatives, admissions):
    patients = np.repeat(np.arange(positives + negatives), admissions)
    first = np.arange(len(patients)) % admissions == 0
    target = ((patients < positives) & first).astype(int)
    return pd.DataFrame(
        {"subject_id": patients, "hadm_id": np.arange(len(patients)) + 1000, "target": target}
    )


# Enough of each outcome that two are left beside any test fold.
sizes = st.integers(4, 60)


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, st.integers(1, 3), st.integers(2, 8), st.integers(0, 99))
def test_every_patient_is_tested_once_and_in_one_split_of_a_fold(
    positives, negatives, admissions, folds, seed
):
    cohort = make_cohort(positives, negatives, admissions)

    tested: list[int] = []
    for fold in range(folds):
        splits = fold_patients(cohort, folds, fold, seed)
        assert splits["hadm_id"].tolist() == cohort["hadm_id"].tolist()
        assert (splits.groupby("subject_id")["split"].nunique() == 1).all()
        of = splits.drop_duplicates("subject_id").groupby("split")["subject_id"].agg(set)
        assert {"train", "validation"} <= set(of.index)
        tested += sorted(of.get("test", set()))

    assert sorted(tested) == list(range(positives + negatives))


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, st.integers(2, 8), st.integers(0, 99))
def test_folds_are_of_one_size_and_hold_their_share_of_the_outcome(
    positives, negatives, folds, seed
):
    cohort = make_cohort(positives, negatives, 1)
    splits = [fold_patients(cohort, folds, k, seed)["split"] == "test" for k in range(folds)]

    sizes_ = [int(s.sum()) for s in splits]
    outcomes = [int(cohort.loc[s.to_numpy(), "target"].sum()) for s in splits]
    assert max(sizes_) - min(sizes_) <= 1
    assert max(outcomes) - min(outcomes) <= 1


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(12)))
def test_the_order_of_the_cohort_moves_nobody(order):
    cohort = make_cohort(5, 7, 1)
    splits = fold_patients(cohort, 3, 1, seed=4).set_index("hadm_id")["split"]
    moved = fold_patients(cohort.iloc[list(order)], 3, 1, seed=4).set_index("hadm_id")["split"]
    assert moved.loc[splits.index].equals(splits)


def test_linked_patients_stay_in_the_split_of_their_case():
    cohort = make_cohort(6, 6, 1)
    linked = pd.Series({0: "test", 11: "validation"})
    for fold in range(3):
        splits = fold_patients(cohort, 3, fold, 0, linked).set_index("subject_id")["split"]
        assert splits[[0, 11]].tolist() == ["test", "validation"]


def test_too_few_patients_are_said():
    with pytest.raises(InputError, match="fold 0: 1 patient with target 1 left outside"):
        fold_patients(make_cohort(2, 9, 1), 3, 0, seed=0)
