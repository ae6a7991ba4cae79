"""The class that counts most: mitosis, the target, or the rarest class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from histofuse.evaluation.predictions import Predictions

MITOSIS: Final = "mitosis"
MINORITY: Final = "minority"


def name_bars(bars: Mapping[str, float], rows: Predictions) -> dict[str, float]:
    """Put the name of the class that counts most for ``minority``."""
    minority = find_minority_class(rows)
    return {metric.replace(MINORITY, minority): bar for metric, bar in bars.items()}


def find_minority_class(rows: Predictions) -> str:
    """Find the class that counts most: mitosis, or the target, or the rarest of the rows."""
    classes = rows.classes
    if MITOSIS in classes:
        return MITOSIS
    if not rows.on_patches:
        return classes[-1]
    counts = rows.count_classes()
    return min(counts, key=counts.__getitem__)
