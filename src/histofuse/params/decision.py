"""Choices every classifier shares: how logits become probabilities, and probabilities classes."""

from typing import Annotated

from pydantic import AfterValidator, Field

# none, auto, or a name in SCALING_FITS or CURVE_FITS of training.calibrate, which checks it.
CalibrationMethod = Annotated[str, Field(min_length=1)]
AUTO = "auto"

PRECISION_TARGET = "precision_target:"
THRESHOLD_RULES = ("argmax", "youden_j", "max_f1", "balanced")


def read_precision_target(rule: str) -> float | None:
    """Read the precision asked for: "precision_target:0.8" -> 0.8, any other rule -> None.

    Raises ValueError if what follows the colon is no number above 0 and up to 1.
    """
    if not rule.startswith(PRECISION_TARGET):
        return None
    text = rule.removeprefix(PRECISION_TARGET)
    try:
        target = float(text)
    except ValueError:
        target = float("nan")
    if not 0 < target <= 1:
        raise ValueError(f"a precision above 0 and up to 1 after the colon, found {text!r}")
    return target


def _check_rule(rule: str) -> str:
    if rule not in THRESHOLD_RULES and read_precision_target(rule) is None:
        raise ValueError(f"one of {', '.join(THRESHOLD_RULES)}, {PRECISION_TARGET}<precision>")
    return rule


ThresholdRule = Annotated[str, AfterValidator(_check_rule)]
