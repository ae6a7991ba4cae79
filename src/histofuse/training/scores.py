"""The few scores training watches; the full evaluation has its own."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

from histofuse.core.auroc import compute_auroc


def score_logits(
    logits: Float[np.ndarray, " n"], target: Shaped[np.ndarray, " n"]
) -> dict[str, float]:
    """Score binary logits against a target of 0 and 1.

    Returns:
        ``loss`` (mean negative log-likelihood), ``accuracy`` and ``macro_f1`` at probability 0.5,
        and ``auroc``; NaN where not defined: all on no rows, auroc where a class is absent.
    """
    logits, target = logits.astype(np.float64), target.astype(bool)
    if not len(target):
        return dict.fromkeys(("loss", "accuracy", "macro_f1", "auroc"), np.nan)
    called = logits >= 0
    return {
        "loss": float((np.logaddexp(0, logits) - target * logits).mean()),
        "accuracy": float((called == target).mean()),
        "macro_f1": (_compute_f1(called, target) + _compute_f1(~called, ~target)) / 2,
        "auroc": compute_auroc(logits, target),
    }


def _compute_f1(called: np.ndarray, true: np.ndarray) -> float:
    total = int(called.sum()) + int(true.sum())
    return 2 * int((called & true).sum()) / total if total else 0.0
