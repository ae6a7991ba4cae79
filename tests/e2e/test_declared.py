"""The whole pipeline on a declared table of patients, whose tissue a crosswalk names."""

import json

import numpy as np
import pandas as pd
import pytest
from declared_records import write_declared
from project import copy_sources

pytestmark = pytest.mark.e2e


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
    project.set_params(
        small
        | {
            "data.records": {"kind": "table", "path": "records"},
            "data.crosswalk": "linked.csv",
            "pairing": {"linked": {"rule": "linked"}} | project.get_param("pairing"),
        }
    )
    project.repro("simulate_brecahad")
    frames = (project.root / "data/simulated/brecahad/images").glob("*.tif")
    cases = sorted({frame.stem.rsplit("-", 1)[0] for frame in frames})
    known = table[(table["months"] >= 24) | (table["status"] == "1:RELAPSED")]
    links = pd.DataFrame({"case_id": cases, "subject_id": known["patient"].head(len(cases))})
    links.to_csv(project.root / "linked.csv", index=False)
    project.repro("publish", "report")
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


def test_models_of_the_table_learn(project):
    metrics = json.loads((project.root / "reports/metrics.json").read_text())["models"]
    assert metrics["logistic_regression"]["test/auroc/relapse_2y"] > 0.6


def test_doctor_counts_partners_and_the_report_names_the_table(project):
    said = project.run("histofuse", "doctor", check=False).stdout
    assert "12 of 12 cases have a patient of the cohort" in said
    page = (project.root / "reports/index.html").read_text()
    assert "Declared table" in page
