"""Verdicts of the controls: yes, no or inconclusive, each from the interval of one metric.

Several metrics on the same cases are one test: a gain in any one of five is found by chance far
more often than the confidence says. So the first metric of ``controls.metrics`` decides; macro
AUROC decides about chance, as its chance level is 0.5 for any classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from histofuse.evaluation.controls.measure import (
    ALIGNED,
    BLIND,
    IMAGE,
    PERMUTED,
    Controls,
    Shuffled,
)
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.metrics.sides import (
    Answer,
    Rules,
    answer_alike,
    answer_gain,
    explain_gain,
)

RANK: Final = "auroc/macro"
_WEAKEST: Final[tuple[Answer, ...]] = ("no", "inconclusive", "yes")  # of two answers this decides


@dataclass(frozen=True)
class ControlVerdict:
    """One question to the controls."""

    question: str
    # ``inconclusive`` where the interval holds both answers, is drawn from too few cases or
    # patients, or is missing
    answer: Answer
    sentence: str  # why, with its numbers


def judge(controls: Controls, rules: Rules) -> list[ControlVerdict]:
    """Judge all questions there are arms for."""
    verdicts = [judge_gain(controls, rules), judge_null(controls, rules)]
    if (ALIGNED, BLIND) in controls.differences:
        verdicts += [judge_aligned(controls, rules), judge_leakage(controls, rules)]
    return [*verdicts, *_judge_shuffles(controls, rules)]


def judge_gain(controls: Controls, rules: Rules) -> ControlVerdict:
    """Ask whether label-blind fusion gains on the image, and on shuffled patients.

    Yes: on both. No: on one of them there is no gain; what shuffled patients gain as well is the
    work of another head on the same embedding.
    """
    question = "Does the health record add anything under label-blind pairing?"
    gains = {
        "the image model": _get_difference(controls, BLIND, IMAGE),
        "permuted patients": _get_difference(controls, BLIND, PERMUTED),
    }
    answers: dict[str, Answer] = {other: answer_gain(gain, rules) for other, gain in gains.items()}
    other = min(answers, key=lambda other: _WEAKEST.index(answers[other]))
    deciding = answers[other]
    shown = ", ".join(f"{_show(gain, '+')} over {other}" for other, gain in gains.items())
    reason = explain_gain(deciding, gains[other], rules)
    if deciding != "yes":
        reason = f"Over {other}: {reason}"
    return ControlVerdict(question, deciding, f"{controls.metrics[0]} {shown}. {reason}")


def judge_null(controls: Controls, rules: Rules) -> ControlVerdict:
    """Ask whether label-blind and permuted pairing differ by less than counts as a gain."""
    question = "Do label-blind and permuted pairing score alike?"
    difference, margin = _get_difference(controls, BLIND, PERMUTED), rules.gain_margin
    answer, reason = answer_alike(difference, 0.0, margin, rules, hold=False)
    shown = _show(difference, "+")
    return ControlVerdict(question, answer, f"{controls.metrics[0]} {shown}. {reason}")


def judge_aligned(controls: Controls, rules: Rules) -> ControlVerdict:
    """Ask whether label-aligned pairing scores above label-blind."""
    question = "Does label-aligned pairing score above label-blind?"
    gain = _get_difference(controls, ALIGNED, BLIND)
    answer = answer_gain(gain, rules)
    sentence = f"{controls.metrics[0]} {_show(gain, '+')}. {explain_gain(answer, gain, rules)}"
    return ControlVerdict(question, answer, sentence)


def judge_leakage(controls: Controls, rules: Rules) -> ControlVerdict:
    """Ask whether the label-aligned gain is leakage, and how much of it.

    Both rules use the same patches, head and kind of patient; only in one the patient is chosen by
    the label. So what label-aligned gains on the image and label-blind does not, is the label.
    """
    question, metric = "Is the label-aligned gain leakage, and how much of it?", controls.metrics[0]
    gain, leak = (_get_difference(controls, ALIGNED, other) for other in (IMAGE, BLIND))
    gained = answer_gain(gain, rules)
    if gained != "yes" or gain is None or leak is None:
        sentence = f"{metric} {_show(gain, '+')} over the image model: no gain is shown. "
        sentence += explain_gain(gained, gain, rules)
        return ControlVerdict(question, "inconclusive", sentence)
    answer = answer_gain(leak, rules)
    lead = {"yes": "Leakage", "no": "None of it that counts", "inconclusive": "Not shown"}[answer]
    share = (leak.value or 0.0) / (gain.value or 1.0)
    sentence = f"{lead}: {metric} {_show(leak, '+')} over label-blind, "
    sentence += f"{share:.0%} of {_show(gain, '+')} over the image model."
    if alone := controls.shuffled.get(f"shuffled_images[{ALIGNED}]", {}).get(metric):
        shown = _show(alone.interval)
        sentence += f" With shuffled images, the aligned record alone scores {shown}."
    return ControlVerdict(question, answer, sentence)


def _judge_shuffles(controls: Controls, rules: Rules) -> Iterator[ControlVerdict]:
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
            yield judge_chance(question, controls.shuffled[name], rules)


def judge_chance(question: str, found: Mapping[str, Shuffled], rules: Rules) -> ControlVerdict:
    """Ask whether macro AUROC over shuffles and groups is at chance."""
    left = found.get(RANK)
    if left is None or left.chance is None:
        return ControlVerdict(question, "inconclusive", f"{RANK} was not measured.")
    # An interval over shuffles counts the fewer of shuffles and groups; the groups decide.
    interval = replace(left.interval, groups=left.groups)
    answer, reason = answer_alike(interval, left.chance, rules.chance_margin, rules)
    shown = f"{RANK} {_show(interval)} over {len(left.values)} shuffles"
    return ControlVerdict(question, answer, f"{shown}; chance is {left.chance:g}. {reason}")


def _get_difference(controls: Controls, new: str, old: str) -> Interval | None:
    return controls.differences.get((new, old), {}).get(controls.metrics[0])


def _show(interval: Interval | None, sign: str = "") -> str:
    if interval is None or interval.value is None:
        return "not defined"
    return interval.show(sign)
