"""Masks of each target, and nothing from after the prediction time."""

import gzip
import shutil
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.data.mimic_tables import TABLES, read_rows
from histofuse.data.targets import TARGETS
from histofuse.features.comorbidity import choose_diagnoses
from histofuse.features.ehr import GROUPS, build_features, mask_groups, replace_diagnoses
from histofuse.features.groups import FeatureGroup, Giveaway
from histofuse.features.labs import load_labs
from histofuse.features.specs import describe
from histofuse.features.treatments import load_treatments
from histofuse.params.ehr import EhrFeaturesParams

GOLDEN = Path(__file__).parents[2] / "golden" / "ehr_features"
CASES = [(t.name, time) for t in TARGETS.values() for time in t.prediction_times]


def make_params(**changes):
    values = {
        "comorbidities": "elixhauser_ahrq",
        "diagnoses_from": "prior_and_index",
        "index_diagnoses": "secondary",
        "labs": list(load_labs()),
        "lab_lookback_hours": 24.0,
        "treatments": list(load_treatments()),
        "treatment_lookback_days": 365.0,
    }
    return EhrFeaturesParams.model_validate(values | changes)


def load_cohort(prediction_time="discharge"):
    times = ["admittime", "dischtime", "prediction_time"]
    cohort = pd.read_csv(GOLDEN / "cohort.csv", parse_dates=times)
    if prediction_time == "admission_plus_24h":
        cohort["prediction_time"] = cohort["admittime"] + pd.Timedelta(hours=24)
    return cohort


@pytest.mark.parametrize("grouping", ["elixhauser_ahrq", "elixhauser_quan"])
@pytest.mark.parametrize(("name", "prediction_time"), CASES)
def test_no_masked_feature_survives(name, prediction_time, grouping):
    target = TARGETS[name]
    features = build_features(
        load_cohort(prediction_time),
        GOLDEN,
        make_params(comorbidities=grouping),
        target,
        prediction_time,
    )
    masked = {name for mask in mask_groups(target, prediction_time).values() for name in mask}
    assert masked
    columns = {*features.table.columns, *(spec.variable for spec in features.specs)}
    assert not columns & masked
    assert {entry["name"] for entry in features.masked["masked"]} == masked
    assert all(entry["reason"] for entry in features.masked["masked"])


@pytest.mark.parametrize(("name", "prediction_time"), CASES)
def test_nothing_of_the_outcome_may_be_a_feature(name, prediction_time):
    masks = mask_groups(TARGETS[name], prediction_time)
    assert {"hospital_expire_flag", "deathtime", "dod"} <= set(masks["utilisation"])


@pytest.mark.parametrize("name", ["metastasis", "breast_cancer"])
def test_cancer_targets_mask_what_encodes_the_cancer(name):
    masks = mask_groups(TARGETS[name], "discharge")
    assert {"metastatic_cancer", "solid_tumour", "lymphoma"} <= set(masks["comorbidity"])
    assert {"chemotherapy", "endocrine", "her2"} <= set(masks["treatment"])
    assert {"cea", "ca_27_29"} <= set(masks["laboratory"])


PO = f"{',' * 11}PO"
PLANTED = [
    ("elixhauser_ahrq", "diagnoses_icd", "3,31,2,D63.0,10"),
    ("elixhauser_ahrq", "diagnoses_icd", "3,31,2,28522,9"),
    ("elixhauser_ahrq", "diagnoses_icd", "3,31,2,M360,10"),
    ("elixhauser_quan", "diagnoses_icd", "3,31,2,G131,10"),
    ("elixhauser_quan", "diagnoses_icd", "3,31,2,J701,10"),
    ("elixhauser_quan", "diagnoses_icd", "3,31,2,5081,9"),
    *(
        (
            "elixhauser_ahrq",
            "prescriptions",
            f"2,21,,,,,2160-06-01 08:00:00,,MAIN,{drug}{',' * 11}PO",
        )
        for drug in ("Aprepitant", "FOSAPREPITANT", "Emend", "palonosetron", "Rolapitant")
    ),
]


@pytest.mark.parametrize(("grouping", "table", "row"), PLANTED)
def test_what_tells_the_cancer_leaves_no_trace_in_other_groups(tmp_path, grouping, table, row):
    (tmp_path / "hosp").mkdir()
    for file in (GOLDEN / "hosp").iterdir():
        (tmp_path / "hosp" / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "hosp" / f"{table}.csv").open("a") as file:
        file.write(f"{row}\n")

    def build(root, name):
        params = make_params(comorbidities=grouping)
        return build_features(load_cohort(), root, params, TARGETS[name], "discharge").table

    assert not build(tmp_path, "mortality_1y").equals(build(GOLDEN, "mortality_1y"))
    for name in ("metastasis", "breast_cancer"):
        pd.testing.assert_frame_equal(build(tmp_path, name), build(GOLDEN, name))


def test_values_outside_their_range_are_missing_and_counted():
    cohort = load_cohort().assign(age_years=[63.0, 1e308, 22_645.0])
    features = build_features(cohort, GOLDEN, make_params(), TARGETS["mortality_1y"], "discharge")
    ages = features.table.set_index("hadm_id")["age_years"]
    assert ages[12] == 63.0
    assert ages[[21, 31]].isna().all()
    counts = features.outside.set_index("feature")
    assert counts.loc["age_years"].to_dict() == {
        "unit": "years",
        "low": 0.0,
        "high": 120.0,
        "outside": 2,
    }
    assert counts["outside"].sum() == 2


@pytest.mark.parametrize("diagnoses_from", ["prior", "prior_and_index"])
def test_before_discharge_neither_its_codes_nor_its_length_are_known(diagnoses_from):
    params = make_params(diagnoses_from=diagnoses_from)
    target = TARGETS["in_hospital_mortality"]
    assert choose_diagnoses(params, "admission_plus_24h") == "prior"
    assert "length_of_stay_days" in mask_groups(target, "admission_plus_24h")["utilisation"]
    later = TARGETS["readmission_30d"]
    assert choose_diagnoses(params, "discharge") == diagnoses_from
    assert "length_of_stay_days" not in mask_groups(later, "discharge")["utilisation"]


def build_toy(request):
    rows = read_rows(request.root, "prescriptions", ["subject_id"], request.subjects)
    counts = rows.group_by("subject_id").agg(pl.len().cast(pl.Float64).alias("orders"))
    index = request.index.select("subject_id", "hadm_id")
    joined = index.join(counts, on="subject_id", how="left", maintain_order="left")
    return joined.with_columns(cancer_orders=pl.col("orders")), None


TOY = FeatureGroup(
    "orders",
    specs=lambda _: [
        describe("orders", "orders", "continuous", "Prescriptions on record", "orders"),
        describe("orders", "cancer_orders", "continuous", "Those for the cancer", "orders"),
    ],
    build=build_toy,
    gives_away=(Giveaway("cancer", "given for the cancer", ("cancer_orders",)),),
)


@pytest.mark.parametrize(("name", "hidden"), [("mortality_1y", False), ("metastasis", True)])
def test_a_new_group_is_one_entry(name, hidden):
    """The recipe of docs/extending.md: built, described, masked where it tells the target."""
    args = (load_cohort(), GOLDEN, make_params(), TARGETS[name], "discharge")
    without, features = build_features(*args), build_features(*args, groups=(*GROUPS, TOY))

    added = ["orders"] if hidden else ["orders", "cancer_orders"]
    assert features.specs[len(without.specs) :] == list(TOY.specs(None))[: len(added)]
    assert list(features.table.columns) == [*without.table.columns, *added]
    assert features.table["orders"].notna().any()
    told = {"group": "orders", "name": "cancer_orders", "reason": "given for the cancer"}
    assert (told in features.masked["masked"]) == hidden


@pytest.mark.parametrize("name", ["metastasis", "breast_cancer"])
def test_masked_cancer_codes_leave_the_count_alone(name):
    features = build_features(load_cohort(), GOLDEN, make_params(), TARGETS[name], "discharge")
    count = features.table.set_index("hadm_id")["comorbidity_count"]
    assert count.to_dict() == {12: 3.0, 21: 0.0, 31: 0.0}  # 4, 1 and 0 with their tumours


def test_before_discharge_only_earlier_diagnoses_count():
    name, time = "in_hospital_mortality", "admission_plus_24h"
    features = build_features(load_cohort(time), GOLDEN, make_params(), TARGETS[name], time)
    row = features.table.set_index("hadm_id").loc[12]
    assert features.masked["diagnoses_from"] == "prior"
    assert (row["congestive_heart_failure"], row["diabetes_uncomplicated"]) == (1, 1)
    assert (row["solid_tumour"], row["diabetes_complicated"], row["hypertension"]) == (0, 0, 0)
    assert "length_of_stay_days" not in row.index


def test_before_discharge_only_the_first_day_counts():
    name, time = "in_hospital_mortality", "admission_plus_24h"
    features = build_features(load_cohort(time), GOLDEN, make_params(), TARGETS[name], time)
    row = features.table.set_index("hadm_id").loc[12]
    # 10.0 the day before and 120 g/L after 22 hours; 11.0 came on the sixth day.
    assert (row["haemoglobin_mean"], row["haemoglobin_max"]) == (11.0, 12.0)


@pytest.mark.parametrize(("hours", "flag"), [(24, 1), (23, 0)])
def test_an_order_at_the_prediction_time_itself_is_known(hours, flag):
    cohort = load_cohort()
    cohort["prediction_time"] = cohort["admittime"] + pd.Timedelta(hours=hours)
    target, time = TARGETS["in_hospital_mortality"], "admission_plus_24h"
    features = build_features(cohort, GOLDEN, make_params(), target, time)
    assert features.table.set_index("hadm_id").at[12, "endocrine"] == flag


def test_prior_leaves_the_index_admission_out_at_discharge_too():
    params = make_params(diagnoses_from="prior")
    features = build_features(load_cohort(), GOLDEN, params, TARGETS["mortality_1y"], "discharge")
    assert features.table.set_index("hadm_id").at[21, "metastatic_cancer"] == 0
    assert features.masked["diagnoses_from"] == "prior"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("labevents", "no value of ehr_features.labs is usable, out of 0 rows"),
        ("diagnoses_icd", "none of 0 codes is in a group of"),
        ("prescriptions", "none of 0 orders is one of ehr_features.treatments"),
    ],
)
def test_a_group_that_is_empty_for_everyone_stops_the_run(tmp_path, table, problem):
    root = tmp_path / "mimiciv"
    shutil.copytree(GOLDEN, root)
    path = root / "hosp" / f"{table}.csv"
    rows = pl.read_csv(path, infer_schema=False)
    rows.with_columns(pl.col("subject_id") + "9").write_csv(path)
    args = (make_params(), TARGETS["mortality_1y"], "discharge")
    with pytest.raises(InputError, match=problem) as error:
        build_features(load_cohort(), root, *args)
    assert error.value.faults[0].where == path


def test_a_principal_diagnosis_that_is_not_marked_is_a_fault(tmp_path):
    root = tmp_path / "mimiciv"
    shutil.copytree(GOLDEN, root)
    path = root / "hosp" / "diagnoses_icd.csv"
    pl.read_csv(path, infer_schema=False).with_columns(seq_num=pl.lit("")).write_csv(path)
    args = (TARGETS["mortality_1y"], "discharge")
    params = make_params(index_diagnoses="secondary")
    with pytest.raises(InputError, match=r"diagnoses_icd\.csv, seq_num: no .* is 1; .*: all"):
        build_features(load_cohort(), root, params, *args)
    build_features(load_cohort(), root, make_params(index_diagnoses="all"), *args)
    build_features(load_cohort(), root, make_params(diagnoses_from="prior"), *args)


def test_no_labs_and_no_treatments_are_no_fault():
    params = make_params(labs=[], treatments=[])
    args = (load_cohort(), GOLDEN, params, TARGETS["mortality_1y"], "discharge")
    assert not {spec.group for spec in build_features(*args).specs} & {"laboratory", "treatment"}


def spell(change):
    """Rewrite every cell of every table; `change` gets a column as text and its kind."""

    def rewrite(table, name):
        return table.with_columns(
            change(pl.col(c), TABLES[name].columns[c]).alias(c) for c in table.columns
        )

    return rewrite


def end_as(*, bom=b"", line=b"\n", last=b"\n"):
    return lambda text: bom + text.rstrip(b"\n").replace(b"\n", line) + last


SAME = lambda table, _: table  # noqa: E731
SPELLINGS = {
    "ids as floats": (spell(lambda c, k: c + ".0" if k == "int" else c), end_as()),
    "ids with zeros first": (spell(lambda c, k: "00" + c if k == "int" else c), end_as()),
    "ISO dates": (spell(lambda c, k: c.str.replace(" ", "T") if "date" in k else c), end_as()),
    "slashes": (spell(lambda c, k: c.str.replace_all("-", "/") if "date" in k else c), end_as()),
    "missing words": (spell(lambda c, _: c.fill_null("NULL")), end_as()),
    "blanks": (spell(lambda c, _: " " + c + " "), end_as()),
    "other order": (lambda table, _: table[sorted(table.columns)], end_as()),
    "used columns": (lambda table, name: table[list(TABLES[name].used)], end_as()),
    "capital header": (lambda table, _: table.rename(str.upper), end_as()),
    "mark and CRLF": (SAME, end_as(bom=b"\xef\xbb\xbf", line=b"\r\n", last=b"\r\n")),
    "no last line break": (SAME, end_as(last=b"")),
}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_tables_spelt_otherwise_give_the_same_features(tmp_path, spelling, compressed):
    change, finish = SPELLINGS[spelling]
    (tmp_path / "hosp").mkdir()
    for path in (GOLDEN / "hosp").glob("*.csv*"):
        name = path.name.partition(".")[0]
        table = change(pl.read_csv(path, infer_schema=False), name)
        text = finish(table.write_csv().encode())
        out = tmp_path / "hosp" / f"{name}.csv"
        if compressed:
            out, text = out.with_suffix(".csv.gz"), gzip.compress(text)
        out.write_bytes(text)
    args = (make_params(), TARGETS["mortality_1y"], "discharge")
    pd.testing.assert_frame_equal(
        build_features(load_cohort(), tmp_path, *args).table,
        build_features(load_cohort(), GOLDEN, *args).table,
    )


def test_comorbidities_are_replaced_by_those_of_earlier_admissions_and_nothing_else_is():
    target, time = TARGETS["mortality_1y"], "discharge"
    args = (load_cohort(), GOLDEN, make_params(), target)
    both = build_features(*args, time)
    prior = build_features(load_cohort(), GOLDEN, make_params(diagnoses_from="prior"), target, time)
    pd.testing.assert_frame_equal(replace_diagnoses(both, *args), prior.table)
    assert not both.table.equals(prior.table)
    assert replace_diagnoses(prior, *args) is None


def test_order_of_the_cohort_does_not_matter():
    args = (GOLDEN, make_params(), TARGETS["mortality_1y"], "discharge")
    straight = build_features(load_cohort(), *args).table
    backwards = build_features(load_cohort().iloc[::-1], *args).table
    pd.testing.assert_frame_equal(straight, backwards)


def test_names_params_ask_for_must_be_defined():
    with pytest.raises(InputError, match="'hemoglobin'"):
        params = make_params(labs=["hemoglobin"])
        build_features(load_cohort(), GOLDEN, params, TARGETS["mortality_1y"], "discharge")
    with pytest.raises(ValueError, match="more than once"):
        make_params(labs=["albumin", "albumin"])


@pytest.mark.real
def test_the_demo_gives_plausible_features(real_data):
    from histofuse.data.cohort import build_cohort
    from histofuse.data.mimic import load_hospital
    from histofuse.params.ehr import CohortParams

    root = real_data / "mimic-iv-demo-2.2"
    cohort = build_cohort(
        load_hospital(root),
        CohortParams(
            icd9=[],
            icd10=[],
            minimum_age_years=18,
            target="readmission_30d",
            index_admission="all",
            prediction_time="target_default",
        ),
        root,
    )
    params = make_params(labs=["haemoglobin", "sodium"], treatments=["opioids", "antibiotics"])
    features = build_features(cohort.table, root, params, cohort.target, cohort.prediction_time)
    means = features.table.drop(columns=["subject_id", "hadm_id"]).mean(numeric_only=True)
    assert 9 < means["haemoglobin_mean"] < 13
    assert 135 < means["sodium_mean"] < 142
    assert 0.3 < means["hypertension"] < 0.8
    assert 0.5 < means["opioids"] < 1.0
    assert (features.table["haemoglobin_min"].dropna() > 1).all()
