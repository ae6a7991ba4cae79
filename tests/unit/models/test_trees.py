"""Trees taken out of scikit-learn predict what scikit-learn predicts."""

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from histofuse.models.trees import extract_trees, load_trees, write_trees


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    # A coarse grid, so that values fall on thresholds.
    x = (rng.normal(size=(500, 6)) * 4).round().astype(np.float32) / 4
    target = (x[:, 0] * x[:, 1] + rng.normal(size=500) > 0.5).astype(int)
    model = GradientBoostingClassifier(
        n_estimators=60, max_depth=4, learning_rate=0.1, subsample=0.7, random_state=1
    )
    return model.fit(x, target), x


def test_logits_equal_the_decision_function(fitted):
    model, x = fitted
    unseen = np.random.default_rng(1).normal(size=(5000, 6)).astype(np.float32) * 2
    trees = extract_trees(model)
    for rows in (x, unseen):
        np.testing.assert_allclose(
            trees.predict_logits(rows), model.decision_function(rows), rtol=0, atol=1e-10
        )


def test_stages_equal_the_staged_decision_function(fitted):
    model, x = fitted
    staged = np.column_stack([s.ravel() for s in model.staged_decision_function(x[:50])])
    np.testing.assert_allclose(extract_trees(model).predict_stages(x[:50]), staged, atol=1e-10)


def test_a_file_brings_the_same_logits_back(fitted, tmp_path):
    model, x = fitted
    trees = extract_trees(model)
    write_trees(trees, tmp_path / "trees.safetensors")
    again = load_trees(tmp_path / "trees.safetensors")
    np.testing.assert_array_equal(again.predict_logits(x), trees.predict_logits(x))


def test_no_rows_give_no_logits(fitted):
    model, x = fitted
    assert extract_trees(model).predict_logits(x[:0]).shape == (0,)
