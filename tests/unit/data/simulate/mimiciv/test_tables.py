import gzip
import hashlib

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from histofuse.core.tables import check_table
from histofuse.data.cohort import build_cohort
from histofuse.data.mimic import load_hospital
from histofuse.data.mimic_tables import TABLES, read_rows
from histofuse.data.simulate.mimiciv.catalogue import CONDITIONS, DRUGS, LABS
from histofuse.data.simulate.mimiciv.risk import TERMS, compute_logit
from histofuse.data.simulate.mimiciv.tables import RISK_MODEL, simulate_hospital, write_hospital
from histofuse.params.ehr import CohortParams
from histofuse.params.simulation import MimicSimulationParams

PARAMS = MimicSimulationParams(patients=1500, breast_cancer_fraction=0.42)
DECLARATION = CohortParams(
    icd9=["174"],
    icd10=["C50"],
    minimum_age_years=18,
    target="mortality_1y",
    index_admission="first_with_diagnosis",
    prediction_time="target_default",
)


@pytest.fixture(scope="module")
def simulated():
    return simulate_hospital(PARAMS, seed=1)


@pytest.fixture(scope="module")
def root(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimiciv")
    write_hospital(simulated.tables, folder)
    return folder


@pytest.fixture(scope="module")
def cohort(root):
    return build_cohort(load_hospital(root), DECLARATION, root).table


def digest(folder):
    files = sorted((folder / "hosp").iterdir())
    return [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    small = MimicSimulationParams(patients=60, breast_cancer_fraction=0.5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_hospital(simulate_hospital(small, seed).tables, tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_those_of_the_release_and_every_cell_parses(root, table):
    columns = list(TABLES[table].columns)
    with gzip.open(root / "hosp" / f"{table}.csv.gz", "rt") as file:
        assert file.readline().rstrip("\n").split(",") == columns
    assert read_rows(root, table, columns).height > 0


def test_the_known_auroc_is_that_of_the_cohort(simulated, cohort):
    check_table(simulated.risks, RISK_MODEL, "risks")
    joined = cohort.merge(simulated.risks, on=["subject_id", "hadm_id"], validate="1:1")
    assert len(joined) == len(cohort)
    died = joined["target"].to_numpy() == 1
    auroc = roc_auc_score(died, joined["true_probability"])
    assert auroc == pytest.approx(simulated.metadata["risk_model"]["breast_cancer_auroc"], abs=0.01)
    assert 0.75 < auroc < 0.9
    assert joined["true_probability"].mean() == pytest.approx(died.mean(), abs=0.04)


def test_the_true_probability_is_calibrated(simulated, cohort):
    joined = cohort.merge(simulated.risks, on=["subject_id", "hadm_id"]).sort_values(
        "true_probability"
    )
    for rows in np.array_split(np.arange(len(joined)), 4):
        part = joined.iloc[rows]
        expected = part["true_probability"].mean()
        error = 3 * np.sqrt(expected * (1 - expected) / len(part))
        assert abs(part["target"].mean() - expected) < error


def test_missingness_and_deaths_are_as_published(simulated):
    labs = simulated.tables["labevents"]
    assert labs["hadm_id"].null_count() / labs.height == pytest.approx(0.28, abs=0.03)
    assert labs["valuenum"].null_count() / labs.height == pytest.approx(0.12, abs=0.02)
    assert (labs["value"] == "___").sum() > 0
    admissions = simulated.tables["admissions"]
    assert 0.01 < admissions["hospital_expire_flag"].mean() < 0.04
    died = admissions.filter(pl.col("hospital_expire_flag") == 1)
    assert (died["deathtime"] == died["dischtime"]).all()
    assert (died["discharge_location"] == "DIED").all()
    assert admissions.filter(pl.col("hospital_expire_flag") == 0)["deathtime"].null_count() == len(
        admissions
    ) - len(died)


def test_tests_are_missing_at_the_catalogues_share_of_admissions(simulated):
    admissions = simulated.tables["admissions"].select("subject_id", "hadm_id", "admittime")
    labs = simulated.tables["labevents"].drop_nulls("valuenum").drop("hadm_id")
    stays = admissions.join(labs, on="subject_id").join(
        simulated.tables["admissions"].select("hadm_id", "dischtime"), on="hadm_id"
    )
    during = stays.filter(
        pl.col("charttime") >= pl.col("admittime") - pl.duration(days=1),
        pl.col("charttime") <= pl.col("dischtime"),
    )
    measured = during.group_by("itemid").agg(pl.col("hadm_id").n_unique())
    with_value = dict(measured.iter_rows())
    for lab in LABS:
        if lab.panel != "marker":
            realised = 1 - with_value[lab.itemid] / admissions.height
            assert realised == pytest.approx(lab.missing, abs=0.025), lab.label
    missing = {lab.label: lab.missing for lab in LABS}
    assert missing["Albumin"] == 0.45
    assert missing["Alkaline Phosphatase"] == 0.40
    assert missing["Lactate Dehydrogenase (LD)"] == 0.64


@pytest.mark.real
def test_the_catalogues_missing_shares_are_near_the_demos(real_data):
    root = real_data / "mimic-iv-demo-2.2"
    labs = read_rows(root, "labevents", ["hadm_id", "itemid", "valuenum"]).drop_nulls()
    admissions = read_rows(root, "admissions", ["hadm_id"]).height
    with_value = dict(labs.group_by("itemid").agg(pl.col("hadm_id").n_unique()).iter_rows())
    for lab in LABS:
        if lab.panel != "marker":
            # Counted by hadm_id alone, which leaves out the emergency department.
            missing = 1 - with_value[lab.itemid] / admissions
            assert missing == pytest.approx(lab.missing, abs=0.11), lab.label


def test_nothing_happens_after_death(simulated):
    dod = simulated.tables["patients"].drop_nulls("dod").select("subject_id", "dod")
    for table, when in (("admissions", "admittime"), ("labevents", "charttime")):
        rows = simulated.tables[table].join(dod, on="subject_id")
        assert (rows[when].dt.date() <= rows["dod"]).all()
    last = simulated.tables["admissions"].group_by("subject_id").agg(pl.col("dischtime").max())
    joined = dod.join(last, on="subject_id")
    kept = (joined["dod"] - joined["dischtime"].dt.date()).dt.total_days()
    assert kept.is_between(0, 366).all()


def test_code_versions_follow_the_calendar_and_mix_within_patients(simulated):
    codes = simulated.tables["diagnoses_icd"]
    versions = codes.group_by("subject_id").agg(pl.col("icd_version").n_unique())["icd_version"]
    assert (versions == 2).sum() > 20
    stays = codes.group_by("hadm_id").agg(pl.col("icd_version").n_unique())["icd_version"]
    assert (stays == 1).all()
    known = simulated.tables["d_icd_diagnoses"].select("icd_code", "icd_version")
    assert codes.join(known, on=["icd_code", "icd_version"], how="anti").is_empty()
    assert codes["icd_code"].str.contains(r"^0").any()


def test_shifted_dates_lie_in_the_22nd_century(simulated):
    years = simulated.tables["admissions"]["admittime"].dt.year()
    assert years.is_between(2110, 2210).all()


def test_before_discharge_nothing_but_the_risk_tells_the_outcome(simulated, cohort):
    """Given the true probability, counts that have no part in it are the same in both outcomes."""
    joined = cohort.merge(simulated.risks, on=["subject_id", "hadm_id"])
    residual = (joined["target"] - joined["true_probability"]).to_numpy()
    labs = simulated.tables["labevents"].join(
        pl.from_pandas(cohort[["subject_id", "dischtime"]]), on="subject_id"
    )
    before = labs.filter(pl.col("charttime") <= pl.col("dischtime"))
    counts = before.group_by("subject_id").len().to_pandas().set_index("subject_id")["len"]
    drugs = simulated.tables["prescriptions"]["hadm_id"].value_counts().to_pandas()
    drugs = drugs.set_index("hadm_id")["count"]
    values = {
        "labs": counts.reindex(joined["subject_id"]).fillna(0).to_numpy(),
        "drugs": drugs.reindex(joined["hadm_id"]).fillna(0).to_numpy(),
        "stay": (joined["dischtime"] - joined["admittime"]).dt.total_seconds().to_numpy(),
        "hadm_id": joined["hadm_id"].to_numpy(),
    }
    for name, value in values.items():
        correlation = np.corrcoef(residual, value)[0, 1]
        assert abs(correlation) < 3.5 / np.sqrt(len(joined)), name


def test_logit_by_hand():
    centre = {name: np.array([term.centre]) for name, term in TERMS.items()}
    low = compute_logit(centre | {"albumin": np.array([3.1])}) - compute_logit(centre)
    assert low == pytest.approx(-TERMS["albumin"].weight)
    lower = compute_logit(centre | {"albumin": np.array([1.0])}) - compute_logit(centre)
    assert lower == pytest.approx(-1.25 * TERMS["albumin"].weight)


def test_the_catalogue_is_consistent():
    assert len({lab.itemid for lab in LABS}) == len(LABS)
    uses = {drug.use for drug in DRUGS}
    made = {c.name for c in CONDITIONS} | {
        "anyone", "prophylaxis", "chemotherapy", "endocrine", "her2", "g_csf",
        "bisphosphonates", "antiemetics", "opioids", "anticoagulants", "antibiotics", "steroids",
    }  # fmt: skip
    assert uses <= made


@pytest.mark.real
def test_items_and_drugs_carry_the_demos_labels(real_data):
    demo = read_rows(real_data / "mimic-iv-demo-2.2", "d_labitems", ["itemid", "label", "category"])
    labels = dict(zip(demo["itemid"], demo.select("label", "category").rows(), strict=True))
    assert {lab.itemid: (lab.label, lab.category) for lab in LABS} == {
        lab.itemid: labels[lab.itemid] for lab in LABS
    }
