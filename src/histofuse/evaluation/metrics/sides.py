"""The one decision that every verdict follows from: on which side of a reference an interval lies.

Below ``intervals.fewest_groups`` an interval decides nothing; "no difference" needs a narrow one.

Source: Schuirmann, J Pharmacokinet Biopharm 15 (1987), two one-sided tests of equivalence.
"""

from dataclasses import dataclass
from typing import Literal

from histofuse.core.naming import show_interval

Side = Literal["above", "equivalent", "below", "inconclusive"]
Answer = Literal["yes", "no", "inconclusive"]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float | None  # None where not defined
    low: float | None = None  # lower end; None where there is no interval
    high: float | None = None
    groups: int = 0  # cases, or patients, that the interval was drawn from

    def __str__(self) -> str:
        return self.show()

    def show(self, sign: str = "") -> str:
        """Write it: "0.459 [0.364, 0.761]"; see `show_interval`."""
        return show_interval(self.value, self.low, self.high, sign)


def find_side(
    interval: Estimate, fewest_groups: int, reference: float = 0.0, margin: float = 0.0
) -> Side:
    """Find the side of a reference on which an interval lies.

    With fewer than `fewest_groups` the answer is ``inconclusive``. An interval that holds the
    reference is ``equivalent`` to it if both ends are less than `margin` away; of 0, never.
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


@dataclass(frozen=True)
class Rules:
    """What an interval must show for an answer; see `ControlParams` and `IntervalParams`."""

    gain_margin: float
    chance_margin: float
    fewest_groups: int


def answer_gain(gain: Estimate | None, rules: Rules) -> Answer:
    """Answer yes for an interval above zero, no for one below the smallest gain that counts."""
    if gain is None:
        return "inconclusive"
    if find_side(gain, rules.fewest_groups) == "above":
        return "yes"
    none = find_side(gain, rules.fewest_groups, rules.gain_margin) == "below"
    return "no" if none else "inconclusive"


def explain_gain(answer: Answer, gain: Estimate | None, rules: Rules) -> str:
    """Explain the answer of `answer_gain`."""
    if answer == "yes":
        return "Its whole interval is above zero."
    if answer == "no":
        return f"The whole interval is below {rules.gain_margin:g}, the smallest gain that counts."
    doubt = f"The interval holds no gain as well as gains of {rules.gain_margin:g} and more."
    return explain_lack(gain, rules) or doubt


def answer_alike(
    interval: Estimate | None, reference: float, margin: float, rules: Rules, *, hold: bool = True
) -> tuple[Answer, str]:
    """Answer yes within the margin of a reference, which `hold` asks it to hold, no on a side."""
    if interval is None:
        return "inconclusive", explain_lack(None, rules)
    fewest = rules.fewest_groups
    side = find_side(interval, fewest, reference, margin)
    within = [find_side(interval, fewest, reference + m) for m in (-margin, margin)]
    if side == "equivalent" or (not hold and within == ["above", "below"]):
        return "yes", f"The whole interval is within {margin:g} of {reference:g}."
    if side == "inconclusive":
        doubt = f"The interval holds {reference:g} and differences of {margin:g} and more."
        return "inconclusive", explain_lack(interval, rules) or doubt
    return "no", f"The whole interval is {side} {reference:g}."


def explain_lack(interval: Estimate | None, rules: Rules) -> str:
    """Say why an interval decides nothing; empty where it can."""
    if interval is None or interval.low is None:
        return "There is no interval."
    if interval.groups < rules.fewest_groups:
        few = f"fewer than {rules.fewest_groups} cases or patients"
        return f"It is of {interval.groups}: an interval of {few} decides nothing."
    return ""
