from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from drawn_patients import draw_bags

from histofuse.core.artifacts import write_json
from histofuse.core.errors import InputError
from histofuse.features.specs import to_json_list
from histofuse.patients.bags import check_bags, load_bags


@pytest.fixture
def bags():
    return draw_bags(40)


def find_faults(bags):
    with pytest.raises(InputError) as raised:
        check_bags(bags)
    return [str(fault) for fault in raised.value.faults]


def test_bags_that_fit_together_pass(bags):
    check_bags(bags)


def test_all_faults_are_named_at_once(bags):
    ids = bags.patient_ids.copy()
    ids[1] = ids[0]  # both are train patients
    ids[2] = ids[3]  # of test and of validation
    bag_of = bags.bag_of.copy()
    bag_of[bag_of == 5] = 6
    bag_of[:2] = 99
    outcome = np.where(bags.split == "validation", 1, bags.outcome)
    embeddings = bags.embeddings.copy()
    embeddings[0, 0] = np.nan
    broken = replace(bags, patient_ids=ids, bag_of=bag_of, outcome=outcome, embeddings=embeddings)

    text = "\n".join(find_faults(broken))

    assert "1 patient in several splits, such as 'P0003'" in text
    assert "1 patient twice, such as 'P0000'" in text
    assert "1 patient without nuclei, such as 'P0005'" in text
    assert "2 nuclei of patients that have no row" in text
    assert "1 in all validation patients; expected both outcomes" in text
    assert "embeddings: values that are not finite" in text


def test_an_outcome_other_than_0_and_1_is_refused(bags):
    assert "values [2]" in "\n".join(find_faults(replace(bags, outcome=bags.outcome * 2)))


def test_arrays_of_different_lengths_are_refused(bags):
    [fault] = find_faults(replace(bags, outcome=bags.outcome[1:]))

    assert "arrays of [39, 40] patients" in fault


@pytest.fixture
def written(bags, tmp_path):
    """The files of a cohort, as its stages write them."""
    patients = bags.records.assign(
        patient_id=pd.array(bags.patient_ids, dtype="str"),
        split=pd.array(bags.split, dtype="str"),
        outcome=bags.outcome,
    )
    nuclei = pd.DataFrame(
        {
            "patient_id": pd.array(bags.patient_ids[bags.bag_of], dtype="str"),
            "patch_id": pd.array([f"{i}" for i in range(len(bags.bag_of))], dtype="str"),
        }
    )
    patients.to_parquet(tmp_path / "patients.parquet")
    nuclei.to_parquet(tmp_path / "nuclei.parquet")
    write_json(to_json_list(bags.specs), tmp_path / "features.json")
    np.save(tmp_path / "image.npy", bags.embeddings)
    np.save(tmp_path / "logits.npy", bags.logits)
    return tmp_path


def test_files_of_a_cohort_are_read_by_key(bags, written):
    shuffled = pd.read_parquet(written / "patients.parquet").sample(frac=1, random_state=1)
    shuffled.to_parquet(written / "patients.parquet")

    read = load_bags(written)

    np.testing.assert_array_equal(read.patient_ids[read.bag_of], bags.patient_ids[bags.bag_of])
    place = pd.Index(bags.patient_ids).get_indexer(read.patient_ids)
    expected = bags.records.iloc[place].reset_index(drop=True)
    pd.testing.assert_frame_equal(read.records, expected)
    assert read.specs == bags.specs


def test_nuclei_of_other_patients_are_refused(written):
    nuclei = pd.read_parquet(written / "nuclei.parquet").replace({"patient_id": {"P0007": "Q1"}})
    nuclei.to_parquet(written / "nuclei.parquet")

    with pytest.raises(InputError) as raised:
        load_bags(written)

    text = str(raised.value)
    assert "of patients that have no row" in text
    assert "1 patient without nuclei, such as 'P0007'" in text


def test_text_in_a_number_is_refused(written):
    patients = pd.read_parquet(written / "patients.parquet").assign(albumin="II")
    patients.to_parquet(written / "patients.parquet")

    with pytest.raises(InputError, match="row 0, albumin: is 'II'"):
        load_bags(written)
