from pathlib import Path

import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.data.crosswalk import (
    count_partners,
    find_linked_splits,
    is_empty,
    read_crosswalk,
    unite_cases,
)
from histofuse.data.splits import split_patches, split_patients
from histofuse.params.base import load_section
from histofuse.params.splits import ImageSplitParams, PatientSplitParams

PROJECT_PARAMS = Path(__file__).parents[3] / "params.yaml"

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


def test_cases_and_patients_without_partner_are_left_out(tmp_path):
    text = "case_id,subject_id\nCase_1,7\nCase_2,777\nCase_9,8\n"
    read = read_crosswalk(write(tmp_path, text), PATCHES, COHORT)
    assert read.values.tolist() == [["Case_1", 7, 7]]


@pytest.mark.parametrize("rows", ["", "Case_9,7\n", "Case_1,777\n"])
def test_a_crosswalk_that_links_nobody_of_these_is_refused(tmp_path, rows):
    path = write(tmp_path, f"case_id,subject_id\n{rows}")
    with pytest.raises(InputError, match="links a case of the patches to a patient") as error:
        read_crosswalk(path, PATCHES, COHORT)
    assert "such as 'Case_1'" in str(error.value)
    assert "named such as 0" in str(error.value)


def test_cases_of_one_patient_are_united_and_stay_together(tmp_path):
    cases = [f"Case_{n}" for n in range(12)]
    rows = "".join(f"{case},{n // 2}\n" for n, case in enumerate(cases[:10]))
    united = unite_cases(write(tmp_path, f"case_id,subject_id\n{rows}"), cases)
    pairs = {case: cases[n // 2 * 2] for n, case in enumerate(cases[:10])}
    assert united == pairs | {"Case_10": "Case_10", "Case_11": "Case_11"}

    index = pd.DataFrame({"case_id": cases * 4}).assign(label=["mitosis"] * 24 + ["tumour"] * 24)
    index["frame_id"], index["patch_id"] = index["case_id"], index.index.astype(str)
    params = load_section(ImageSplitParams, "splits.images", PROJECT_PARAMS)
    for seed in range(5):
        split = split_patches(index, params, seed, united).groupby("case_id")["split"].unique()
        assert (split.map(len) == 1).all()
        assert all((split[case] == split[first]).all() for case, first in pairs.items())


@pytest.mark.parametrize(
    "text",
    [
        "case_id,subject_id,hadm_id\nCase_1,7,NULL\ncase_02,008,8\nCASE 3,9.0,9.0\n",
        "\ufeffhadm_id,Case_ID,subject_id\r\n,Case-1,7.0\r\n8,Case_2 ,8\r\n\r\n9,Case_3,9",
    ],
)
def test_cases_and_patients_are_compared_as_what_they_mean(tmp_path, text):
    read = read_crosswalk(write(tmp_path, text), PATCHES, COHORT)
    assert read.values.tolist() == [["Case_1", 7, 7], ["Case_2", 8, 8], ["Case_3", 9, 9]]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("case_1,8,", "line 3: case_id 'case_1' again, as in line 2"),
        (",8,", "line 3: no case_id"),
        ("Case_2,8.5,", "line 3, subject_id: is '8.5'; expected a whole number"),
        ("Case_2,NA,", "line 3, subject_id: is 'NA'"),
        ("Case_2,8,x", "line 3, hadm_id: is 'x'"),
        ("Case_2,8,8,9", "line 3: 4 cells under 3 columns"),
    ],
)
def test_a_row_that_links_nobody_is_named(tmp_path, row, problem):
    path = write(tmp_path, f"case_id,subject_id,hadm_id\nCase_1,7,\n{row}\n")
    with pytest.raises(InputError, match=problem):
        read_crosswalk(path, PATCHES, COHORT)


SPELT = pd.DataFrame(
    {
        "subject_id": [1, 1, 2, 3],
        "hadm_id": [5, 6, 7, 8],
        "target": [0, 1, 0, 1],
        "patient_id": ["TCGA-A1", "TCGA-A1", "TCGA-B2", "TCGA-C3"],
        "visit_id": ["a", "b", "a", "a"],
    }
)


def test_a_declared_table_is_linked_by_the_ids_that_it_has(tmp_path):
    text = "case_id,subject_id,hadm_id\nCase_1,TCGA-A1,B\nCase_2,tcga b2,\nCase_3,TCGA-C3,a\n"
    read = read_crosswalk(write(tmp_path, text), PATCHES, SPELT)
    assert read.values.tolist() == [["Case_1", 1, 6], ["Case_2", 2, 7], ["Case_3", 3, 8]]
    with pytest.raises(InputError, match="no hadm_id for tcga_a_1"):
        read_crosswalk(write(tmp_path, text.replace(",B", ",")), PATCHES, SPELT)
    with pytest.raises(InputError, match="line 4, subject_id: is 'NA'; expected an id"):
        read_crosswalk(write(tmp_path, text.replace("TCGA-C3", "NA")), PATCHES, SPELT)


def test_partners_are_counted_and_strangers_are_no_fault(tmp_path):
    text = "case_id,subject_id,hadm_id\nCase_1,TCGA-A1,a\nCase_2,TCGA-X9,\nCase_7,TCGA-B2,\n"
    links = read_crosswalk(write(tmp_path, text), PATCHES, SPELT)
    partners = count_partners(links, PATCHES, SPELT)
    assert str(partners) == (
        "1 of 3 cases have a patient of the cohort, 1 of 3 patients have tissue"
    )


def test_patient_with_tissue_in_two_splits_is_said():
    links = pd.DataFrame({"case_id": ["Case_1", "Case_2"], "subject_id": [7, 7]})
    with pytest.raises(InputError, match="subject_id 7: linked to tissue in test, train"):
        find_linked_splits(links, PATCHES)
