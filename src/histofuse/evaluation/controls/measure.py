"""Controls as numbers: pairing arms compared, and metrics after shuffling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from histofuse.core.artifacts import render
from histofuse.core.seeding import make_rng
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval, Resampled
from histofuse.evaluation.predictions import Predictions
from histofuse.training.protocols.controls import Answers

IMAGE: Final = "image"
BLIND, PERMUTED, ALIGNED = "label_blind", "permuted", "label_aligned"
# New less old.
PAIRS: Final = (
    (BLIND, IMAGE),
    (PERMUTED, IMAGE),
    (BLIND, PERMUTED),
    (ALIGNED, IMAGE),
    (ALIGNED, BLIND),
)


@dataclass(frozen=True)
class Shuffled:
    """One metric after shuffling."""

    # mean over the shuffles; resamples draw both shuffles and cases (or patients), for the patients
    # that a test case was paired with move all shuffles alike. Its `groups` are the smaller of the
    # two counts.
    interval: Interval
    groups: int  # test cases, or patients
    values: tuple[float, ...]  # of each shuffle
    chance: float | None  # chance level; None where it depends on the threshold


@dataclass(frozen=True)
class Controls:
    """All arms."""

    metrics: tuple[str, ...]  # those compared; verdicts follow from the first
    # ``image`` and each rule there is, to metric to interval over cases
    arms: Mapping[str, Mapping[str, Interval]]
    # such pairs of arms, new less old, to metric to difference
    differences: Mapping[tuple[str, str], Mapping[str, Interval]]
    # such as ``shuffled_images[label_blind]``, to metric to what is left
    shuffled: Mapping[str, Mapping[str, Shuffled]]
    # such as ``n = 1,020 patches of 3 cases``, by ``patches`` and ``admissions``
    sizes: Mapping[str, str]


def compare_arms(
    arms: Mapping[str, Predictions], metrics: Sequence[str], bootstrap: Bootstrap
) -> tuple[dict[str, dict[str, Interval]], dict[tuple[str, str], dict[str, Interval]]]:
    """Compute intervals over cases of each arm and of the paired differences of arms."""
    intervals = {name: bootstrap.estimate_metrics(rows, metrics) for name, rows in arms.items()}
    differences = {
        (new, old): bootstrap.estimate_differences(arms[new], arms[old], metrics)
        for new, old in PAIRS
        if new in arms and old in arms
    }
    return intervals, differences


def measure_shuffles(
    test: Predictions, answers: Sequence[Answers], metrics: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Shuffled]:
    """Measure each shuffle's answers, in the order of the true test rows, and average."""
    found = [
        bootstrap.resample_metrics(
            replace(test, probabilities=a.probabilities, predictions=a.predictions), metrics
        )
        for a in answers
    ]
    chance, pooled = _find_chance(test), _pool(found, bootstrap.seed)
    values = np.stack([f.values for f in found])  # (shuffles, metrics)
    return {
        m: Shuffled(
            pooled.interval(m, "percentile"),
            found[0].groups,
            tuple(values[~np.isnan(values[:, k]), k].tolist()),
            chance.get(m),
        )
        for k, m in enumerate(metrics)
    }


def _pool(shuffles: Sequence[Resampled], seed: int) -> Resampled:
    """Average over shuffles; each resample draws shuffles as well as groups."""
    first, many = shuffles[0], len(shuffles)
    draws = np.stack([s.draws for s in shuffles])  # (shuffles, resamples, metrics)
    size = draws.shape[1]
    chosen = make_rng(seed, "controls", "bootstrap").integers(0, many, (many, size))
    return replace(
        first,
        values=np.mean([s.values for s in shuffles], axis=0),
        draws=draws[chosen, np.arange(size)].mean(axis=0),
        groups=min(first.groups, many),
        paired=True,
    )


def _find_chance(rows: Predictions) -> dict[str, float]:
    """Compute chance level: AUROC 0.5, and for AUPRC the share of the class."""
    counts, n = rows.count_classes(), max(len(rows), 1)
    found = {f"auroc/{of}": 0.5 for of in ("macro", *rows.classes)}
    found |= {f"auprc/{name}": count / n for name, count in counts.items()}
    return found | {"auprc/macro": 1 / len(rows.classes)}


def describe_controls(controls: Controls, verdicts: Sequence[Any]) -> dict[str, Any]:
    """Render ``controls.json``; what is not defined is None."""
    differences = {f"{new} - {old}": of for (new, old), of in controls.differences.items()}
    return render(vars(controls) | {"differences": differences, "verdicts": verdicts})
