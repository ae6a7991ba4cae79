"""Fusion against the image model it is built on.

The image encoder is frozen, so whatever the fusion model does better or worse comes from the health
record, from another head on the same embedding, or from leakage. The pairing rule says which of
these are possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histofuse.core.naming import name_pairing
from histofuse.evaluation.performance.results import Context, Result, is_primary

# Source: paper, Figure 7 (five standard metrics side by side), the one that says least put last.
HEADLINE = {
    "auroc/macro": "ROC-AUC",
    "f1/macro": "F1-Score",
    "recall/macro": "Recall",
    "precision/macro": "Precision",
    "accuracy": "Accuracy",
}


@dataclass(frozen=True)
class Comparison:
    """An image model and the fusion models on its embedding."""

    image: Result
    fused: tuple[Result, ...]  # the fusion models, that of the primary rule first


def compare_fusion(results: Sequence[Result], context: Context) -> Comparison | None:
    """Compare fusion models with their image encoder; None if either is missing."""
    fused = sorted(
        (r for r in results if r.model.kind == "fusion"), key=lambda r: not is_primary(r, context)
    )
    if not fused:
        return None
    encoder = fused[0].model.config["encoders"]["image"]["name"]
    image = next((r for r in results if r.name == encoder), None)
    return Comparison(image, tuple(fused)) if image else None


def describe_pairs(comparison: Comparison | None, context: Context) -> dict[str, Any]:
    """Render each fusion model's pairing; `describe_intervals` has its difference."""
    if comparison is None:
        return {}
    return {
        result.name: {
            "rule": context.rules[name_pairing(result.name)],
            "leaky": bool(result.leaky),
            "image_model": comparison.image.name,
            "patients": _count_patients(result),
        }
        for result in comparison.fused
    }


def _count_patients(result: Result) -> dict[str, int]:
    subjects = result.model.subjects
    if subjects is None:
        return {}
    split = result.model.split
    return {s: len(np.unique(subjects[split == s])) for s in result.model.splits}
