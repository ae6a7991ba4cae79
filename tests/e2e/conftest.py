"""The project, small and simulated, built once for all end-to-end tests."""

import shutil
from typing import Any

import pytest
from project import Project, copy_sources

# Small enough for minutes on two cores, large enough that every split holds every class.
SMALL = {
    "simulation.brecahad.cases": 6,
    "simulation.brecahad.frames_per_case": 2,
    "simulation.brecahad.width_px": 512,
    "simulation.brecahad.height_px": 384,
    "simulation.brecahad.nuclei_per_frame": 30,
    "simulation.brecahad.mitosis_fraction": 0.12,
    "simulation.mimiciv.patients": 500,
    "patches.shard_patches": 100,
    "splits.images.folds": 3,
    "image.simple_cnn.epochs": 2,
    "image.resnet18.epochs": 3,
    "image.resnet18.frozen_epochs": 1,
    "tabular.mlp.epochs": 5,
    "tabular.xgboost.rounds": 100,
    "tabular.gradient_boosting.rounds": 20,
    "fusion.epochs": 3,
    "tune.xgboost.trials": 3,
    "tune.fusion.trials": 2,
    "explain.gradcam_per_class": 2,
    "explain.shap_samples": 20,
    "explain.shap_background": 20,
    "explain.faithfulness_per_class": 4,
    "explain.faithfulness_steps": 3,
    "explain.kernel_shap_rows": 2,
    "controls.repeats": 3,
    "crossval.folds": 3,
    "crossval.image_models": ["resnet18"],
    "crossval.tabular_models": ["mlp", "xgboost"],
}


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Values of params.yaml for a small run."""
    return SMALL


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Project:
    """The project after one ``dvc repro``; tests copy it and leave it as it is."""
    project = copy_sources(tmp_path_factory.mktemp("built") / "histofuse")
    project.set_params(SMALL)
    project.repro()
    project.commit("Run")
    return project


@pytest.fixture
def project(built, tmp_path) -> Project:
    """A copy of the built project that a test may do anything to."""
    shutil.copytree(built.root, tmp_path / "histofuse", symlinks=True)
    return Project(tmp_path / "histofuse")
