import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.data.splits import fold_patients, split_patches, split_patients
from histofuse.params.splits import ImageSplitParams, PatientSplitParams

SHARES = PatientSplitParams(train=0.8, validation=0.1, test=0.1)


def make_params(**changes):
    values = {
        "unit": "case",
        "validation_unit": "case",
        "folds": 5,
        "test_fold": 0,
        "validation_fold": 0,
        "classes_required": ["mitosis"],
    }
    return ImageSplitParams.model_validate(values | changes)


def make_index(cases=10, frames=3, patches=20, mitoses=2):
    rows = [
        (f"Case_{c}-{f:02d}/{p:04d}", f"Case_{c}-{f:02d}", f"Case_{c}", p < mitoses)
        for c in range(cases)
        for f in range(frames)
        for p in range(patches)
    ]
    table = pd.DataFrame(rows, columns=["patch_id", "frame_id", "case_id", "mitosis"])
    label = np.where(table.pop("mitosis"), "mitosis", "tumour")
    return table.assign(label=pd.array(label, dtype="str"))


@pytest.mark.parametrize("unit", ["case", "frame"])
def test_units_stay_whole_and_every_split_holds_mitoses(unit):
    splits = split_patches(make_index(), make_params(unit=unit, validation_unit=unit), seed=1)

    assert (splits.groupby(f"{unit}_id")["split"].nunique() == 1).all()
    mitoses = splits[splits["label"] == "mitosis"]["split"].value_counts()
    assert set(mitoses.index) == {"train", "validation", "test"}


def test_spellings_of_a_case_fall_into_one_split():
    index = make_index()
    lower = index["frame_id"].str.endswith("0")
    spelt = index["case_id"].mask(lower, index["case_id"].str.lower())
    for fold in range(5):
        splits = split_patches(index.assign(case_id=spelt), make_params(test_fold=fold), seed=1)
        assert (splits.groupby(index["case_id"])["split"].nunique() == 1).all()


def test_folds_tile_the_data():
    tests = [
        set(
            split_patches(make_index(), make_params(test_fold=k), seed=1)
            .query("split == 'test'")
            .patch_id
        )
        for k in range(5)
    ]
    assert sum(map(len, tests)) == 600
    assert len(set.union(*tests)) == 600


def test_same_seed_same_split_other_seed_other_split():
    first, again, other = (split_patches(make_index(), make_params(), seed=s) for s in (1, 1, 2))
    assert first["split"].equals(again["split"])
    assert not first["split"].equals(other["split"])


def test_test_stays_case_disjoint_when_validation_is_by_frame():
    index = make_index(cases=3)
    splits = split_patches(index, make_params(folds=3, validation_unit="frame"), seed=1)

    test_cases = set(splits.query("split == 'test'")["case_id"])
    assert len(test_cases) == 1
    assert not test_cases & set(splits.query("split != 'test'")["case_id"])
    assert (splits.groupby("frame_id")["split"].nunique() == 1).all()


def test_split_without_mitosis_is_named():
    index = make_index(cases=3)
    index.loc[index["case_id"] != "Case_0", "label"] = "tumour"

    with pytest.raises(InputError) as error:
        split_patches(index, make_params(folds=3), seed=1)

    assert len(error.value.faults) == 2
    assert "holds no mitosis" in str(error.value)
    split_patches(index, make_params(folds=3, classes_required=["tumour"]), seed=1)


def test_too_few_groups_are_said():
    with pytest.raises(InputError, match="of 1 case"):
        split_patches(make_index(cases=1), make_params(), seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_fold": 5}, "count from 0 to 4"),
        ({"unit": "frame", "validation_unit": "case"}, "coarser"),
        ({"unit": "slide"}, "'case', 'frame' or 'patch'"),
    ],
)
def test_nonsense_params_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_params(**changes)


def make_cohort(patients=200, positives=40):
    subject = np.repeat(np.arange(patients), 2)
    target = (subject < positives) & (np.arange(2 * patients) % 2 == 0)
    return pd.DataFrame(
        {"subject_id": subject, "hadm_id": np.arange(2 * patients), "target": target.astype(int)}
    )


def test_patients_are_disjoint_stratified_and_in_the_stated_shares():
    cohort = make_cohort()
    splits = split_patients(cohort, SHARES, seed=1)

    assert (splits.groupby("subject_id")["split"].nunique() == 1).all()
    sizes = splits.drop_duplicates("subject_id")["split"].value_counts()
    assert sizes.to_dict() == {"train": 160, "validation": 20, "test": 20}
    positives = cohort.assign(split=splits["split"]).groupby("split")["target"].sum()
    assert positives.to_dict() == {"train": 32, "validation": 4, "test": 4}


def test_order_of_the_cohort_does_not_move_patients():
    cohort = make_cohort()
    splits = split_patients(cohort, SHARES, seed=1).set_index("hadm_id")["split"]
    shuffled = split_patients(cohort.sample(frac=1, random_state=0), SHARES, seed=1)
    assert splits.sort_index().equals(shuffled.set_index("hadm_id")["split"].sort_index())


def test_too_few_outcomes_are_said():
    with pytest.raises(InputError, match="2 patients with target 1"):
        split_patients(make_cohort(positives=2), SHARES, seed=1)


def test_patients_of_one_group_stay_together():
    cohort = make_cohort()
    cohort["split_group"] = "g" + (cohort["subject_id"] // 2).astype(str)
    for splits in (split_patients(cohort, SHARES, seed=1), fold_patients(cohort, 4, 1, seed=1)):
        of_group = splits["split"].groupby(cohort["split_group"].to_numpy()).nunique()
        assert of_group.max() == 1
        assert splits["split"].nunique() == 3


def test_a_group_that_is_linked_to_two_splits_is_said():
    cohort = make_cohort().assign(split_group="one")
    first, second = cohort["subject_id"].unique()[:2]
    linked = pd.Series({first: "train", second: "test"})
    with pytest.raises(InputError, match="linked to tissue of several splits: split_group 'one'"):
        split_patients(cohort, SHARES, 1, linked)


def test_a_patient_in_several_groups_is_said():
    cohort = pd.concat([make_cohort().assign(split_group=name) for name in "ab"], ignore_index=True)
    with pytest.raises(InputError, match="patients in several, 0 rows in none"):
        split_patients(cohort, SHARES, 1)


def test_a_cohort_whose_positives_are_all_linked_is_split():
    cohort = make_cohort()
    positive = cohort.loc[cohort["target"] == 1, "subject_id"].unique()
    linked = pd.Series("test", index=positive, dtype="str")

    for table in (
        split_patients(cohort, SHARES, 1, linked),
        fold_patients(cohort, 3, 0, 1, linked),
    ):
        split = table.set_index("subject_id")["split"]
        assert set(split[positive]) == {"test"}
        assert set(split.drop(positive)) == {"train", "validation", "test"}
