"""Plausible ranges of continuous features, the same in training, prediction and serving."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pandas as pd

DEFINITIONS: Final = Path(__file__).parent / "ranges.json"


@dataclass(frozen=True)
class Range:
    """What a living patient can have, both ends included."""

    unit: str
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as in ``3 to 5,000 IU/L``."""
        return f"{self.low:,g} to {self.high:,g} {self.unit}"


@cache
def load_ranges() -> Mapping[str, Range]:
    """Load the table that comes with the package: variable to range."""
    table = json.loads(DEFINITIONS.read_text("utf-8"))["ranges"]
    return {name: Range(row["unit"], row["low"], row["high"]) for name, row in table.items()}


def find_outside(table: pd.DataFrame, ranges: Mapping[str, Range]) -> pd.DataFrame:
    """Tell which values are outside their range, infinite ones included; missing ones are not."""
    known = {name: range_ for name, range_ in ranges.items() if name in table}
    columns = {}
    for name, range_ in known.items():
        numbers = pd.to_numeric(table[name], errors="coerce")
        columns[name] = numbers.notna() & ~numbers.between(range_.low, range_.high)
    return pd.DataFrame(columns, index=table.index, dtype=bool)
