"""SHAP values compared with KernelSHAP and brute force, and the stability of their ranking."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import correlate_ranks
from histofuse.explain.shap_values.attributions import compute_attributions
from histofuse.explain.shap_values.faithfulness import (
    compare_with_kernel,
    explain_by_kernel,
    measure_stability,
)
from histofuse.models.mlp import Mlp
from histofuse.models.tabular import MlpModel
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=300, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)
FEATURES = [f"f{i}" for i in range(6)]


def make_rows(n, seed):
    values = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    return pd.DataFrame(values, columns=FEATURES)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = Mlp(6, [16, 8], 1, dropout=0.0)
    network.train()
    for _ in range(5):
        network(torch.randn(64, 6))
    return MlpModel(FEATURES, network.eval().requires_grad_(False))


def test_deepshap_of_a_small_network_agrees_with_kernelshap(model):
    rows, background = make_rows(6, 1), make_rows(20, 2)
    fast = compute_attributions(model, rows, background)
    kernel = explain_by_kernel(model.logits, rows.to_numpy(), background.to_numpy(), 3)
    np.testing.assert_allclose(kernel.sum(axis=1) + fast.base, fast.logits, atol=1e-4)
    found = compare_with_kernel(fast.values, kernel, BOOTSTRAP)
    difference = found["kernel_shap_max_abs_difference"].value
    assert difference == pytest.approx(np.abs(fast.values - kernel).max())
    assert difference < 0.35 * np.ptp(kernel)
    assert found["kernel_shap_rank_correlation"].value > 0.8
    # Values of another row are no explanation, and the measure shows it.
    wrong = compare_with_kernel(np.roll(fast.values, 3, axis=1), kernel, BOOTSTRAP)
    assert wrong["kernel_shap_rank_correlation"].value < 0.5


def test_kernelshap_is_reproducible_and_keeps_the_global_random_state(model):
    rows, background = make_rows(2, 1).to_numpy(), make_rows(8, 2).to_numpy()
    np.random.seed(0)
    first = explain_by_kernel(model.logits, rows, background, 3)
    after = np.random.random()
    np.random.seed(0)
    assert after == np.random.random()
    np.testing.assert_array_equal(first, explain_by_kernel(model.logits, rows, background, 3))


def test_rank_correlation_is_that_of_scipy():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 7))
    for row, found in enumerate(correlate_ranks(a, b)):
        assert found == pytest.approx(spearmanr(a[row], b[row])[0])


def test_a_ranking_that_depends_on_few_rows_is_less_stable():
    rng = np.random.default_rng(0)
    steady = rng.normal(size=(200, 20)) * np.linspace(1, 3, 20)
    fickle = np.where(rng.random((200, 20)) < 0.01, rng.normal(size=(200, 20)) * 50, 0.01)
    sure, unsure = (measure_stability(v, BOOTSTRAP) for v in (steady, fickle))
    assert sure["rank_stability"].value > 0.95
    assert unsure["rank_stability"].value < sure["rank_stability"].low
    assert unsure["top_10_overlap"].value < sure["top_10_overlap"].value
    assert sure["top_10_overlap"].low <= sure["top_10_overlap"].value <= 1


def test_one_row_has_no_stability_but_a_note():
    found = measure_stability(np.ones((1, 4)), BOOTSTRAP)["rank_stability"]
    assert found.value is None
    assert "nothing to rank" in found.note
