"""How names and numbers are spelled for readers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_TITLES: Final[Mapping[str, str]] = {
    "simple_cnn": "Simple CNN",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "logistic_regression": "Logistic regression",
    "gradient_boosting": "Gradient boosting",
    "mlp": "MLP",
    "xgboost": "XGBoost",
}


def name_model(name: str) -> str:
    """Name a model: "fusion_label_blind" -> "Fusion, label-blind"."""
    if name.startswith("fusion_"):
        return f"Fusion, {name.removeprefix('fusion_').replace('_', '-')}"
    return _TITLES.get(name, name)


def show_name(name: str) -> str:
    """Spell a class, target or column: "non_tumour" -> "non-tumour"."""
    return name.replace("non_", "non-").replace("_", " ")


def show_count(number: int) -> str:
    """Write a count with separators."""
    return f"{number:,}"


def show_percent(share: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def show_value(value: Any, decimals: int = 3) -> str:
    """Write a value; None is "not defined"."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def show_interval(value: float | None, ends: Mapping[str, Any] | None) -> str:
    """Write a value with its interval: "0.459 [0.364, 0.761]"."""
    if value is None:
        return "–"
    low, high = (ends or {}).get("low"), (ends or {}).get("high")
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


_CHECKS: Final[Mapping[str, str]] = {"apart": "validation and test apart", "shared": "shared"}
_METRICS: Final[Mapping[str, str]] = {"auprc": "AUPRC", "auroc": "AUROC", "f1": "F1"}


def name_check(name: str) -> str:
    """Name a check: "apart[auroc/macro]" -> "validation and test apart (macro AUROC)"."""
    head, _, of = name.partition("[")
    shown = _CHECKS.get(head, show_name(head))
    return f"{shown} ({spell_metrics(of.rstrip(']'))})" if of else shown


def spell_metrics(text: str) -> str:
    """Spell metrics within a text: "auprc/mitosis +0.01" -> "mitosis AUPRC +0.01"."""
    names = "auprc|auroc|recall|precision|f1"
    return re.sub(
        rf"\b({names})/(\w+)",
        lambda m: f"{show_name(m[2])} {_METRICS.get(m[1], m[1])}",
        text,
    )
