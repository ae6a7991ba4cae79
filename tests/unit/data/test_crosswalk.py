import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.data.crosswalk import find_linked_splits, is_empty, read_crosswalk
from histofuse.data.splits import split_patients
from histofuse.params.splits import PatientSplitParams

PATCHES = pd.DataFrame(
    {
        "case_id": ["Case_1", "Case_1", "Case_2", "Case_3"],
        "split": ["train", "train", "test", "train"],
    }
)
COHORT = pd.DataFrame(
    {"subject_id": range(100), "hadm_id": range(100), "target": [i % 4 == 0 for i in range(100)]}
).astype({"target": int})


def write(tmp_path, text):
    path = tmp_path / "crosswalk.csv"
    path.write_text(text)
    return path


def test_the_table_that_ships_links_nobody(tmp_path):
    assert is_empty(write(tmp_path, "case_id,subject_id,hadm_id\n"))
    assert not is_empty(write(tmp_path, "case_id,subject_id\nCase_1,7\n"))
    with pytest.raises(InputError, match="no column 'case_id'"):
        is_empty(write(tmp_path, "case,subject_id\n"))


def test_linked_patients_follow_their_tissue_and_the_others_are_split():
    links = pd.DataFrame({"case_id": ["Case_1", "Case_2", "Case_3"], "subject_id": [7, 8, 9]})
    linked = find_linked_splits(links, PATCHES)

    shares = PatientSplitParams(train=0.8, validation=0.1, test=0.1)
    for seed in range(5):
        splits = split_patients(COHORT, shares, seed, linked).set_index("subject_id")["split"]
        assert splits.loc[[7, 8, 9]].tolist() == ["train", "test", "train"]
        assert splits.drop([7, 8, 9]).value_counts().loc[["validation", "test"]].tolist() == [9, 9]


def test_every_case_needs_a_patient(tmp_path):
    path = write(tmp_path, "case_id,subject_id\nCase_1,7\n")
    with pytest.raises(InputError, match="no row for case 'Case_2'"):
        read_crosswalk(path, PATCHES, COHORT)


def test_patient_with_tissue_in_two_splits_is_said():
    links = pd.DataFrame({"case_id": ["Case_1", "Case_2"], "subject_id": [7, 7]})
    with pytest.raises(InputError, match="subject_id 7: linked to tissue in test, train"):
        find_linked_splits(links, PATCHES)
