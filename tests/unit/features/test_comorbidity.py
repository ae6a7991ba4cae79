from datetime import datetime

import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.features.comorbidity import (
    COUNT,
    build_comorbidities,
    load_grouping,
    mask_admissions,
    match_code,
    unpack_mask,
)

AHRQ, QUAN = load_grouping("elixhauser_ahrq"), load_grouping("elixhauser_quan")

# Code, version, groups in AHRQ, groups in Quan; from the published tables.
VECTORS = [
    ("4280", 9, "congestive_heart_failure", "congestive_heart_failure"),
    ("39891", 9, "congestive_heart_failure", "congestive_heart_failure"),
    (
        "40201",
        9,
        "congestive_heart_failure hypertension",
        "congestive_heart_failure hypertension_complicated",
    ),
    ("40200", 9, "hypertension", "hypertension_complicated"),
    (
        "40493",
        9,
        "congestive_heart_failure hypertension renal_failure",
        "congestive_heart_failure hypertension_complicated renal_failure",
    ),
    (
        "40491",
        9,
        "congestive_heart_failure hypertension",
        "congestive_heart_failure hypertension_complicated",
    ),
    ("4019", 9, "hypertension", "hypertension_uncomplicated"),
    ("4372", 9, "hypertension", ""),
    ("4254", 9, "", "congestive_heart_failure"),
    ("4255", 9, "", "congestive_heart_failure alcohol_abuse"),
    ("42731", 9, "", "cardiac_arrhythmias"),
    ("V4501", 9, "", "cardiac_arrhythmias"),
    ("09320", 9, "valvular_disease", "valvular_disease"),
    ("4168", 9, "pulmonary_circulation", "pulmonary_circulation chronic_pulmonary"),
    ("41511", 9, "pulmonary_circulation", "pulmonary_circulation"),
    ("44422", 9, "peripheral_vascular", ""),
    ("44481", 9, "", ""),
    ("0930", 9, "", "peripheral_vascular"),
    ("496", 9, "chronic_pulmonary", "chronic_pulmonary"),
    ("49390", 9, "chronic_pulmonary", "chronic_pulmonary"),
    ("25000", 9, "diabetes_uncomplicated", "diabetes_uncomplicated"),
    ("25033", 9, "diabetes_uncomplicated", "diabetes_uncomplicated"),
    ("25040", 9, "diabetes_complicated", "diabetes_complicated"),
    ("24940", 9, "diabetes_complicated", ""),
    ("2443", 9, "", "hypothyroidism"),
    ("2449", 9, "hypothyroidism", "hypothyroidism"),
    ("5851", 9, "", "renal_failure"),
    ("5856", 9, "renal_failure", "renal_failure"),
    ("5710", 9, "liver_disease", "liver_disease alcohol_abuse"),
    ("570", 9, "", "liver_disease"),
    ("07032", 9, "liver_disease", "liver_disease"),
    ("07030", 9, "", ""),
    ("53170", 9, "peptic_ulcer", "peptic_ulcer"),
    ("53190", 9, "", "peptic_ulcer"),
    ("53140", 9, "", ""),
    ("042", 9, "hiv", "hiv"),
    ("20280", 9, "lymphoma", "lymphoma"),
    ("20240", 9, "", "lymphoma"),
    ("20300", 9, "lymphoma", "lymphoma"),
    ("2733", 9, "lymphoma", ""),
    ("1970", 9, "metastatic_cancer", "metastatic_cancer"),
    ("1985", 9, "metastatic_cancer", "metastatic_cancer"),
    ("1992", 9, "", "metastatic_cancer"),
    ("1740", 9, "solid_tumour", "solid_tumour"),
    ("1749", 9, "solid_tumour", "solid_tumour"),
    ("1733", 9, "", ""),
    ("20925", 9, "solid_tumour", ""),
    ("20940", 9, "", ""),
    ("7140", 9, "rheumatoid_arthritis", "rheumatoid_arthritis"),
    ("4465", 9, "", "rheumatoid_arthritis"),
    ("2875", 9, "coagulopathy", "coagulopathy"),
    ("2872", 9, "", ""),
    ("27800", 9, "obesity", "obesity"),
    ("27802", 9, "", "obesity"),
    ("V8541", 9, "obesity", ""),
    ("2639", 9, "weight_loss", "weight_loss"),
    ("7994", 9, "", "weight_loss"),
    ("2761", 9, "fluid_electrolyte", "fluid_electrolyte"),
    ("2800", 9, "blood_loss_anaemia", "blood_loss_anaemia"),
    ("2809", 9, "deficiency_anaemia", "deficiency_anaemia"),
    ("28521", 9, "deficiency_anaemia", ""),
    ("30500", 9, "alcohol_abuse", "alcohol_abuse"),
    ("3051", 9, "", ""),
    ("30590", 9, "drug_abuse", "drug_abuse"),
    ("29281", 9, "", "drug_abuse"),
    ("29654", 9, "psychoses", "psychoses depression"),
    ("29620", 9, "psychoses", "depression"),
    ("311", 9, "depression", "depression"),
    ("E8809", 9, "", ""),
    ("I5020", 10, "congestive_heart_failure", "congestive_heart_failure"),
    (
        "I110",
        10,
        "congestive_heart_failure hypertension",
        "congestive_heart_failure hypertension_complicated",
    ),
    (
        "I132",
        10,
        "congestive_heart_failure hypertension renal_failure",
        "congestive_heart_failure hypertension_complicated",
    ),
    ("I1311", 10, "hypertension renal_failure", "hypertension_complicated renal_failure"),
    ("I1310", 10, "hypertension", "hypertension_complicated renal_failure"),
    ("I10", 10, "hypertension", "hypertension_uncomplicated"),
    ("I161", 10, "hypertension", ""),
    ("I4891", 10, "", "cardiac_arrhythmias"),
    ("I340", 10, "valvular_disease", "valvular_disease"),
    ("I2699", 10, "pulmonary_circulation", "pulmonary_circulation"),
    ("I2720", 10, "", "pulmonary_circulation"),
    ("I2789", 10, "pulmonary_circulation", "pulmonary_circulation chronic_pulmonary"),
    ("I739", 10, "peripheral_vascular", "peripheral_vascular"),
    ("I730", 10, "", ""),
    ("I69351", 10, "paralysis", ""),
    ("I69320", 10, "", ""),
    ("G803", 10, "other_neurological", ""),
    ("G802", 10, "paralysis", "paralysis"),
    ("J449", 10, "chronic_pulmonary", "chronic_pulmonary"),
    ("E119", 10, "diabetes_uncomplicated", "diabetes_uncomplicated"),
    ("E1110", 10, "diabetes_uncomplicated", "diabetes_uncomplicated"),
    ("E1121", 10, "diabetes_complicated", "diabetes_complicated"),
    ("E1165", 10, "diabetes_complicated", "diabetes_complicated"),
    ("E0822", 10, "diabetes_complicated", ""),
    ("O24111", 10, "diabetes_uncomplicated", ""),
    ("O24410", 10, "", ""),
    ("O10011", 10, "hypertension", ""),
    ("E039", 10, "hypothyroidism", "hypothyroidism"),
    ("E034", 10, "", "hypothyroidism"),
    ("N181", 10, "", "renal_failure"),
    ("N186", 10, "renal_failure", "renal_failure"),
    ("Z992", 10, "renal_failure", "renal_failure"),
    ("K7030", 10, "liver_disease", "liver_disease alcohol_abuse"),
    ("K7010", 10, "", "liver_disease"),
    ("K7460", 10, "liver_disease", "liver_disease"),
    ("K254", 10, "peptic_ulcer", ""),
    ("K250", 10, "", ""),
    ("B20", 10, "hiv", "hiv"),
    ("C8590", 10, "lymphoma", "lymphoma"),
    ("C9000", 10, "lymphoma", "lymphoma"),
    ("C9100", 10, "", ""),
    ("C7951", 10, "metastatic_cancer", "metastatic_cancer"),
    ("C801", 10, "metastatic_cancer", "metastatic_cancer"),
    ("C802", 10, "", "metastatic_cancer"),
    ("C7B00", 10, "metastatic_cancer", ""),
    ("C50919", 10, "solid_tumour", "solid_tumour"),
    ("C50929", 10, "solid_tumour", "solid_tumour"),
    ("C4490", 10, "", ""),
    ("C462", 10, "", "solid_tumour"),
    ("D0511", 10, "", ""),
    ("D034", 10, "solid_tumour", ""),
    ("M069", 10, "rheumatoid_arthritis", "rheumatoid_arthritis"),
    ("M352", 10, "", "rheumatoid_arthritis"),
    ("D696", 10, "coagulopathy", "coagulopathy"),
    ("D6851", 10, "", "coagulopathy"),
    ("E669", 10, "obesity", "obesity"),
    ("E663", 10, "", "obesity"),
    ("Z6841", 10, "obesity", ""),
    ("E46", 10, "weight_loss", "weight_loss"),
    ("R64", 10, "", "weight_loss"),
    ("E871", 10, "fluid_electrolyte", "fluid_electrolyte"),
    ("D500", 10, "blood_loss_anaemia", "blood_loss_anaemia"),
    ("O99013", 10, "blood_loss_anaemia", ""),
    ("D509", 10, "deficiency_anaemia", "deficiency_anaemia"),
    ("D62", 10, "", ""),
    ("F1020", 10, "alcohol_abuse", "alcohol_abuse"),
    ("F10920", 10, "", "alcohol_abuse"),
    ("F10921", 10, "alcohol_abuse", "alcohol_abuse"),
    ("F1120", 10, "drug_abuse", "drug_abuse"),
    ("F1190", 10, "", "drug_abuse"),
    ("F209", 10, "psychoses", "psychoses"),
    ("F324", 10, "psychoses", "depression"),
    ("F329", 10, "depression", "depression"),
    ("F315", 10, "psychoses", "psychoses depression"),
    ("V4501XA", 10, "", ""),
    ("34290", 9, "paralysis", "paralysis"),
    ("34590", 9, "other_neurological", "other_neurological"),
    ("3341", 9, "other_neurological", "paralysis other_neurological"),
    ("3321", 9, "", "other_neurological"),
    ("G8190", 10, "paralysis", "paralysis"),
    ("G40909", 10, "other_neurological", "other_neurological"),
    ("G931", 10, "", "other_neurological"),
    ("K257", 10, "peptic_ulcer", "peptic_ulcer"),
]


def names_of(grouping, code, version):
    mask = match_code(grouping, code, version)
    return {group for bit, group in enumerate(grouping.groups) if mask >> bit & 1}


@pytest.mark.parametrize(("code", "version", "ahrq", "quan"), VECTORS)
def test_published_codes_fall_into_their_groups(code, version, ahrq, quan):
    assert names_of(AHRQ, code, version) == set(ahrq.split())
    assert names_of(QUAN, code, version) == set(quan.split())


def test_the_groupings_have_their_published_sizes():
    assert (len(AHRQ.groups), len(QUAN.groups)) == (29, 31)
    split = {"hypertension_uncomplicated", "hypertension_complicated", "cardiac_arrhythmias"}
    assert set(QUAN.groups) - set(AHRQ.groups) == split


def test_every_group_has_a_vector_in_each_version():
    for grouping, column in ((AHRQ, 2), (QUAN, 3)):
        for version in (9, 10):
            seen = {g for row in VECTORS if row[1] == version for g in row[column].split()}
            assert seen == set(grouping.groups)


def test_dots_blanks_and_case_do_not_matter():
    assert names_of(AHRQ, " e11.21 ", 10) == {"diabetes_complicated"}
    assert names_of(AHRQ, "", 10) == set()


def make_diagnoses(*rows):
    return pl.DataFrame(
        rows, schema=["subject_id", "hadm_id", "icd_code", "icd_version"], orient="row"
    )


def test_versions_of_one_admission_are_read_apart():
    # E8809 is an external cause in ICD-9 and obesity's neighbour in ICD-10; 042 needs its zero.
    diagnoses = make_diagnoses((1, 11, "042", 9), (1, 11, "I5020", 10), (2, 21, "42", 9))
    flags = unpack_mask(mask_admissions(diagnoses, AHRQ), AHRQ)
    first, second = flags.to_dicts()
    assert (first["hiv"], first["congestive_heart_failure"], first[COUNT]) == (1, 1, 2)
    assert second[COUNT] == 0


def test_unknown_version_is_refused():
    with pytest.raises(InputError, match="icd_version"):
        mask_admissions(make_diagnoses((1, 11, "042", 11)), AHRQ)


def test_severe_groups_switch_mild_ones_off_unless_told_otherwise():
    diagnoses = make_diagnoses(
        (1, 11, "25000", 9), (1, 11, "25040", 9), (1, 11, "1749", 9), (1, 11, "1970", 9)
    )
    masks = mask_admissions(diagnoses, AHRQ)
    with_hierarchy = unpack_mask(masks, AHRQ).row(0, named=True)
    without = unpack_mask(masks, AHRQ, hierarchy=False).row(0, named=True)
    mild, severe = ("diabetes_uncomplicated", "solid_tumour"), ("diabetes_complicated",)
    assert [with_hierarchy[g] for g in (*mild, *severe)] == [0, 0, 1]
    assert [without[g] for g in (*mild, *severe)] == [1, 1, 1]
    assert (with_hierarchy[COUNT], without[COUNT]) == (2, 4)


def test_an_excluded_group_leaves_no_trace_in_count_or_hierarchy():
    diagnoses = make_diagnoses((1, 11, "1749", 9), (1, 11, "1970", 9), (1, 11, "4280", 9))
    masks = mask_admissions(diagnoses, AHRQ)
    flags = unpack_mask(masks, AHRQ, exclude={"metastatic_cancer"}).row(0, named=True)
    assert "metastatic_cancer" not in flags
    assert flags["solid_tumour"] == 1
    assert flags[COUNT] == 2


STAYS = pl.DataFrame(
    {
        "subject_id": [1, 1, 1],
        "hadm_id": [10, 11, 12],
        "admittime": [datetime(2150, month, 1) for month in (1, 3, 5)],
        "dischtime": [datetime(2150, month, 9) for month in (1, 3, 5)],
    }
)
CODES = make_diagnoses((1, 10, "4280", 9), (1, 11, "042", 9), (1, 12, "496", 9))


@pytest.mark.parametrize(
    ("prediction_day", "from_index", "expected"),
    [
        (9, True, {"congestive_heart_failure", "hiv"}),
        (9, False, {"congestive_heart_failure"}),
        (2, True, {"congestive_heart_failure"}),  # billed after the discharge: not known yet
    ],
)
def test_only_codes_known_at_prediction_time_count(prediction_day, from_index, expected):
    prediction = pl.Series([datetime(2150, 3, prediction_day)])
    index = STAYS[1:2].with_columns(prediction_time=prediction)
    flags = build_comorbidities(index, STAYS, CODES, AHRQ, from_index=from_index, principal=True)
    row = flags.row(0, named=True)
    assert {g for g in AHRQ.groups if row[g]} == expected
    assert row[COUNT] == len(expected)


def test_a_patient_without_codes_has_zeros_and_keeps_the_order():
    index = STAYS.reverse().with_columns(prediction_time=pl.col("dischtime"))
    flags = build_comorbidities(index, STAYS, CODES.clear(), AHRQ, from_index=True, principal=True)
    assert flags["hadm_id"].to_list() == [12, 11, 10]
    assert flags[COUNT].to_list() == [0, 0, 0]


@pytest.mark.parametrize("principal", [False, True])
def test_the_reason_for_the_index_admission_is_no_comorbidity(principal):
    """AHRQ and Elixhauser count secondary diagnoses; an earlier stay's reason is one by now."""
    codes = make_diagnoses(
        (1, 10, "4280", 9), (1, 11, "042", 9), (1, 11, "4019", 9), (1, 11, "496", 9)
    ).with_columns(seq_num=pl.Series([1, 1, 2, None]))
    index = STAYS[1:2].with_columns(prediction_time=pl.col("dischtime"))
    flags = build_comorbidities(index, STAYS, codes, AHRQ, from_index=True, principal=principal)
    row = flags.row(0, named=True)
    secondary = {"congestive_heart_failure", "hypertension", "chronic_pulmonary"}
    assert {g for g in AHRQ.groups if row[g]} == secondary | ({"hiv"} if principal else set())


def test_an_admission_that_is_index_and_earlier_loses_its_reason_only_as_index():
    codes = CODES.with_columns(seq_num=pl.lit(1))
    index = STAYS[:2].with_columns(prediction_time=pl.col("dischtime"))
    flags = build_comorbidities(index, STAYS, codes, AHRQ, from_index=True, principal=False)
    assert flags["congestive_heart_failure"].to_list() == [0, 1]
    assert flags["hiv"].to_list() == [0, 0]
