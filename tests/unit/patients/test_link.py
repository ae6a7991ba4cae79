import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.features.embeddings import Embedded
from histofuse.features.specs import FeatureSpec
from histofuse.patients.bags import load_bags
from histofuse.patients.link import (
    LinkedPatients,
    check_encoder,
    check_own,
    find_rows,
    join_patients,
    write_linked,
)

SPECS = [
    FeatureSpec("age_years", "age", "continuous", "years", "demographics", "Age"),
    FeatureSpec("grade", "grade", "categorical", "", "tumour", "Grade"),
]
COHORT = pd.DataFrame(
    {
        "subject_id": [1, 1, 2, 3],
        "hadm_id": [10, 11, 20, 30],
        "target": [0, 1, 0, 1],
        "patient_id": ["P-9", "P-9", "P-5", "P-7"],
    }
)
FEATURES = pd.DataFrame(
    {
        "subject_id": [3, 2, 1, 1],
        "hadm_id": [30, 20, 11, 10],
        "age_years": [30.0, np.nan, 11.0, 10.0],
        "grade": ["high", "low", None, "low"],
    }
)
PAIRS = pd.DataFrame(
    {
        "patch_id": ["d", "a", "c", "b"],
        "case_id": ["Case_4", "Case_1", "Case_3", "Case_2"],
        "frame_id": ["f"] * 4,
        "subject_id": [3, 1, 2, 1],
        "hadm_id": [30, 11, 20, 11],
        "split": ["test", "train", "train", "train"],
        "label": ["mitosis"] * 4,
    }
)


def join(pairs=PAIRS, cohort=COHORT, specs=SPECS):
    return join_patients(pairs, cohort, FEATURES, specs)


def test_all_cases_of_a_patient_form_one_bag_with_the_record_of_the_row_that_is_meant():
    patients, nuclei = join()
    assert nuclei.values.tolist() == [["P-5", "c"], ["P-7", "d"], ["P-9", "a"], ["P-9", "b"]]
    columns = ["patient_id", "split", "outcome", "age_years", "grade"]
    assert patients.columns.tolist() == columns
    values = patients.fillna({"age_years": -1, "grade": ""}).values.tolist()
    assert values == [
        ["P-5", "train", 0, -1, "low"],
        ["P-7", "test", 1, 30, "high"],
        ["P-9", "train", 1, 11, ""],
    ]


def test_patients_without_a_name_of_their_own_go_by_their_number():
    assert join(cohort=COHORT.drop(columns="patient_id"))[0]["patient_id"].tolist() == [
        "1",
        "2",
        "3",
    ]


def test_a_feature_with_the_name_of_another_column_is_refused():
    taken = FeatureSpec("split", "split", "binary", "", "tumour", "Split")
    with pytest.raises(InputError, match="the feature split: is named as another column"):
        join(specs=[*SPECS, taken])


def test_all_that_is_wrong_with_own_patients_is_named_at_once():
    pairs = PAIRS.assign(hadm_id=[30, 11, 20, 10])
    with pytest.raises(InputError) as error:
        check_own(pairs, COHORT.assign(weight=1.0), "simulated")
    text = str(error.value)
    assert "subject_id 1 has cases of several index rows; expected one hadm_id" in text
    assert "are weighted, which these models do not take; expected target.censoring" in text
    assert "1 in all test patients" in text
    assert "no validation patients" in text


def test_embeddings_are_found_by_key():
    rows = pd.DataFrame({"patch_id": list("abcde"), "row": [4, 3, 2, 1, 0]})
    image = Embedded(rows, np.arange(10, dtype=np.float32).reshape(5, 2))
    _, nuclei = join()
    assert find_rows(nuclei, image)[:, 0].tolist() == [4, 2, 8, 6]
    short = Embedded(rows.head(3), image.values)
    with pytest.raises(InputError, match="1 nucleus of linked patients not among them"):
        find_rows(nuclei, short)


def test_an_encoder_of_other_patches_is_refused():
    config = {"name": "resnet18", "inputs": {"splits": "old"}}
    with pytest.raises(InputError) as error:
        check_encoder(config, "new", embedded="1", digest="2")
    assert "trained on patches of other splits" in str(error.value)
    assert "is not that of data/embeddings" in str(error.value)
    check_encoder(config, "old", embedded="2", digest="2")


def make_links(**counts):
    split = [name for name, count in counts.items() for _ in range(count)]
    ids = {"subject_id": range(len(split)), "hadm_id": range(len(split))}
    return pd.DataFrame(ids | {"split": split})


def test_splits_of_few_restricted_patients_are_refused():
    links = make_links(train=20, validation=10, test=9)
    cohort = make_links(train=50).drop(columns="split").assign(target=np.resize([0, 1], 50))
    check_own(links, cohort, "simulated")
    with pytest.raises(InputError, match="fewer than 10 test patients of a restricted source"):
        check_own(links, cohort, "restricted")
    check_own(make_links(train=20, validation=10, test=10), cohort, "restricted")


def make_linked(split, outcome):
    count = len(split)
    ids = [f"P{n:02d}" for n in range(count)]
    texts = {"patient_id": ids, "split": split, "grade": ["low", "high"] * (count // 2)}
    patients = pd.DataFrame({**texts, "outcome": outcome, "age_years": 50.0})
    patients = patients.astype(dict.fromkeys(texts, "str"))
    nuclei = pd.DataFrame({"patient_id": ids, "patch_id": ids}, dtype="str")
    arrays = np.zeros((count, 2), np.float32), np.zeros((count, 3), np.float32)
    return LinkedPatients(patients, SPECS, nuclei, *arrays, {"cohort": "crosswalk"})


def test_linked_patients_are_written_as_bags_are_read(tmp_path):
    linked = make_linked(["train", "train", "validation", "validation", "test", "test"], [0, 1] * 3)
    write_linked(linked, tmp_path / "linked")
    bags = load_bags(tmp_path / "linked")
    assert bags.records["grade"].tolist() == ["low", "high"] * 3
    assert bags.specs == SPECS


def test_a_split_without_patients_or_with_one_outcome_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        write_linked(make_linked(["train"] * 2 + ["validation"] * 2, [0, 1, 1, 1]), tmp_path / "x")
    text = str(error.value)
    assert "the patients of the crosswalk, outcome: 1 in all validation patients" in text
    assert "no test patients; expected both outcomes among test patients" in text
    assert not (tmp_path / "x").exists()
