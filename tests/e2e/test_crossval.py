"""Cross-validation as a user runs it: by one worker or two, killed on the way, run again."""

import json
import shutil

import pytest

from histofuse.core.artifacts import digest_folder

pytestmark = pytest.mark.e2e

TARGET = "evidence/dvc.yaml:crossval"


@pytest.fixture
def project(project):
    """The project once evidence was asked for, as by `make crossval`."""
    shutil.copy(project.root / "evidence/stages.yaml", project.root / "evidence/dvc.yaml")
    return project


def list_folds(project):
    """List the folds of which nothing is left to run: patients come last."""
    done = project.root.glob(".histofuse/crossval/*/fold_?/patients")
    return sorted(path.parent.name for path in done)


def test_workers_change_no_bit_and_a_killed_run_keeps_its_folds(project):
    project.set_params({"crossval.workers": 1})
    project.kill_when(lambda: list_folds(project) == ["fold_0"], "dvc", "repro", TARGET)

    said = project.run("dvc", "repro", "--verbose", TARGET).stderr

    assert "fold 1 of 2 is there" in said
    assert "fold 2 of 2 in " in said
    by_one = digest_folder(project.root / "evidence/crossval")
    shutil.rmtree(project.root / ".histofuse/crossval")
    project.set_params({"crossval.workers": 2})
    project.run("dvc", "repro", TARGET)
    assert digest_folder(project.root / "evidence/crossval") == by_one

    found = json.loads((project.root / "evidence/crossval/crossval.json").read_text())
    tested = [case for fold in found["folds"] for case in fold["cases"]["test"]]
    assert len(tested) == len(set(tested)) == project.get_param("simulation.brecahad.cases")
    at_patient_level = found["at_patient_level"]
    assert at_patient_level["patients"] == project.get_param("simulation.linked.patients")
    asked = {f"patient_{name}" for name in project.get_param("crossval.patient_models")}
    assert set(at_patient_level["methods"]) == asked
    assert set(project.repro("--dry")) == {"model_names", "report", "publish"}


def test_the_papers_protocol_stands_beside_an_honest_one(project):
    project.run("dvc", "repro", "evidence/dvc.yaml:protocol")

    found = json.loads((project.root / "evidence/protocol/protocol.json").read_text())["models"]
    for model in found.values():
        leaky, honest = (model[arm] for arm in ("paper_protocol", "honest"))
        assert leaky["leaky"]
        assert not honest["leaky"]
        assert min(leaky["shares_pixels_with_training"].values()) > 0.2
        assert max(honest["shares_pixels_with_training"].values()) == 0
