"""The class in focus: its scores lead tables and reports, and promotion is decided on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

MITOSIS: Final = "mitosis"


def choose_focus_class(
    classes: Sequence[str], labels: Iterable[str] = (), *, target: str | None = None
) -> str:
    """Choose the class in focus of a model; its ``config.json`` holds it as ``focus_class``.

    Args:
        classes: Class names, in the order of the model's outputs.
        labels: Class names of the training rows.
        target: The target of a model of the health record; None for classes of patches.

    Returns:
        The target; else mitosis; else the rarest class of the training rows.
    """
    if target is not None:
        return target
    if MITOSIS in classes:
        return MITOSIS
    counts = Counter(labels)
    return min((name for name in classes if counts[name]), key=counts.__getitem__)
