"""The one decision that every verdict follows from: on which side of a reference an interval lies.

With few groups an interval covers the true value less often than it claims, so below
``intervals.fewest_groups`` it decides nothing. "No difference" needs a narrow interval: one that
holds the reference may also hold large differences.

Source: Schuirmann, A comparison of the two one-sided tests procedure and the power approach for
assessing the equivalence of average bioavailability, J Pharmacokinet Biopharm 15 (1987).
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

Side = Literal["above", "equivalent", "below", "inconclusive"]


@runtime_checkable
class HasEnds(Protocol):
    """Anything with an interval and the number of groups it was drawn from."""

    @property
    def low(self) -> float | None:
        """Lower end; None where there is no interval."""

    @property
    def high(self) -> float | None:
        """Upper end; None where there is no interval."""

    @property
    def groups(self) -> int:
        """Number of cases, or patients."""


def find_side(
    interval: HasEnds, fewest_groups: int, reference: float = 0.0, margin: float = 0.0
) -> Side:
    """Find the side of a reference on which an interval lies.

    Args:
        interval: Of a metric, or of a paired difference of two models.
        fewest_groups: With fewer groups the answer is ``inconclusive``.
        reference: Such as 0, or chance.
        margin: An interval that holds the reference is ``equivalent`` to it if both ends are less
            than this away; of 0, never.
    """
    low, high = interval.low, interval.high
    if low is None or high is None or interval.groups < fewest_groups:
        return "inconclusive"
    if low > reference:
        return "above"
    if high < reference:
        return "below"
    narrow = low > reference - margin and high < reference + margin
    return "equivalent" if narrow else "inconclusive"
