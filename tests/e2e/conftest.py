"""The project, small and simulated, built once for all end-to-end tests."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from project import Project, copy_sources

HERE = Path(__file__).parent

# Fewer repetitions of the same work, on any data.
QUICK = {
    "intervals.resamples": 100,
    "tune.xgboost.trials": 3,
    "tune.fusion.trials": 2,
    "explain.gradcam_per_class": 1,
    "explain.shap_samples": 20,
    "explain.shap_background": 20,
    "explain.faithfulness_per_class": 2,
    "explain.maps.steps": 2,
    "explain.maps.per_class": 2,
    "explain.maps.masks": 4,
    "explain.maps.random_heads": 1,
    "explain.kernel_shap_rows": 2,
    "controls.repeats": 3,
    "positive_control.shuffles": 1,
}
# Small enough for minutes on two cores, large enough that every split holds every class.
SMALL = QUICK | {
    "simulation.brecahad.cases": 12,
    "simulation.brecahad.frames_per_case": 1,
    "simulation.brecahad.width_px": 512,
    "simulation.brecahad.height_px": 384,
    "simulation.brecahad.nuclei_per_frame": 30,
    "simulation.brecahad.mitosis_fraction": 0.12,
    "simulation.mimiciv.patients": 500,
    "simulation.linked.patients": 100,
    "simulation.linked.nuclei_per_patient": 4,
    "patches.shard_patches": 100,
    "splits.images.folds": 3,
    "image.simple_cnn.epochs": 2,
    "image.resnet18.epochs": 3,
    "image.resnet18.frozen_epochs": 1,
    "tabular.mlp.epochs": 5,
    "tabular.xgboost.rounds": 100,
    "tabular.gradient_boosting.rounds": 20,
    "detector.steps": 10,
    "detector.crop_px": 96,
    "detector.batch_size": 4,
    "fusion.epochs": 3,
    "crossval.folds": 2,
    "crossval.image_models": ["resnet18"],
    "crossval.tabular_models": ["mlp"],
    "crossval.rules": ["label_blind"],
    "crossval.patient_models": ["image", "record", "early_logistic"],
}


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Values of params.yaml that repeat less."""
    return QUICK


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Values of params.yaml for a small run."""
    return SMALL


# The longest first, and beside it one that needs no `built`, for another process to begin with.
ORDER = ("test_simulated", "test_real", "test_best_achievable", "test_pretrained", "test_serving")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, end-to-end tests before all others."""

    def rank(item: pytest.Item) -> int:
        if item.path.parent != HERE:
            return len(ORDER) + 1
        return ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Project:
    """The project after one ``dvc repro``; tests copy it and leave it as it is.

    Test processes that run side by side share it: it takes minutes to make.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root = shared / "built" / "histofuse"
    with FileLock(shared / "built.lock"):
        if not (shared / "built.done").exists():
            root.parent.mkdir()
            project = copy_sources(root)
            project.set_params(SMALL)
            project.repro()
            project.commit("Run")
            (shared / "built.done").touch()
    return Project(root)


@pytest.fixture
def project(built, tmp_path) -> Project:
    """A copy of the built project that a test may do anything to."""
    shutil.copytree(built.root, tmp_path / "histofuse", symlinks=True)
    return Project(tmp_path / "histofuse")
