"""Cells of the simulated tables: shifted times, weighted choices, provider ids, nulls."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.data.simulate.mimiciv.patients import DAY


@dataclass(frozen=True)
class Clock:
    """Shifts each patient's real minutes into the 22nd century, by whole weeks."""

    shift_days: NDArray[np.int64]

    def shift(self, minutes: NDArray[np.int64], patient: NDArray[np.int64]) -> pl.Series:
        """Write real minutes as the release would show them."""
        shifted = minutes + self.shift_days[patient] * DAY
        return pl.Series(shifted * 60_000).cast(pl.Datetime("ms"))


def draw_clock(rng: Generator, first: NDArray[np.int64]) -> Clock:
    """Draw the year, 2112 to 2195, in which each patient's first admission comes to lie."""
    real_year = 1970 + first / DAY / 365.2425
    years = rng.integers(2112, 2196, len(first)) - np.floor(real_year)
    return Clock(np.round(years * 365.2425 / 7).astype(np.int64) * 7)


def choose(rng: Generator, shares: Mapping[str, float], count: int) -> NDArray:
    """Draw names by their shares."""
    weights = np.array(list(shares.values()))
    return np.array(list(shares))[rng.choice(len(shares), count, p=weights / weights.sum())]


def draw_providers(rng: Generator, count: int) -> NDArray:
    """Provider ids of the release's form: P, two digits, three characters."""
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    pool = ["P" + "".join(part) for part in rng.choice(letters, (400, 3))]
    numbers = rng.integers(0, 100, 400)
    ids = np.array([f"{p[0]}{number:02d}{p[1:]}" for p, number in zip(pool, numbers, strict=True)])
    return ids[rng.integers(0, 400, count)]


def null_if_empty(name: str) -> pl.Expr:
    """Turn empty text into null, under the column's own name."""
    return pl.when(pl.col(name) != "").then(name).alias(name)
