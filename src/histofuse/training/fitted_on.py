"""The validation rows behind a calibrator or a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class FittedOn:
    """The rows behind a fit.

    Attributes:
        per_class: Rows of each class.
        notes: What the rows were too few for, and what was used instead; empty if nothing.
    """

    per_class: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON; `positives` is null unless the model is binary."""
        return {
            "n": sum(self.per_class),
            "per_class": list(self.per_class),
            "positives": self.per_class[1] if len(self.per_class) == 2 else None,
            "note": "; ".join(self.notes),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FittedOn:
        """Read what `to_dict` rendered."""
        notes = tuple(note for note in values["note"].split("; ") if note)
        return cls(tuple(values["per_class"]), notes)


def count_classes(
    columns: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[int, ...]:
    """Count the rows of each class.

    Raises:
        ValueError: If values are not finite, or labels and columns do not match.
    """
    k = columns.shape[1]
    if k < 2 or len(columns) != len(labels):
        raise ValueError(f"expected (n, k >= 2) and n labels: {columns.shape}, {labels.shape}")
    if not np.isfinite(columns).all():
        raise ValueError(f"{int((~np.isfinite(columns)).any(axis=1).sum())} rows are not finite")
    if len(labels) and (labels.min() < 0 or labels.max() >= k):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {k - 1}")
    return tuple(np.bincount(labels, minlength=k).tolist())


def count_rows(n: int) -> str:
    """Render a number of rows for a note."""
    return "1 row" if n == 1 else f"{n} rows"
