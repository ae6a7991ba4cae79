"""Tests of SHAP values: do they add up, is their ranking stable, do two explainers agree?"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from histofuse.core.seeding import derive_seed
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import Score, correlate_ranks, estimate_means, load_measures

TOP: Final = 10
MEASURES: Final = load_measures(Path(__file__).with_name("measures.json"))
Values = Float[np.ndarray, "n variables"]


def measure_stability(values: Values, bootstrap: Bootstrap) -> dict[str, Score]:
    """Measure how stable the ranking by mean |SHAP| is when rows (patients) are resampled."""
    n, variables = values.shape
    if n < 2 or variables < 2:
        note = "fewer than two rows or variables: nothing to rank"
        nothing = Score(None, None, None, n, n, note)
        return {"rank_stability": nothing, "top_10_overlap": nothing}
    whole = np.abs(values).mean(axis=0)
    drawn = np.concatenate(list(bootstrap.draw_weights(n))) @ np.abs(values) / n
    top = min(TOP, variables)
    leaders = np.argsort(-whole, kind="stable")[:top]
    first = np.argsort(-drawn, axis=1, kind="stable")[:, :top]
    scores = {
        "rank_stability": correlate_ranks(drawn, np.broadcast_to(whole, drawn.shape)),
        "top_10_overlap": np.isin(first, leaders).mean(axis=1),
    }
    return {name: _summarise(s, bootstrap.params.confidence, n) for name, s in scores.items()}


def _summarise(resamples: Float[np.ndarray, " b"], confidence: float, n: int) -> Score:
    """Compute the mean over resamples, and the central range that contains this share of them."""
    low, high = np.quantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Score(float(resamples.mean()), low, high, n, n)


def explain_by_kernel(
    logits: Callable[[np.ndarray], np.ndarray],
    rows: Float[np.ndarray, "n features"],
    background: Float[np.ndarray, "m features"],
    seed: int,
) -> Float[np.ndarray, "n features"]:
    """Explain rows by KernelSHAP, which only needs the model's answers.

    Source: Lundberg and Lee, NeurIPS 2017, by the package shap, without selecting features.
    """
    import shap

    with drawing_repeatably(derive_seed(seed, "explain", "kernel")):
        explainer = shap.KernelExplainer(logits, background)
        return np.asarray(explainer.shap_values(rows, l1_reg=0, silent=True))


@contextmanager
def drawing_repeatably(seed: int) -> Iterator[None]:
    """Seed the global generator, from which shap draws, and leave it as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def compare_with_kernel(values: Values, kernel: Values, bootstrap: Bootstrap) -> dict[str, Score]:
    """Compare a fast explainer with KernelSHAP, row by row, by variable."""
    largest = float(np.abs(values - kernel).max())
    correlation = {"kernel_shap_rank_correlation": correlate_ranks(values, kernel)}
    return {
        "kernel_shap_max_abs_difference": estimate_maximum(largest, len(values)),
        **estimate_means(correlation, np.arange(len(values)), bootstrap, "patients"),
    }


def estimate_maximum(value: float, n: int) -> Score:
    """Make the estimate of a maximum over rows."""
    return Score(value, None, None, n, n, "a maximum has no interval")
