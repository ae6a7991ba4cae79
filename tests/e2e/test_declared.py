"""The whole pipeline on a declared table of patients, whose tissue a crosswalk names.

Models at patient level are trained and measured on these patients.
"""

import json

import numpy as np
import pandas as pd
import pytest
from declared_records import write_declared
from project import copy_sources

pytestmark = pytest.mark.e2e

# Whose scores are asserted, and what fusion is made of; other tests train the rest.
MODELS = ("logistic_regression", "mlp")
# Ends of the pipeline that read records.
OF_RECORDS = (
    *("evaluate", "evaluate_patients", "assess", "alarms", "controls", "positive_control"),
    *("explain_tabular", "explain_fusion"),
)


def make_table(patients=400):
    """Patients whose relapse depends on age and grade; a third is lost to follow-up."""
    rng = np.random.default_rng(7)
    age, grade = rng.integers(30, 90, patients), rng.choice(["low", "high"], patients)
    rate = np.exp(-4.2 + 0.03 * (age - 60) + 1.2 * (grade == "high"))
    relapse, lost = rng.exponential(1 / rate), rng.uniform(6, 80, patients)
    columns = {
        "patient": [f"PT-{n:03d}" for n in range(patients)],
        "age": age,
        "grade": grade,
        "therapy": rng.choice(["None", "Yes"], patients),
        "died": "",
        "remarks": "",
        "months": np.minimum(relapse, lost).round(2),
        "status": np.where(relapse <= lost, "1:RELAPSED", "0:FREE"),
    }
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def project(small, tmp_path_factory):
    project = copy_sources(tmp_path_factory.mktemp("declared") / "histofuse")
    table = make_table()
    write_declared(project.root / "records", table.to_csv(index=False))
    project.set_params(small)
    project.set_params(
        {
            "data.records": {"kind": "table", "path": "records"},
            "data.crosswalk": "linked.csv",
            "patient_cohort": "crosswalk",
            "encoding.fewest_patients": 3,
            "simulation.brecahad.cases": 37,
            "pairing": {name: {"rule": name} for name in ("linked", "permuted")},
            "evaluation.primary_rule": "linked",
            "crossval.rules": ["linked"],
            "tabular": {name: project.get_param(f"tabular.{name}") for name in MODELS},
            "explain.shap_models": ["mlp"],
            "studies": {kind: [] for kind in project.get_param("studies")},
        }
    )
    project.set_image_model("simple_cnn", project.get_param("image.simple_cnn"))
    project.set_params({"tune": {}})
    project.repro("simulate_brecahad")
    frames = (project.root / "data/simulated/brecahad/images").glob("*.tif")
    cases = sorted({frame.stem.rsplit("-", 1)[0] for frame in frames})
    relapsed = (table["months"] < 24) & (table["status"] == "1:RELAPSED")
    ids = [table.loc[rows, "patient"] for rows in (relapsed, table["months"] >= 24)]
    known = [patient for pair in zip(*ids, strict=False) for patient in pair]
    # The first patient has two cases; the last case has no patient.
    links = pd.DataFrame(
        {"case_id": cases[:-1], "subject_id": [known[0], *known][: len(cases) - 1]}
    )
    links.to_csv(project.root / "linked.csv", index=False)
    project.repro(*OF_RECORDS)
    project.run("histofuse", "report")
    project.run("histofuse", "publish")
    return project


def test_nothing_of_mimiciv_is_needed_or_made(project):
    assert not (project.root / "data/simulated/mimiciv").exists()
    meta = json.loads((project.root / "data/cohort/meta.json").read_text())
    assert meta["target"] == "relapse_2y"
    assert meta["censored_before_horizon"] == 400 - meta["patients"] > 0


def test_each_nucleus_has_the_record_of_its_own_patient(project):
    pairs = pd.read_parquet(project.root / "data/pairs/linked.parquet")
    cohort = pd.read_parquet(project.root / "data/cohort/cohort.parquet")
    links = pd.read_csv(project.root / "linked.csv").set_index("case_id")["subject_id"]
    names = cohort.set_index("subject_id")["patient_id"]
    assert (pairs["subject_id"].map(names) == pairs["case_id"].map(links)).all()
    assert (project.root / "models/fusion_linked/manifest.json").is_file()


def test_models_at_patient_level_are_of_the_linked_patients(project):
    bags = pd.read_parquet(project.root / "data/linked/nuclei.parquet")["patient_id"].unique()
    links = pd.read_csv(project.root / "linked.csv")
    assert sorted(bags) == sorted(links["subject_id"].unique())
    config = json.loads(
        (project.root / "models/patients/patient_late_mean/config.json").read_text()
    )
    assert (config["focus_class"], config["cohort"]) == ("relapse_2y", "crosswalk")
    control = json.loads(
        (project.root / "reports/positive_control/positive_control.json").read_text()
    )
    assert control["own"]["partners"].startswith(
        "36 of 37 cases have a patient of the cohort, 35 of"
    )
    page = (project.root / "reports/index.html").read_text()
    assert "Do tissue and record of one patient tell more than either?" in page


def test_a_patient_is_answered_from_all_cases(project):
    features = pd.read_parquet(project.root / "data/ehr/features.parquet")
    ids = pd.read_parquet(project.root / "data/cohort/cohort.parquet")
    names = ids.set_index("subject_id")["patient_id"]
    features.assign(subject_id=features["subject_id"].map(names)).drop(
        columns="hadm_id"
    ).to_parquet(project.root / "patients.parquet")
    model = "models:/histofuse-patient-early-logistic/1"
    project.run(
        *("histofuse", "predict", "data/simulated/brecahad", "--patients", "patients.parquet"),
        *("--crosswalk", "linked.csv", "--model", model, "--out", "answers.csv"),
    )
    answers = pd.read_csv(project.root / "answers.csv")
    stored = pd.read_parquet(
        project.root / "models/patients/patient_early_logistic/predictions.parquet"
    )
    joined = answers.merge(stored, left_on="subject_id", right_on="patient_id")
    assert len(joined) == 36
    np.testing.assert_allclose(joined["probability_relapse_2y"], joined["probability"], atol=1e-5)


def test_models_of_the_table_learn(project):
    metrics = json.loads((project.root / "reports/metrics.json").read_text())["models"]
    assert metrics["logistic_regression"]["test/auroc/relapse_2y"] > 0.6


def test_doctor_counts_partners_and_the_report_names_the_table(project):
    said = project.run("histofuse", "doctor", check=False).stdout
    assert "36 of 37 cases have a patient of the cohort" in said
    page = (project.root / "reports/index.html").read_text()
    assert "Declared table" in page
