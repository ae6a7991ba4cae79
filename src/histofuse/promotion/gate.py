"""The gate before production: what a version must pass, each check with its numbers.

Leaks and implausible scores are the business of the alarm checks (`evaluation.alarms`). The gate
refuses a version that raises an alarm, or whose alarm checks were not made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from histofuse.core.artifacts import render
from histofuse.core.errors import InputError
from histofuse.core.naming import show_ends, show_value
from histofuse.evaluation.alarms.checks import AlarmCheck
from histofuse.evaluation.alarms.models import mark_seen, tabulate_rows
from histofuse.evaluation.metrics.bootstrap import Bootstrap, align_rows
from histofuse.evaluation.metrics.sides import find_side
from histofuse.evaluation.metrics.weighted import measure_rows
from histofuse.evaluation.predictions import Predictions
from histofuse.params.promotion import VALIDATED, PromotionParams, name_focus
from histofuse.promotion.limits import ConservativeMetric, measure_conservatively

_DECISION: Final = ("config.json", "calibrator.json", "threshold.json")
_RECORD: Final = ("encoder.json", "feature_order.json")
# Files that a registered model must contain, next to its weights.
FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "image": tuple(f"bundle/{name}" for name in _DECISION),
    "tabular": tuple(f"bundle/{name}" for name in (*_DECISION, *_RECORD)),
    "detector": ("bundle/config.json", "bundle/threshold.json"),
    "fusion": (
        *(f"bundle/{name}" for name in _DECISION),
        *(f"encoders/image/{name}" for name in _DECISION),
        *(f"encoders/patient/{name}" for name in (*_DECISION, *_RECORD)),
    ),
    "patient": (
        *(f"bundle/{name}" for name in (*_DECISION, "encoder.json")),
        *(f"bundle/{side}/{name}" for side in ("image", "record") for name in _DECISION[1:]),
        *(f"encoders/image/{name}" for name in _DECISION),
    ),
}
_NOT_SCORED: Final = "not scored on the current test split"


@dataclass(frozen=True)
class Scored:
    """A registered version and its predictions on the current test split."""

    version: int
    digest: str
    config: Mapping[str, Any]  # empty if it cannot be read
    bundle_fault: str  # why it could not be verified or loaded; empty if it was
    scored: Predictions | None = None  # None if it could not be scored
    scoring_fault: str = ""  # why not
    stored: Predictions | None = None  # those in its bundle, of every split

    @property
    def title(self) -> str:
        """Its digest and number, for readers."""
        return f"{self.digest[:12]} (version {self.version})"


@dataclass(frozen=True)
class Evidence:
    """All that the gate looks at; `promotion.evidence` gathers it."""

    candidate: Scored
    production: Scored | None
    files: frozenset[str]  # below the registered artifacts: bundle/calibrator.json
    signature: bool  # whether it is registered with one
    card: bool  # whether it has a model card
    seed: int  # of the bootstrap
    alarms: tuple[AlarmCheck, ...] | None = None  # None if they were not made
    alarms_fault: str = ""  # why not
    encoder: Predictions | None = None  # of a fusion model's own image encoder, on the same split
    encoder_fault: str = ""  # why it could not be scored
    # Of a model at patient level given one side alone, by that side.
    alone: Mapping[str, Predictions] = field(default_factory=dict)
    alone_fault: str = ""  # why it could not be scored so
    # Of its explanations: metric -> value, low, high and n; None if not measured for this version.
    faithfulness: Mapping[str, Mapping[str, Any]] | None = None
    validated_on: tuple[str, ...] = ()  # names of other data sets
    # Of a detector: F1 of nuclei, and its gain over the baseline; None if not of this version.
    detection: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def kind(self) -> str:
        """Such as ``image`` or ``fusion``; empty if the config cannot be read."""
        return str(self.candidate.config.get("kind", ""))


@dataclass(frozen=True)
class Check:
    """One check and its outcome."""

    name: str  # such as bundle or not_worse[auprc/mitosis]
    passed: bool
    detail: str  # in words, with its numbers; names no case and no patient
    numbers: Mapping[str, Any] = field(default_factory=dict)  # the same, JSON-ready


@dataclass(frozen=True)
class Verdict:
    """All checks, passed or not, in the order in which they are shown."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.refusals

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def to_dict(self) -> dict[str, Any]:
        """Render for the audit record: ``passed`` and ``checks``, JSON-ready."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}

    def lines(self) -> list[str]:
        """Render for the terminal, one line a check."""
        width = max(len(check.name) for check in self.checks)
        return [
            f"{'passed ' if c.passed else 'REFUSED'}  {c.name:<{width}}  {c.detail}"
            for c in self.checks
        ]


def decide(evidence: Evidence, params: PromotionParams) -> Verdict:
    """Make every check, also after one has failed.

    A version that cannot be scored fails each check that needs its scores.
    """
    registered = [_check_bundle(evidence), _check_files(evidence)]
    if evidence.kind == "detector":
        external = _check_external(evidence, params)
        return Verdict((*registered, *_check_detection(evidence, params), *external))
    checks = [
        *registered,
        _check_evaluated(evidence, params),
        *_check_alarms(evidence),
        *_check_minimums(evidence, params),
        *_check_encoder(evidence, params),
        *_check_sides(evidence, params),
        *_check_not_worse(evidence, params),
        *_check_faithfulness(evidence, params),
        *_check_external(evidence, params),
    ]
    return Verdict(tuple(checks))


def _check_bundle(evidence: Evidence) -> Check:
    candidate = evidence.candidate
    detail = candidate.bundle_fault or f"digest {candidate.digest[:12]} verified, loads"
    return Check("bundle", not candidate.bundle_fault, detail, {"digest": candidate.digest})


def _check_files(evidence: Evidence) -> Check:
    required = FILES.get(evidence.kind, FILES["image"])
    missing = [name for name in required if name not in evidence.files]
    missing += [] if evidence.signature else ["signature"]
    missing += [] if evidence.card else ["model card"]
    complete = "calibrator, threshold, feature order, signature and model card are present"
    detail = f"lacks {', '.join(missing)}" if missing else complete
    return Check("files", not missing, detail, {"missing": missing})


def _check_evaluated(evidence: Evidence, params: PromotionParams) -> Check:
    """Check that the version can be scored now, and that stored probabilities are reproduced."""
    rows, stored = evidence.candidate.scored, evidence.candidate.stored
    if rows is None or not len(rows):
        fault = evidence.candidate.scoring_fault or "the test split holds no rows"
        return Check("evaluated", False, f"{_NOT_SCORED}: {fault}")
    scored = f"{rows.describe_size()[4:]} scored now"
    if stored is None or not (pairs := _pair_rows(stored, rows)).size:
        return Check("evaluated", True, f"{scored}; the bundle stores no prediction of them")
    before, now = stored.probabilities[pairs[0]], rows.probabilities[pairs[1]]
    differences = np.abs(before - now).max(axis=1)
    count, largest = len(differences), float(differences.max())
    over = int((differences > params.tolerance).sum())
    numbers = {"n": len(rows), "stored": count, "largest_difference": largest, "over": over}
    compared = f"the {count:,} stored probabilities agree within {largest:.1g}"
    if over:
        compared = f"{over} of the {count:,} stored probabilities differ by more than "
        compared += f"{params.tolerance:g}, at most by {largest:.2g}"
    return Check("evaluated", not over, f"{scored}; {compared}", numbers)


def _pair_rows(stored: Predictions, rows: Predictions) -> np.ndarray:
    """Find the rows of the same patch and patient in both, as two rows of positions."""
    if stored.classes != rows.classes:
        return np.empty((2, 0), dtype=np.int64)
    place = {key: i for i, key in enumerate(_name_rows(stored))}
    pairs = [(place[key], i) for i, key in enumerate(_name_rows(rows)) if key in place]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def _name_rows(rows: Predictions) -> list[tuple[Any, Any]]:
    subjects = np.zeros(len(rows)) if rows.subjects is None else rows.subjects
    return list(zip(rows.keys.tolist(), subjects.tolist(), strict=True))


def _check_alarms(evidence: Evidence) -> Iterator[Check]:
    """Refuse each alarm and each alarm check that was not made; count those that passed."""
    if not evidence.alarms:
        fault = evidence.alarms_fault or "alarms were not computed for this version"
        yield Check("alarms", False, f"{fault}: dvc repro alarms")
        return
    passed = [c.name for c in evidence.alarms if c.outcome == "passed"]
    if passed:
        detail = f"{len(passed)} of {len(evidence.alarms)} alarm checks passed: "
        detail += ", ".join(dict.fromkeys(passed))
        yield Check("alarms", True, detail, {"passed": passed})
    for check in evidence.alarms:
        if check.outcome != "passed":
            yield Check(f"alarm[{check.name}]", False, check.detail, render(check.numbers))


def _check_external(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Check that the version was validated on another data set, if that is required."""
    if not params.requires_validation(evidence.kind):
        return
    names = ", ".join(evidence.validated_on)
    detail = f"validated on {names}" if names else "not validated elsewhere: histofuse validate"
    if evidence.kind not in ("", *VALIDATED):
        detail = f"histofuse validate cannot measure a {evidence.kind} model, so this is never "
        detail += f"met: set promotion.external_validation to [{', '.join(VALIDATED)}], or fewer"
    yield Check("external_validation", bool(names), detail)


def _check_minimums(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    rows = evidence.candidate.scored
    if rows is None:
        yield Check("minimum", False, _NOT_SCORED)
        return
    limits = params.minimums.select(rows.unit, rows.focus_class)
    bootstrap = Bootstrap(params.intervals, evidence.seed)
    resampled = bootstrap.resample_metrics(rows, list(limits))
    for metric, limit in limits.items():
        measured = measure_conservatively(resampled, metric, params)
        side = "below" if measured.lower_is_better else "above"
        value = _show(measured.interval.value)
        detail = f"{value}, {measured.explanation}; must be {side} {limit:g}"
        passed = measured.clears(limit, strictly=True)
        yield Check(f"minimum[{metric}]", passed, detail, measured.to_dict() | {"limit": limit})


def _check_detection(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Compare the lower ends of a detector's test metrics with their limits."""
    if evidence.detection is None:
        detail = "not measured for this version: dvc repro evaluate_detector"
        yield Check("minimum", False, detail)
        return
    for metric, limit in params.detector.items():
        measured = evidence.detection[metric]
        value, low = measured["value"], measured["low"]
        ends = show_ends(low, measured["high"]) or "no interval, too few test cases"
        detail = f"{_show(value)}, {ends}; must be above {limit:g}"
        passed = low is not None and low > limit
        yield Check(f"minimum[{metric}]", passed, detail, {**measured, "limit": limit})


@dataclass(frozen=True)
class _Rival:
    """A model that the version is compared with."""

    check: str  # name of the checks
    key: str  # of its value in the numbers
    title: str
    rows: Predictions
    margins: Mapping[str, float]  # metric -> how much worse the version may be


def _check_encoder(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Compare a fusion model with its own image encoder, which is what it has to improve on.

    It is refused if the whole paired interval is on the worse side of 0, or if the difference
    itself is larger than the margin. An interval that holds 0 alone does not refuse it: test sets
    are small.
    """
    if evidence.kind != "fusion":
        return
    new, encoder = evidence.candidate.scored, evidence.encoder
    if new is None or encoder is None:
        fault = evidence.encoder_fault if new is not None else ""
        detail = f"its image encoder was {_NOT_SCORED}: {fault}" if fault else _NOT_SCORED
        yield Check("not_worse_than_encoder", False, detail)
        return
    rows = encoder.take(np.flatnonzero(np.isin(encoder.keys, new.keys)))
    margins = {name_focus(m, new.focus_class): v for m, v in params.encoder_margins.items()}
    rival = _Rival("not_worse_than_encoder", "encoder", "its image encoder", rows, margins)
    yield from _compare_with_part(new, rival, evidence.seed, params)


def is_of_one_side(config: Mapping[str, Any]) -> bool:
    """Whether a model at patient level reads one side alone."""
    return config.get("architecture", {}).get("kind") == "side"


def _check_sides(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Compare a model at patient level with its own answers where one side is given.

    That it is not worse than either says that it is not worse than the better one.
    """
    if evidence.kind != "patient" or is_of_one_side(evidence.candidate.config):
        return
    new = evidence.candidate.scored
    if new is None or not evidence.alone:
        fault = f": {evidence.alone_fault}" if evidence.alone_fault else ""
        yield Check("not_worse_than_side", False, f"with one side it was {_NOT_SCORED}{fault}")
        return
    margins = {name_focus(m, new.focus_class): v for m, v in params.side_margins.items()}
    for side, rows in evidence.alone.items():
        name = f"not_worse_than_{side}"
        rival = _Rival(name, "alone", f"its own answer from the {side} alone", rows, margins)
        yield from _compare_with_part(new, rival, evidence.seed, params)


def _compare_with_part(
    new: Predictions, rival: _Rival, seed: int, params: PromotionParams
) -> Iterator[Check]:
    def is_not_worse(measured: ConservativeMetric, margin: float) -> bool:
        sign = -1 if measured.lower_is_better else 1
        worse = "above" if measured.lower_is_better else "below"
        side = find_side(measured.interval, params.fewest_groups)
        value = measured.interval.value
        return value is not None and sign * value >= -margin and side != worse

    yield from _compare(new, rival, is_not_worse, seed, params)


def _check_not_worse(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Compare the version with the one in production, on the same rows and resamples.

    It passes if the worse end of the paired interval is within the margin.
    """
    new, production = evidence.candidate.scored, evidence.production
    if production is None:
        yield Check("not_worse", True, "no version in production to compare with")
        return
    version, old = production.title, production.scored
    if new is None:
        yield Check("not_worse", False, _NOT_SCORED)
        return
    if old is None:
        fault = production.scoring_fault or production.bundle_fault
        yield Check("not_worse", False, f"{version} in production could not be scored: {fault}")
        return
    fair = _drop_seen(old, production.stored, params)
    left_out = old.count_groups() - fair.count_groups()
    seen = f"{left_out:,} of the {old.count_groups():,} test {old.group_unit}"
    if fair.count_groups() < 2:
        detail = f"not comparable: {version} in production was trained on {seen}; "
        yield Check("not_worse", True, f"{detail}the minimums decide")
        return
    if len(fair) < len(old):
        version += f" (trained on {seen}, which are left out)"
        new = new.take(np.flatnonzero(np.isin(new.keys, fair.keys)))
    margins = params.margins.select(new.unit, new.focus_class)
    rival = _Rival("not_worse", "production", version, fair, margins)

    def is_within(measured: ConservativeMetric, margin: float) -> bool:
        limit = margin if measured.lower_is_better else -margin
        return measured.clears(limit, strictly=False)

    yield from _compare(new, rival, is_within, evidence.seed, params)


def _drop_seen(
    rows: Predictions, stored: Predictions | None, params: PromotionParams
) -> Predictions:
    """Drop the test rows that a version has seen in training or validation."""
    if stored is None:
        return rows
    tables = tabulate_rows(rows), tabulate_rows(stored)
    marks = mark_seen(rows.kind, *tables, params.split_units)
    return rows.take(np.flatnonzero(~np.any([m.notna() for m in marks.values()], axis=0)))


def _compare(
    new: Predictions,
    rival: _Rival,
    passes: Callable[[ConservativeMetric, float], bool],
    seed: int,
    params: PromotionParams,
) -> Iterator[Check]:
    """Compare on the same rows and resamples; `passes` is given a difference and its margin."""
    try:
        old = align_rows(rival.rows, new)
    except InputError as error:
        faults = "; ".join(map(str, error.faults))
        yield Check(rival.check, False, f"cannot be compared with {rival.title}: {faults}")
        return
    bootstrap = Bootstrap(params.intervals, seed)
    level = _meet_recall(new, old)
    resampled = bootstrap.resample_differences(level, old, list(rival.margins))
    before, after = _measure(old), _measure(level)
    recall = f", both at recall {_show(before[f'recall/{new.focus_class}'])}"
    for metric, margin in rival.margins.items():
        measured = measure_conservatively(resampled, metric, params)
        was, now = before[metric], after[metric]
        difference = _show(measured.interval.value, "+")
        detail = f"{_show(now)} against {_show(was)} of {rival.title}"
        detail += f"{recall if metric.startswith('precision') else ''}: {difference}, "
        detail += f"{measured.explanation}; margin {margin:g}"
        numbers = measured.to_dict() | {
            "new": now,
            rival.key: was,
            "margin": margin,
            "probability_above": resampled.probability_above(metric, 0.0),
        }
        yield Check(f"{rival.check}[{metric}]", passes(measured, margin), detail, numbers)
    yield _show_decisions(rival, before, _measure(new), new.focus_class)


def _meet_recall(new: Predictions, old: Predictions) -> Predictions:
    """Let a version decide at the threshold where it finds as much of the class in focus.

    Where it does not decide for that class it decides for the likeliest other.
    """
    focus = new.classes.index(new.focus_class)
    own, score = new.labels == focus, new.probabilities[:, focus]
    wanted = int((old.predictions[own] == focus).sum())
    threshold = np.sort(score[own])[-wanted] if wanted else np.inf
    others = np.where(np.arange(len(new.classes)) == focus, -1.0, new.probabilities)
    decided = np.where(score >= threshold, focus, others.argmax(axis=1))
    return replace(new, predictions=decided)


def _measure(rows: Predictions) -> dict[str, float | None]:
    return {n.removeprefix("test/"): v for n, v in measure_rows(rows, "test").items()}


def _show_decisions(
    rival: _Rival, before: Mapping[str, float | None], after: Mapping[str, float | None], focus: str
) -> Check:
    """Show what both models decide, each at thresholds of its own; nothing is refused by it."""
    names = ("accuracy", f"precision/{focus}", f"recall/{focus}")
    shown = ", ".join(f"{n} {_show(after[n])} against {_show(before[n])}" for n in names)
    detail = f"{shown} of {rival.title}, each at its own thresholds: shown, not compared"
    numbers = {name: {"new": after[name], rival.key: before[name]} for name in names}
    return Check(f"{rival.check}[decisions]", True, detail, numbers)


def _show(value: float | None, sign: str = "") -> str:
    return "not defined" if value is None else show_value(value, sign=sign)


def _check_faithfulness(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Compare metrics of its explanations with limits, by the lower end if there is an interval."""
    for metric, limit in params.faithfulness_minimums.get(evidence.kind, {}).items():
        name, measured = f"faithfulness[{metric}]", (evidence.faithfulness or {}).get(metric)
        if measured is None or measured["value"] is None:
            detail = "not measured for this version: run the explain stages with dvc repro"
            yield Check(name, False, detail, {"limit": limit})
            continue
        value, low = measured["value"], measured["low"]
        ends = show_ends(low, measured["high"]) or "no interval"
        detail = f"{value:.3f}, {ends} over {measured['n']:,}; must be above {limit:g}"
        passed = (value if low is None else low) > limit
        yield Check(name, passed, detail, {**measured, "limit": limit})
