"""Verdicts of the controls: each follows from intervals, and may be undecided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from histofuse.core.naming import show_ends
from histofuse.evaluation.controls.measure import (
    ALIGNED,
    BLIND,
    IMAGE,
    PERMUTED,
    Controls,
    Shuffled,
)
from histofuse.evaluation.metrics.bootstrap import Interval

Answer = Literal["yes", "no", "undecided"]
RANK: Final = "auroc/macro"


@dataclass(frozen=True)
class ControlVerdict:
    """One question to the controls.

    Attributes:
        question: In words.
        answer: ``undecided`` where the intervals hold both answers, or there are none.
        sentence: Why, with its numbers.
    """

    question: str
    answer: Answer
    sentence: str


def judge(controls: Controls) -> list[ControlVerdict]:
    """Judge all questions there are arms for."""
    verdicts = [judge_gain(controls), judge_null(controls)]
    if (ALIGNED, BLIND) in controls.differences:
        verdicts += [judge_aligned(controls), judge_leakage(controls)]
    return [*verdicts, *_judge_shuffles(controls)]


def judge_gain(controls: Controls) -> ControlVerdict:
    """Ask whether fusion under label-blind pairing gains on the image, and on shuffled patients.

    Yes: some metric gains on both, by its interval. No: none gains on the image. Else a gain on the
    image that shuffled patients give as well is the head's, or the intervals say nothing.
    """
    question = "Does the health record add anything under label-blind pairing?"
    over_image, over_null = (
        _get_differences(controls, BLIND, other) for other in (IMAGE, PERMUTED)
    )
    known = [m for m in controls.metrics if _has_ends(over_image.get(m))]
    if not known:
        sentence = "No difference from the image model has an interval."
        return ControlVerdict(question, "undecided", sentence)
    gains = [m for m in known if _is_above(over_image[m])]
    both = [m for m in gains if _is_above(over_null.get(m))]
    if both:
        shown = "; ".join(
            f"{m} {show(over_image[m], '+')} over the image and {show(over_null[m], '+')} over "
            "permuted patients"
            for m in both
        )
        return ControlVerdict(question, "yes", f"It gains on both: {shown}.")
    if gains:
        shown = _list(over_image, gains, "+")
        sentence = f"It gains on the image ({shown}), but not on permuted patients: "
        sentence += "the gain may be another head on the same embedding."
        return ControlVerdict(question, "undecided", sentence)
    shown = _list(over_image, known, "+")
    sentence = f"No metric gains on the image model by its interval: {shown}."
    return ControlVerdict(question, "no", sentence)


def judge_null(controls: Controls) -> ControlVerdict:
    """Ask whether each of the two lies within the other's interval, in every metric."""
    question = "Are label-blind and permuted pairing within each other's interval?"
    blind, permuted = (controls.arms.get(arm, {}) for arm in (BLIND, PERMUTED))
    known = [m for m in controls.metrics if _has_ends(blind.get(m)) and _has_ends(permuted.get(m))]
    if not known:
        return ControlVerdict(question, "undecided", "The two have no interval in common.")
    outside = [
        m
        for m in known
        if not (_holds(permuted[m], blind[m].value) and _holds(blind[m], permuted[m].value))
    ]
    shown = "; ".join(
        f"{m} {show(blind[m])} against {show(permuted[m])}" for m in (outside or known)
    )
    if outside:
        return ControlVerdict(question, "no", f"Outside each other's interval: {shown}.")
    if len(known) < len(controls.metrics):
        left = ", ".join(m for m in controls.metrics if m not in known)
        sentence = f"Within it where there is one ({shown}); {left} has none."
        return ControlVerdict(question, "undecided", sentence)
    return ControlVerdict(question, "yes", f"In every metric: {shown}.")


def judge_aligned(controls: Controls) -> ControlVerdict:
    """Ask whether label-aligned pairing scores above label-blind."""
    question = "Does label-aligned pairing score above label-blind?"
    found = _get_differences(controls, ALIGNED, BLIND)
    known = [m for m in controls.metrics if _has_ends(found.get(m))]
    above = [m for m in known if _is_above(found[m])]
    if above:
        return ControlVerdict(question, "yes", f"Above it: {_list(found, above, '+')}.")
    if known:
        answer: Answer = "no" if all(_ends(found[m])[1] <= 0 for m in known) else "undecided"
        return ControlVerdict(question, answer, f"{_list(found, known, '+')}.")
    return ControlVerdict(question, "undecided", "No difference has an interval.")


def judge_leakage(controls: Controls) -> ControlVerdict:
    """Ask whether the label-aligned gain is leakage, and how much of it.

    Both rules use the same patches, head and kind of patient; only in one the patient is chosen by
    the label. So what label-aligned gains on the image and label-blind does not, is the label.
    """
    question = "Is the label-aligned gain leakage, and how much of it?"
    gain, leak = (_get_differences(controls, ALIGNED, other) for other in (IMAGE, BLIND))
    gained = [m for m in controls.metrics if _is_above(gain.get(m))]
    if not gained:
        sentence = "Label-aligned pairing gains on the image in no metric by its interval: "
        known = [m for m in controls.metrics if _has_ends(gain.get(m))]
        return ControlVerdict(question, "undecided", f"{sentence}{_list(gain, known, '+')}.")
    parts = []
    for m in gained:
        whole, leaked = gain[m].value or 0.0, leak[m].value or 0.0
        parts.append(f"{m}: {leaked:+.3f} of {whole:+.3f}, {leaked / whole:.0%}")
    sentence = f"Aligned less blind, of aligned less image: {'; '.join(parts)}."
    alone = controls.shuffled.get(f"shuffled_images[{ALIGNED}]", {})
    shown = [f"{m} {show(alone[m].interval)}" for m in gained if m in alone]
    if shown:
        sentence += f" With shuffled images, the aligned record alone scores {', '.join(shown)}."
    leaks = [m for m in gained if _is_above(leak.get(m))]
    answer: Answer = "yes" if len(leaks) == len(gained) else "undecided"
    if all(_has_ends(leak.get(m)) and _ends(leak[m])[1] <= 0 for m in gained):
        answer = "no"
    lead = {"yes": "Leakage. ", "no": "None of it. ", "undecided": "Inconclusive. "}[answer]
    return ControlVerdict(question, answer, lead + sentence)


def _judge_shuffles(controls: Controls) -> Iterator[ControlVerdict]:
    questions = {
        "shuffled_labels": "Does a fusion head trained on shuffled labels score at chance?",
        "shuffled_targets": "Does a record model trained on shuffled targets score at chance?",
        f"shuffled_images[{BLIND}]": "Do shuffled images under label-blind pairing fall to chance?",
        f"shuffled_images[{PERMUTED}]": "Do shuffled images under permuted pairing fall to chance?",
        f"shuffled_images[{ALIGNED}]": "Do shuffled images under label-aligned pairing fall to "
        "chance?",
    }
    for name, question in questions.items():
        if name in controls.shuffled:
            yield judge_chance(question, controls.shuffled[name])


def judge_chance(question: str, found: Mapping[str, Shuffled]) -> ControlVerdict:
    """Ask whether the interval of macro AUROC over shuffles and groups holds chance."""
    left = found.get(RANK)
    if left is None or left.chance is None or not _has_ends(left.interval):
        return ControlVerdict(question, "undecided", f"No interval of {RANK} over the shuffles.")
    shown = f"{RANK} {show(left.interval)} over {len(left.values)} shuffles"
    if _holds(left.interval, left.chance):
        return ControlVerdict(question, "yes", f"{shown}; chance is {left.chance:g}.")
    side = "above" if (left.interval.value or 0.0) > left.chance else "below"
    return ControlVerdict(question, "no", f"{shown}, {side} chance, {left.chance:g}.")


# --- intervals ----------------------------------------------------------------------------------


def show(interval: Interval, sign: str = "") -> str:
    """Show an interval: "0.612 [0.500, 0.700]"."""
    if interval.value is None:
        return "not defined"
    return f"{interval.value:{sign}.3f} {show_ends(interval.low, interval.high, sign)}".rstrip()


def _get_differences(controls: Controls, new: str, old: str) -> dict[str, Interval]:
    return {m: d.interval for m, d in controls.differences.get((new, old), {}).items()}


def _list(found: Mapping[str, Interval], metrics: list[str], sign: str = "") -> str:
    return ", ".join(f"{m} {show(found[m], sign)}" for m in metrics) or "no interval at all"


def _has_ends(interval: Interval | None) -> bool:
    return interval is not None and interval.low is not None and interval.high is not None


def _ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


def _is_above(interval: Interval | None) -> bool:
    return interval is not None and interval.low is not None and interval.low > 0


def _holds(interval: Interval, value: float | None) -> bool:
    low, high = _ends(interval)
    return value is not None and low <= value <= high
