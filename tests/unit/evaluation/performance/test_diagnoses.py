"""A model without the diagnoses that are billed after the discharge, on a small project."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.diagnoses import (
    BOTH,
    DIFFERENCE,
    PRIOR,
    compare_diagnoses,
    refit_model,
)
from histofuse.evaluation.performance.results import evaluate_model
from histofuse.evaluation.performance.tables import make_diagnoses_table
from histofuse.evaluation.predictions import load_predictions
from histofuse.params.intervals import IntervalParams
from histofuse.training.tabular import load_table

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=100, confidence=0.95, method="percentile", fewest_groups=2), 1
)


@pytest.fixture
def model(small_project):
    return load_predictions(Path("models/mlp"))


def load_encoded(tmp_path, **changes):
    """The encoded table with other values in some columns, in another order of rows."""
    folder = tmp_path / "prior"
    folder.mkdir()
    for file in Path("data/encoded").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    table = pd.read_parquet(folder / "imputed.parquet").assign(**changes)
    table.iloc[::-1].to_parquet(folder / "imputed.parquet")
    return load_table(folder, Path("data/cohort/meta.json"), "mlp")


def test_a_refit_on_the_same_features_is_the_model(model):
    again = refit_model(
        model, load_table(Path("data/encoded"), Path("data/cohort/meta.json"), "mlp")
    )
    np.testing.assert_allclose(again.probabilities, model.probabilities, atol=1e-6)
    assert again.keys.tolist() == model.keys.tolist()


def test_what_later_diagnoses_add_is_lost_without_them(model, tmp_path):
    prior = refit_model(model, load_encoded(tmp_path, metastatic=0.0))
    assert prior.keys.tolist() == model.keys.tolist()
    assert prior.labels.tolist() == model.labels.tolist()
    measured = compare_diagnoses(model, prior, "test", BOOTSTRAP)
    assert list(measured) == [BOTH, PRIOR, DIFFERENCE]
    auroc = {row: of["auroc/macro"].value for row, of in measured.items()}
    assert auroc[DIFFERENCE] == pytest.approx(auroc[PRIOR] - auroc[BOTH])
    assert auroc[DIFFERENCE] < -0.05


def test_the_table_says_what_it_means_at_the_bedside(model, context, measured):
    known = context()
    result = evaluate_model(model, known)
    _, _, intervals = measured([model], known)
    of = compare_diagnoses(model, model, "test", BOOTSTRAP)
    table = make_diagnoses_table(result, of, known, intervals)
    assert [row["model"] for row in table.rows] == [BOTH, PRIOR, DIFFERENCE]
    assert "at the bedside" in table.notes[0]
    assert table.caption.startswith("Table 2, MLP by what diagnoses are known")
