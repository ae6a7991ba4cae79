from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.patients import compare_methods, make_methods_table
from histofuse.evaluation.performance.tables import render_markdown
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalParams

PARAMS = IntervalParams(resamples=200, confidence=0.95, method="percentile", fewest_groups=10)
PATIENTS = 400


def make_predictions(name, scores, labels, parameters):
    probability = 1 / (1 + np.exp(-scores))
    ids = np.array([f"P{i}" for i in range(PATIENTS)], dtype=object)
    config = {
        "kind": "patient",
        "classes": ["no_death", "death"],
        "focus_class": "death",
        "architecture": {"parameters": parameters},
    }
    return Predictions(
        name=name,
        config=config,
        history=pd.DataFrame(),
        keys=ids,
        split=np.resize(np.array(["test", "validation"], dtype=object), PATIENTS),
        labels=labels,
        probabilities=np.column_stack([1 - probability, probability]),
        predictions=(scores > 0).astype(np.int64),
        groups=ids,
        subjects=ids,
    )


@pytest.fixture(scope="module")
def models():
    """A strong record, a weak image; fusions that add them up, with and without noise."""
    rng = np.random.default_rng(1)
    image, record, noise = rng.normal(size=(3, PATIENTS))
    risk = image + 2 * record
    labels = (rng.uniform(size=PATIENTS) < 1 / (1 + np.exp(-2 * risk))).astype(np.int64)

    def make(name, both, parameters):
        scores = {"both": both, "image": image, "record": record}
        return {v: make_predictions(name, s, labels, parameters) for v, s in scores.items()}

    return {
        "patient_image": make("patient_image", image, 5),
        "patient_record": make("patient_record", record, 5),
        "patient_noisy": make("patient_noisy", risk + 5 * noise, 3),
        "patient_sum": make("patient_sum", risk, 10),
        "patient_large": make("patient_large", risk + 0.01 * noise, 1000),
    }


def test_gain_is_over_the_side_that_validation_ranks_better(models):
    comparison = compare_methods(models, "test", Bootstrap(PARAMS, 7))

    assert comparison.better_side == "patient_record"
    gain = comparison.methods["patient_sum"].gain
    alone = comparison.methods["patient_record"].views["record"].value
    assert gain.value == pytest.approx(
        comparison.methods["patient_sum"].views["both"].value - alone
    )
    assert gain.low > 0
    assert comparison.methods["patient_record"].gain is None


def test_one_side_is_compared_with_the_model_of_that_side(models):
    behind = compare_methods(models, "test", Bootstrap(PARAMS, 7)).methods["patient_sum"].behind

    assert behind["image"].value == 0
    assert behind["record"].value == 0


def test_the_default_is_the_simplest_that_none_beats(models):
    comparison = compare_methods(models, "test", Bootstrap(PARAMS, 7))

    assert comparison.default == "patient_sum"


def test_only_test_patients_are_measured(models):
    def spoil(rows):
        spoilt = np.where(rows.split == "validation", 1 - rows.probabilities[:, 1], 0.0)
        kept = np.where(rows.split == "validation", spoilt, rows.probabilities[:, 1])
        return replace(rows, probabilities=np.column_stack([1 - kept, kept]))

    spoilt = models | {"patient_sum": {v: spoil(r) for v, r in models["patient_sum"].items()}}
    bootstrap = Bootstrap(PARAMS, 7)

    before = compare_methods(models, "test", bootstrap).methods["patient_sum"].views
    after = compare_methods(spoilt, "test", bootstrap).methods["patient_sum"].views
    assert {v: i.value for v, i in before.items()} == {v: i.value for v, i in after.items()}


def test_the_table_names_the_default(models):
    bootstrap = Bootstrap(PARAMS, 7)
    table = make_methods_table(compare_methods(models, "test", bootstrap), bootstrap, "test")

    text = render_markdown(table)

    assert "Default: Patients, sum, the simplest" in text
    assert "| Patients, record alone | – | – |" in text
