"""What a feature is: the list that travels with the feature table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.artifacts import load_json
from histofuse.core.errors import collect_faults
from histofuse.core.tables import Contract
from histofuse.features.ranges import Range, load_ranges

Kind = Literal["continuous", "binary", "categorical"]
KEY: Final = ("subject_id", "hadm_id")

FEATURES: Final = Contract(
    name="features of index admissions", columns=dict.fromkeys(KEY, "int"), key=KEY, open_ended=True
)


@dataclass(frozen=True)
class FeatureSpec:
    """One feature, in natural units before encoding."""

    name: str
    variable: str  # what it is a value of; features of one variable are missing together
    kind: Kind  # ``continuous``, ``binary`` (0/1) or ``categorical`` (text)
    unit: str  # of a continuous feature; empty for the others
    group: str  # the `FeatureGroup` it belongs to
    description: str
    indicator: bool = False  # whether being missing tells something: a sparse clinical field
    # the lowest plausible value of a continuous feature; None if there is no range
    low: float | None = None
    high: float | None = None

    @property
    def range(self) -> Range | None:
        """What a living patient can have."""
        if self.low is None or self.high is None:
            return None
        return Range(self.unit, self.low, self.high)


def describe(group: str, name: str, kind: Kind, description: str, unit: str = "") -> FeatureSpec:
    """Describe a feature that is a variable of its own, with its range if there is one."""
    known = load_ranges().get(name)
    ends = (known.low, known.high) if known else (None, None)
    return FeatureSpec(name, name, kind, unit, group, description, False, *ends)


def to_json_list(specs: Sequence[FeatureSpec]) -> list[dict[str, Any]]:
    """Turn specs into the content of ``features.json``, in order."""
    return [asdict(spec) for spec in specs]


def load_specs(path: Path) -> list[FeatureSpec]:
    """Load ``features.json``; InputError if it is missing or an entry lacks or adds a key."""
    expected = {field.name for field in fields(FeatureSpec)}
    entries = load_json(path)
    with collect_faults() as faults:
        for i, keys in enumerate(map(set, entries)):
            if keys != expected:
                faults.add(f"{path}, entry {i}", f"keys {sorted(keys)}", f"keys {sorted(expected)}")
    return [FeatureSpec(**entry) for entry in entries]
