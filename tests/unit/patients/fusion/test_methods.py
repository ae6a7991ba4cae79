import numpy as np
import pytest
from drawn_patients import ENCODING, FUSIONS, METHODS, draw_bags, make_params

from histofuse.core.auroc import compute_auroc
from histofuse.core.bundle import open_bundle
from histofuse.patients.rows import VIEWS
from histofuse.patients.train import (
    PatientCohort,
    load_patient_model,
    train_method,
    train_patients,
)
from histofuse.training.recorder import Recorder


@pytest.fixture(scope="module")
def bags():
    return draw_bags(400)


@pytest.fixture(scope="module")
def trained(bags):
    """Each method, fitted once."""
    kept = {}

    def get(name):
        if name not in kept:
            kept[name] = train_method(bags, make_params(name), ENCODING, 1, Recorder())
        return kept[name]

    return get


def measure(trained, bags, view):
    test = bags.split == "test"
    return compute_auroc(trained.logits[view][test], bags.outcome[test])


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_beats_the_better_side(name, trained, bags):
    alone = max(measure(trained(side), bags, "both") for side in ("image", "record"))

    assert measure(trained(name), bags, "both") > alone + 0.03


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("side", ["image", "record"])
def test_one_side_is_answered_as_by_a_model_of_that_side(name, side, trained, bags):
    alone = measure(trained(side), bags, side)
    behind = 0.1 if "epochs" in METHODS[name] else 1e-9  # a network is one for all sides

    assert measure(trained(name), bags, side) > alone - behind


@pytest.mark.parametrize("name", METHODS)
def test_a_bundle_answers_as_the_model_that_wrote_it(name, bags, tmp_path):
    cohort = PatientCohort(
        bags, "death", "simulated", {"bags": "00"}, {"name": "resnet18"}, "simulated"
    )
    path = tmp_path / "models" / f"patient_{name}"
    params = make_params(name, **({"epochs": 2} if "epochs" in METHODS[name] else {}))
    written = train_patients(cohort, params, ENCODING, 1, Recorder(), path)

    model = load_patient_model(open_bundle(path))

    for view in VIEWS:
        np.testing.assert_allclose(
            model.logits(written.rows.show(view)), written.logits[view], rtol=1e-5, atol=1e-6
        )
