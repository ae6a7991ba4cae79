"""The names by which MLflow finds things again: experiment, tags, registered models, curves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

EXPERIMENT: Final = "histofuse"
REGISTERED_PREFIX: Final = "histofuse-"

DIGEST_TAG: Final = "histofuse.bundle_digest"  # on runs and versions: the bundle behind them
CONTENT_TAG: Final = "histofuse.published"  # on runs: digest of all that was logged, set last
MODEL_TAG: Final = "histofuse.model_content"  # on runs: digest of the registered files
PROCESS_TAG: Final = "histofuse.process"  # on live runs: who writes them
MODEL_FOLDER: Final = "model"
BUNDLE_FOLDER: Final = "model/artifacts/bundle"

_CURVES: Final[Mapping[str, str]] = {
    "loss": "loss",
    "accuracy": "accuracy",
    "macro_f1": "f1/macro",
    "auroc": "auroc/macro",
}


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        name: The registered model's name.
        number: Counts from 1 within a name.
        digest: The bundle's digest.
        run_id: The run behind it.
        source: Where its files lie.
        content: Digest of all that was logged to the run; None while that is incomplete.
    """

    name: str
    number: int
    digest: str
    run_id: str
    source: str
    content: str | None


def name_registered(model: str, primary_rule: str | None = None) -> str:
    """Name the registered model of a bundle: "simple_cnn" -> "histofuse-simple-cnn".

    The fusion model of the primary pairing rule is ``histofuse-fusion``.
    """
    if primary_rule is not None and model == f"fusion_{primary_rule}":
        return f"{REGISTERED_PREFIX}fusion"
    return REGISTERED_PREFIX + model.replace("_", "-")


def name_curve(metric: str) -> str:
    """Name the curve of a metric watched in training.

    A metric's final value and its curve would otherwise share one name, and MLflow shows the last
    step as the value.
    """
    return f"curve/{metric}"


def name_column(column: str, *, cross_validated: bool) -> str:
    """Name a column of ``history.csv`` as training reports it: "train_loss" -> "train/loss"."""
    if cross_validated:
        return "cv/" + column.replace("_", "/", 1)
    if column.startswith("learning_rate_"):
        return column.replace("learning_rate_", "learning_rate/", 1)
    split, _, metric = column.partition("_")
    return f"{split}/{_CURVES.get(metric, metric)}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested params to dotted names and text: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def redact(uri: str) -> str:
    """Hide a password in an address that is about to be shown."""
    return re.sub(r"//[^/@]*@", "//…@", uri)
