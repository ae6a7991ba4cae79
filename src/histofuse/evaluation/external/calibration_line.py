"""Calibration in the large and calibration slope, with intervals over cases or patients.

Source: Cox, Biometrika 1958;45; Van Calster et al., J Clin Epidemiol 2016;74.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logit

from histofuse.evaluation.metrics.bootstrap import ClusterBootstrap, Interval
from histofuse.evaluation.metrics.classification import Events, Scores
from histofuse.evaluation.metrics.weighted import PerWeighting, Weights

_STEPS: Final = 30
_FARTHEST: Final = 50.0  # a coefficient beyond: the rows are separated, nothing is defined
_CELLS: Final = 4_000_000  # of the matrices of one block of resamples
_CLIP: Final = 1e-6


def measure_line(
    probability: Scores, happened: Events, bootstrap: ClusterBootstrap
) -> dict[str, Interval]:
    """Fit the log-odds that are true to those predicted.

    Returns ``in_the_large``: the intercept where the slope is held at 1; above 0, events are more
    common than predicted. ``slope``: below 1, predictions are too extreme.
    """
    x = logit(np.clip(probability, _CLIP, 1 - _CLIP))
    y, number = happened.astype(np.float64), bootstrap.clusters.number
    block = max(1, _CELLS // max(1, len(x)))

    def measure(weights: Weights) -> dict[str, PerWeighting]:
        parts = [weights[i : i + block][:, number] for i in range(0, len(weights), block)]
        fits = [(_fit(x, y, w, slope=False)[:, 0], _fit(x, y, w, slope=True)[:, 1]) for w in parts]
        large, slopes = (np.concatenate(side) for side in zip(*fits, strict=True))
        return {"in_the_large": large, "slope": slopes}

    return bootstrap.estimate_weighted(measure)


def _fit(
    x: Scores, y: Scores, weights: Int[np.ndarray, "w n"], *, slope: bool
) -> Float[np.ndarray, "w 2"]:
    """Fit intercept and slope by Newton's method, for each weighting; NaN where undefined."""
    w = weights.astype(np.float64)
    line = np.tile([0.0, 1.0], (len(w), 1))
    for _ in range(_STEPS):
        p = expit(line[:, :1] + line[:, 1:] * x)
        wrong, curve = w * (y - p), w * p * (1 - p)
        g0, g1 = wrong.sum(axis=1), wrong @ x
        h00, h01, h11 = curve.sum(axis=1), curve @ x, curve @ (x * x)
        with np.errstate(invalid="ignore", divide="ignore"):
            if slope:
                det = h00 * h11 - h01 * h01
                step = np.column_stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / det[:, None]
            else:
                step = np.column_stack([g0 / h00, np.zeros(len(w))])
        line = np.clip(line + step, -2 * _FARTHEST, 2 * _FARTHEST)
        if np.nanmax(np.abs(step), initial=0.0) < 1e-8:
            break
    return np.where(np.abs(line).max(axis=1, keepdims=True) < _FARTHEST, line, np.nan)
