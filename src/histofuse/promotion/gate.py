"""The gate before production: what a version must show, each answer with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from histofuse.core.errors import InputError
from histofuse.evaluation.alarms.checks import AlarmCheck
from histofuse.evaluation.focus import find_minority_class, name_bars
from histofuse.evaluation.metrics.bootstrap import Bootstrap, align_rows
from histofuse.evaluation.metrics.classification import classification_metrics
from histofuse.evaluation.predictions import Predictions
from histofuse.params.pairing import LEAKY_RULES
from histofuse.params.promotion import Bars, PromotionParams
from histofuse.promotion.limits import read_cautiously

_DECISION: Final = ("config.json", "calibrator.json", "threshold.json")
_RECORD: Final = ("encoder.json", "feature_order.json")
# What the files of a registered model must hold beside its weights.
FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "image": tuple(f"bundle/{name}" for name in _DECISION),
    "tabular": tuple(f"bundle/{name}" for name in (*_DECISION, *_RECORD)),
    "fusion": (
        *(f"bundle/{name}" for name in _DECISION),
        *(f"encoders/image/{name}" for name in _DECISION),
        *(f"encoders/patient/{name}" for name in (*_DECISION, *_RECORD)),
    ),
}
# The input, of those a bundle's config names, that says which rows were trained on.
_SPLIT_INPUT: Final[Mapping[str, str]] = {
    "image": "splits",
    "tabular": "encoded",
    "fusion": "pairs",
}


@dataclass(frozen=True)
class Scored:
    """A registered version, scored on the test split of today.

    Attributes:
        version: Its number in the registry.
        digest: Its bundle's digest.
        config: Its bundle's ``config.json``; empty where it cannot be read.
        bundle_fault: Why the bundle could not be verified or loaded; empty where it was.
        scored: What it predicts now, rows of the test split alone; None where it could not.
        scoring_fault: Why it could not; empty where it did.
        stored: What its bundle says it predicted when it was trained, every split; None where its
            row-level files did not travel.
    """

    version: int
    digest: str
    config: Mapping[str, Any]
    bundle_fault: str
    scored: Predictions | None
    scoring_fault: str
    stored: Predictions | None


@dataclass(frozen=True)
class Evidence:
    """All the gate looks at; gathering it is another's work.

    Attributes:
        registered: Name of the registered model, such as ``histofuse-fusion``.
        candidate: The version that asks.
        production: The version in production; None where there is none.
        files: Files of the registered model, relative to its artifacts:
            ``bundle/calibrator.json``, ``encoders/image/manifest.json``.
        signature: Whether it is registered with a signature of its inputs and outputs.
        card: Whether it has a model card.
        patch_audit: ``patches_audit.json`` of the current split; None where there is none.
        patient_audit: ``patients_audit.json`` of the current split; None where there is none.
        seed: Of the bootstrap.
        inputs: Digests of today's inputs by their names in ``config.json``, those that are known:
            what tells the rows trained on where the candidate's stored predictions did not travel.
        alarms: The alarm checks of the candidate and of the data under it; None where they were
            not made.
        alarms_fault: Why they were not.
        faithfulness: Metrics of its explanations, each with ``value``, ``low``, ``high`` and ``n``;
            None where they were not measured, or for another version.
    """

    registered: str
    candidate: Scored
    production: Scored | None
    files: frozenset[str]
    signature: bool
    card: bool
    patch_audit: Mapping[str, Any] | None
    patient_audit: Mapping[str, Any] | None
    seed: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    alarms: tuple[AlarmCheck, ...] | None = None
    alarms_fault: str = ""
    faithfulness: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def kind(self) -> str:
        """``image``, ``tabular`` or ``fusion``; empty where the config cannot be read."""
        return str(self.candidate.config.get("kind", ""))


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: Such as ``bundle`` or ``not_worse[auprc/mitosis]``.
        passed: Whether the answer lets the version through.
        detail: The answer in words, with its numbers; names no case and no patient.
        numbers: The same numbers, JSON-ready.
    """

    name: str
    passed: bool
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Every check there is, passed or not.

    Attributes:
        checks: In the order in which they are shown.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing refuses."""
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
    """Hold a version against every check; none hides another.

    A version that cannot be scored is refused by each check that needs its scores.
    """
    checks = [
        _check_bundle(evidence),
        _check_files(evidence),
        _check_evaluated(evidence, params),
        *_check_leakage(evidence, params),
        _check_alarm(evidence, params),
        *_check_alarms(evidence),
        *_check_minimums(evidence, params),
        *_check_not_worse(evidence, params),
        *_check_faithfulness(evidence, params),
    ]
    return Verdict(tuple(checks))


# --- what was registered ------------------------------------------------------------------------


def _check_bundle(evidence: Evidence) -> Check:
    candidate = evidence.candidate
    detail = candidate.bundle_fault or f"digest {candidate.digest[:12]} verified, loads"
    return Check("bundle", not candidate.bundle_fault, detail, {"digest": candidate.digest})


def _check_files(evidence: Evidence) -> Check:
    wanted = FILES.get(evidence.kind, FILES["image"])
    missing = [name for name in wanted if name not in evidence.files]
    missing += [] if evidence.signature else ["signature"]
    missing += [] if evidence.card else ["model card"]
    there = "calibrator, threshold, feature order, signature and model card are there"
    detail = f"lacks {', '.join(missing)}" if missing else there
    return Check("files", not missing, detail, {"missing": missing})


# --- what it says of the test split -------------------------------------------------------------


def _check_evaluated(evidence: Evidence, params: PromotionParams) -> Check:
    """Score of today, and the same as on the day of training where that is on record."""
    rows, stored = evidence.candidate.scored, evidence.candidate.stored
    if rows is None or not len(rows):
        fault = evidence.candidate.scoring_fault or "the test split holds no rows"
        return Check("evaluated", False, f"not scored on the test split of today: {fault}")
    scored = f"{rows.describe_size()[4:]} scored now"
    if stored is None or not (pairs := _pair_rows(stored, rows)).size:
        return Check("evaluated", True, f"{scored}; of these no prediction is stored")
    then, now = stored.probabilities[pairs[0]], rows.probabilities[pairs[1]]
    apart = np.abs(then - now).max(axis=1)
    largest, over = float(apart.max()), int((apart > params.tolerance).sum())
    numbers = {"n": len(rows), "stored": len(apart), "largest_difference": largest, "over": over}
    against = (
        f"{over} of the {len(apart):,} stored probabilities are off by more than "
        f"{params.tolerance:g}, the farthest by {largest:.2g}"
        if over
        else f"the {len(apart):,} stored probabilities agree{_show_gap(largest)}"
    )
    return Check("evaluated", not over, f"{scored}; {against}", numbers)


def _show_gap(largest: float) -> str:
    return f" within {largest:.1g}" if largest else " to the last digit"


def _pair_rows(stored: Predictions, rows: Predictions) -> np.ndarray:
    """Find the rows both hold, of the same patient, as two rows of positions."""
    if stored.classes != rows.classes:
        return np.empty((2, 0), dtype=np.int64)
    place = {key: i for i, key in enumerate(_name_rows(stored))}
    pairs = [(place[key], i) for i, key in enumerate(_name_rows(rows)) if key in place]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def _name_rows(rows: Predictions) -> list[tuple[Any, Any]]:
    subjects = np.zeros(len(rows)) if rows.subjects is None else rows.subjects
    return list(zip(rows.keys.tolist(), subjects.tolist(), strict=True))


# --- leakage ------------------------------------------------------------------------------------


def _check_leakage(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    if evidence.kind == "fusion":
        yield _check_pairing(evidence.candidate.config)
    if evidence.kind != "tabular":
        yield _check_image_split(evidence.patch_audit, params)
    if evidence.kind != "image":
        yield _check_patient_split(evidence.patient_audit)
    yield _check_training_rows(evidence, params)


def _check_pairing(config: Mapping[str, Any]) -> Check:
    rule = config.get("pairing", {}).get("rule")
    leaky = bool(config.get("leaky")) or rule in LEAKY_RULES
    tells = ": the patient was chosen by the label, and gives it away" if leaky else ""
    detail = f"rule {rule or 'not stated'}{tells}"
    return Check("leakage[pairing]", rule is not None and not leaky, detail, {"rule": rule})


def _check_image_split(audit: Mapping[str, Any] | None, params: PromotionParams) -> Check:
    name = "leakage[images]"
    if audit is None:
        return Check(name, False, "the split of the images has no audit; run dvc repro")
    unit, validation_unit = audit["unit"], audit["validation_unit"]
    shared = _count_shared(audit)
    detail = f"split by {unit} ({validation_unit} for validation); {_show_shared(shared)}"
    allowed = set(params.split_units)
    passed = unit in allowed and not audit["leaky"] and not shared
    if unit not in allowed:
        detail += f"; expected a split by {' or '.join(params.split_units)}"
    return Check(name, passed, detail, {"unit": unit, "shared": shared})


def _check_patient_split(audit: Mapping[str, Any] | None) -> Check:
    name = "leakage[patients]"
    if audit is None:
        return Check(name, False, "the split of the patients has no audit; run dvc repro")
    shared = _count_shared(audit)
    return Check(name, not shared, f"split by patient; {_show_shared(shared)}", {"shared": shared})


def _count_shared(audit: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count what the test split shares with the others and may not, by the unit of the split."""
    found = {
        pair: {what: counts[what] for what in audit["forbidden"][pair] if counts[what]}
        for pair, counts in audit["shared"].items()
        if "test" in pair.split("-")
    }
    return {pair: counts for pair, counts in found.items() if counts}


def _show_shared(shared: Mapping[str, Mapping[str, int]]) -> str:
    parts = [
        f"{pair} share {count} {what.replace('_', ' ')}"
        for pair, counts in shared.items()
        for what, count in counts.items()
    ]
    return ", ".join(parts) or "test shares nothing with training or validation"


def _check_training_rows(evidence: Evidence, params: PromotionParams) -> Check:
    """What is test today may have been training in the model's own day."""
    name, rows = "leakage[training_rows]", evidence.candidate.scored
    if rows is None:
        return Check(name, False, "not scored on the test split of today")
    stored = evidence.candidate.stored
    if stored is None:
        return _check_split_digest(name, evidence)
    counts = {
        what: (len(np.unique(names[seen])), len(np.unique(names)))
        for what, (names, seen) in _mark_seen(rows, stored, params).items()
    }
    parts = [f"{count} of {total:,} test {what}" for what, (count, total) in counts.items()]
    detail = f"{' and '.join(parts)} were in its training or validation rows"
    numbers = {what: count for what, (count, _) in counts.items()}
    return Check(name, not any(numbers.values()), detail, numbers)


def _check_split_digest(name: str, evidence: Evidence) -> Check:
    what = _SPLIT_INPUT.get(evidence.kind, "splits")
    trained = evidence.candidate.config.get("inputs", {}).get(what)
    today = evidence.inputs.get(what)
    same = trained is not None and trained == today
    known = "was trained on the split of today" if same else "was trained on another split"
    if trained is None or today is None:
        known = "the split it was trained on is not known"
    detail = f"its predictions did not travel; by the digest of its {what} it {known}"
    return Check(name, same, detail, {"trained": trained, "today": today})


def _mark_seen(
    rows: Predictions, stored: Predictions, params: PromotionParams
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mark the test rows of today that a model knows from its own day.

    Returns:
        What must not be shared (cases, or frames where a split by frame is allowed; patients) ->
        its name for each row, and whether that name was among training or validation rows.
    """
    past = stored.take(np.flatnonzero(stored.split != "test"))
    by_frame = rows.on_patches and "frame" in params.split_units
    names = {"frames": [_name_frames(m) for m in (rows, past)]} if by_frame else {}
    if not by_frame:
        names[rows.group_unit] = [rows.groups, past.groups]
    if rows.on_patches and rows.subjects is not None and past.subjects is not None:
        names["patients"] = [rows.subjects, past.subjects]
    return {what: (now, np.isin(now, then)) for what, (now, then) in names.items()}


def _name_frames(rows: Predictions) -> np.ndarray:
    """Name the frame of each patch: "Case_10-03/0042" -> "Case_10-03"."""
    return np.array([key.rsplit("/", 1)[0] for key in rows.keys.tolist()], dtype=object)


def _check_alarm(evidence: Evidence, params: PromotionParams) -> Check:
    """A score too good to be true on an honest split."""
    rows = evidence.candidate.scored
    if rows is None:
        return Check("alarm", False, "not scored on the test split of today")
    found = classification_metrics(
        rows.labels, rows.probabilities, rows.predictions, rows.classes, "test"
    )
    minority = find_minority_class(rows)
    names = [metric.replace("minority", minority) for metric in params.alarm_metrics]
    values = {name: found[f"test/{name}"] for name in names}
    loud = [
        name for name, value in values.items() if value is not None and value >= params.alarm_at
    ]
    shown = ", ".join(
        f"{n} {'not defined' if v is None else f'{v:.3f}'}" for n, v in values.items()
    )
    bar = f"{params.alarm_at:g}"
    detail = f"{shown}; {f'look for a leak: at or above {bar}' if loud else f'all below {bar}'}"
    return Check("alarm", not loud, detail, {"values": values, "at": params.alarm_at})


def _check_alarms(evidence: Evidence) -> Iterator[Check]:
    """Refuse on each alarm, and on each check that could not be made; passed ones are counted."""
    if not evidence.alarms:
        fault = evidence.alarms_fault or "alarms were not computed for this version"
        yield Check("alarms", False, f"{fault}: dvc repro alarms")
        return
    passed = [c for c in evidence.alarms if c.outcome == "passed"]
    if passed:
        names = [c.name for c in passed]
        detail = f"{len(passed)} of {len(evidence.alarms)} alarm checks are silent: "
        detail += ", ".join(dict.fromkeys(names))
        yield Check("alarms", True, detail, {"passed": names})
    for check in evidence.alarms:
        if check.outcome != "passed":
            yield Check(f"alarm[{check.name}]", False, check.detail, check.to_dict()["numbers"])


# --- bars ---------------------------------------------------------------------------------------


def _choose(bars: Bars, rows: Predictions) -> dict[str, float]:
    return name_bars(bars.patches if rows.on_patches else bars.admissions, rows)


def _check_minimums(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    rows = evidence.candidate.scored
    if rows is None:
        yield Check("minimum", False, "not scored on the test split of today")
        return
    bars = _choose(params.minimums, rows)
    found = Bootstrap(params.intervals, evidence.seed).resample_metrics(rows, list(bars))
    for metric, bar in bars.items():
        reading = read_cautiously(found, metric, params)
        side = "below" if reading.lower_is_better else "above"
        detail = f"{_show(reading.interval.value)}, {reading.words}; must be {side} {bar:g}"
        numbers = {**reading.to_dict(), "bar": bar}
        yield Check(f"minimum[{metric}]", reading.clears(bar, strictly=True), detail, numbers)


def _check_not_worse(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Hold the new version against the one in production on the same rows and resamples."""
    new, production = evidence.candidate.scored, evidence.production
    if production is None:
        yield Check("not_worse", True, "nothing is in production to compare with")
        return
    version, old = f"version {production.version}", production.scored
    if new is None:
        yield Check("not_worse", False, "not scored on the test split of today")
    elif old is None:
        fault = production.scoring_fault or production.bundle_fault
        yield Check("not_worse", False, f"{version} in production could not be scored: {fault}")
    else:
        fair = _drop_seen(old, production.stored, params)
        left_out = old.count_groups() - fair.count_groups()
        of = f"{left_out:,} of the {old.count_groups():,} test {old.group_unit}"
        if fair.count_groups() < 2:
            detail = f"{version} in production was trained on {of}: no yardstick"
            yield Check("not_worse", True, f"{detail}; the minimums stand alone")
            return
        if len(fair) < len(old):
            version += f" (trained on {of}, which are left out)"
            new = new.take(np.flatnonzero(np.isin(new.keys, fair.keys)))
        yield from _compare(new, fair, version, evidence.seed, params)


def _drop_seen(
    rows: Predictions, stored: Predictions | None, params: PromotionParams
) -> Predictions:
    """Drop the test rows of today that a version was trained on in its own day."""
    if stored is None:
        return rows
    marks = [seen for _, seen in _mark_seen(rows, stored, params).values()]
    return rows.take(np.flatnonzero(~np.any(marks, axis=0)))


def _compare(
    new: Predictions, old: Predictions, version: str, seed: int, params: PromotionParams
) -> Iterator[Check]:
    margins = _choose(params.margins, new)
    try:
        old = align_rows(old, new)
    except InputError as error:
        faults = "; ".join(map(str, error.faults))
        yield Check("not_worse", False, f"cannot be compared with {version}: {faults}")
        return
    bootstrap = Bootstrap(params.intervals, seed)
    found = bootstrap.resample_differences(new, old, list(margins))
    before, after = (
        classification_metrics(m.labels, m.probabilities, m.predictions, m.classes, "test")
        for m in (old, new)
    )
    for metric, margin in margins.items():
        reading = read_cautiously(found, metric, params)
        was, now = before[f"test/{metric}"], after[f"test/{metric}"]
        apart = _show(reading.interval.value, "+")
        detail = f"{_show(now)} against {_show(was)} of {version}: {apart}, {reading.words}"
        numbers = {
            **reading.to_dict(),
            "new": now,
            "production": was,
            "margin": margin,
            "probability_above": found.probability_above(metric, 0.0),
        }
        bar = margin if reading.lower_is_better else -margin
        passed = reading.clears(bar, strictly=False)
        yield Check(f"not_worse[{metric}]", passed, f"{detail}; margin {margin:g}", numbers)


def _show(value: float | None, sign: str = "") -> str:
    return "not defined" if value is None else f"{value:{sign}.3f}"


def _check_faithfulness(evidence: Evidence, params: PromotionParams) -> Iterator[Check]:
    """Hold what was measured of its explanations against bars, by the lower end if there is one."""
    wanted = params.faithfulness_minimums.get(evidence.kind, {})
    for metric, bar in wanted.items():
        name, found = f"faithfulness[{metric}]", (evidence.faithfulness or {}).get(metric)
        if found is None or found["value"] is None:
            detail = "not measured for this version: dvc repro the explain stages"
            yield Check(name, False, detail, {"bar": bar})
            continue
        low = found["value"] if found["low"] is None else found["low"]
        ends = "no interval" if found["low"] is None else f"[{low:.3f}, {found['high']:.3f}]"
        detail = f"{found['value']:.3f}, {ends} over {found['n']:,}; must be above {bar:g}"
        yield Check(name, low > bar, detail, {**found, "bar": bar})
