"""The search space as Optuna takes it: lists and mappings, which it cannot store, as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histofuse.params.tune import Choice, Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def to_distribution(span: Range) -> "BaseDistribution":
    """Turn a range of params.yaml into a distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match span.type:
        case "int":
            return IntDistribution(span.low, span.high, log=span.log)
        case "float":
            return FloatDistribution(span.low, span.high, log=span.log)
        case _:
            return CategoricalDistribution([to_stored(span, value) for value in span.of])


def to_stored(span: Range, value: Any) -> Any:
    """Turn a value of a range into the one that is stored."""
    is_plain = value is None or isinstance(value, bool | int | float | str)
    return value if is_plain or not isinstance(span, Choice) else json.dumps(value)


def from_stored(space: Mapping[str, Range], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Turn stored values into those of params.yaml; keys that the space lacks are left out."""
    return {key: _from_stored(space[key], value) for key, value in stored.items() if key in space}


def _from_stored(span: Range, stored: Any) -> Any:
    if not isinstance(span, Choice):
        return stored
    return next(value for value in span.of if to_stored(span, value) == stored)
