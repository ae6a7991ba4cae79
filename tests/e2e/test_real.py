"""The whole pipeline on the real frames and the open MIMIC-IV demo."""

import json

import pandas as pd
import pytest
from project import copy_sources

pytestmark = [pytest.mark.e2e, pytest.mark.real]

# The demo holds one breast cancer patient, so the cohort is everyone, and few deaths.
REAL = {
    "cohort.icd9": [],
    "cohort.icd10": [],
    "cohort.target": "in_hospital_mortality",
    "cohort.index_admission": "all",
    "splits.images.unit": "frame",
    "splits.images.validation_unit": "frame",
    # Enough to learn something; how well they can do is for a benchmark.
    "image.simple_cnn.epochs": 3,
    "image.resnet18.epochs": 5,
}


@pytest.fixture(scope="module")
def real_project(real_data, quick, tmp_path_factory):
    project = copy_sources(tmp_path_factory.mktemp("real") / "histofuse")
    project.set_params(
        REAL
        | quick
        | {
            "data.brecahad": str(real_data / "brecahad"),
            "data.images_restricted": False,
            "data.records.path": str(real_data / "mimic-iv-demo-2.2"),
        }
    )
    ran = project.repro("publish", "report")
    # The positive control is of simulated patients whatever the data.
    assert {stage for stage in ran if stage.startswith("simulate")} == {"simulate_linked"}
    return project


def test_frames_of_the_three_classes_are_counted(real_project):
    annotations = pd.read_parquet(real_project.root / "data/annotations/annotations.parquet")
    counts = annotations["label"].value_counts().to_dict()
    assert counts == {"mitosis": 59, "tumour": 2927, "non_tumour": 287}


def test_image_models_learn_and_nothing_is_too_good(real_project):
    metrics = json.loads((real_project.root / "reports/metrics.json").read_text())["models"]
    resnet = metrics["resnet18"]
    assert 0.75 < resnet["test/auroc/tumour"] < 0.98
    assert resnet["test/f1/macro"] > 1 / 3


def test_deaths_are_told_better_than_by_chance(real_project):
    """By cross-validation: the test split of the demo holds a single death."""
    config = json.loads((real_project.root / "models/xgboost/config.json").read_text())
    assert 0.55 < config["cross_validation"]["auroc"]["mean"] < 0.98


def test_nothing_calls_real_data_simulated(real_project):
    for table in (real_project.root / "reports/tables").glob("*.md"):
        assert "simulated" not in table.read_text().lower()
