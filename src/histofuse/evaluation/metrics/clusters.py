"""The cases, or patients, that rows belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from histofuse.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Clusters:
    """The groups that rows belong to, numbered in order of their names.

    Attributes:
        number: Group of each row, from 0.
        count: How many groups there are.
        unit: Their unit in the plural, such as ``cases``.
    """

    number: Int[np.ndarray, " n"]
    count: int
    unit: str

    def add_up(self, columns: Shaped[np.ndarray, "n s"]) -> Float[np.ndarray, "g s"]:
        """Sum columns over the rows of each group."""
        columns = np.asarray(columns, dtype=np.float64)
        sums = np.column_stack([np.bincount(self.number, c, self.count) for c in columns.T])
        return sums.astype(np.float64)  # of no rows bincount returns whole numbers

    def count_cells(
        self,
        cell: Int[np.ndarray, " n"],
        cells: int,
        values: Shaped[np.ndarray, " n"] | None = None,
    ) -> Float[np.ndarray, "g cells"]:
        """Count the rows of each group and cell, or sum values over them."""
        flat = np.bincount(self.number * cells + cell, values, self.count * cells)
        return flat.reshape(self.count, cells).astype(np.float64)


def number_groups(rows: Predictions) -> Clusters:
    """Number the cases, or patients, of rows."""
    names, number = np.unique(rows.groups, return_inverse=True)
    return Clusters(number.astype(np.int64), len(names), rows.group_unit)
