"""Alarm checks of one model: shared rows, implausible scores, and what was fitted on which rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import PREDICTIONS, WEIGHTS, open_bundle
from histofuse.core.naming import show_ends, show_value
from histofuse.core.seeding import derive_seed
from histofuse.evaluation.alarms.checks import AlarmCheck, AlarmRules, make_check, skip_check
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.sides import find_side
from histofuse.evaluation.metrics.weighted import measure_rows
from histofuse.evaluation.predictions import Predictions, read_predictions
from histofuse.models.tabular import ENCODER
from histofuse.params.pairing import LEAKY_RULES
from histofuse.params.promotion import AlarmParams, name_focus
from histofuse.training.calibrate import Calibrator, fit_calibrator
from histofuse.training.decision import (
    list_decision_splits,
    load_decision,
    name_decision_rows,
)
from histofuse.training.thresholds import Thresholds, fit_thresholds


@dataclass(frozen=True)
class AlarmModel:
    """What the alarm checks read from a bundle."""

    name: str
    config: Mapping[str, Any]
    digest: str
    # its predictions on every split; None if the bundle does not hold them
    rows: Predictions | None
    calibrator: Calibrator
    thresholds: Thresholds
    # ``encoder.json`` of the record it reads; None for image models
    encoder: Mapping[str, Any] | None
    # mean and spread by which a fusion model standardises image embeddings
    scaler: tuple[np.ndarray, np.ndarray] | None
    # its predictions on the current test split, if they were computed again
    scored: Predictions | None = None

    @property
    def kind(self) -> str:
        """``image``, ``tabular``, ``fusion`` or ``patient``."""
        return self.config["kind"]


def read_model(path: Path, patient: Path | None = None) -> AlarmModel:
    """Read a bundle; `patient` is the folder of a fusion model's patient encoder."""
    bundle = open_bundle(path, row_level=False)
    config = bundle.config
    has_rows = (path / PREDICTIONS).is_file()
    record = path if config["kind"] in ("tabular", "patient") else patient
    encoder = record / ENCODER if record else None
    return AlarmModel(
        bundle.name,
        config,
        bundle.digest,
        read_predictions(bundle) if has_rows else None,
        *load_decision(path),
        encoder=load_json(encoder) if encoder and encoder.is_file() else None,
        scaler=_read_scaler(path) if config["kind"] == "fusion" else None,
    )


def _read_scaler(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from safetensors.numpy import load_file

    arrays = load_file(path / WEIGHTS)
    return arrays["image_scaler.mean"], arrays["image_scaler.scale"]


def check_model(
    model: AlarmModel, test: pd.DataFrame | None, rules: AlarmRules
) -> Iterator[AlarmCheck]:
    """Check a bundle and the rows of the current test split, as of `tabulate_rows`, or None."""
    params = rules.alarms
    if model.kind == "fusion":
        yield check_pairing(model.name, model.config)
    if model.rows is None or model.rows.logits is None:
        why = "the bundle holds no predictions; dvc repro alarms"
        names = ("shared_rows", "training_rows", "too_good", "validation_test_gap")
        for name in (*names, "calibrator", "threshold"):
            yield skip_check(name, model.name, (model.kind,), why)
        return
    yield check_shared_rows(model.rows, rules.split_units)
    yield check_training_rows(model.rows, test, rules.split_units)
    scored = model.rows.of("test") if model.scored is None else model.scored
    yield check_too_good(scored, rules.alarm_at, rules.alarm_metrics)
    yield from check_validation_test_gap(model.rows, params, rules.bootstrap)
    yield check_calibrator(model, params.fit_tolerance)
    yield check_thresholds(model, params.fit_tolerance)


def check_pairing(name: str, config: Mapping[str, Any]) -> AlarmCheck:
    """Check that the pairs of a fusion model do not follow the label."""
    rule = config.get("pairing", {}).get("rule")
    leaky = rule in LEAKY_RULES or bool(config.get("leaky"))
    detail = f"rule {rule or 'not stated'}"
    detail += ": the patient is chosen by the label and gives it away" if leaky else ""
    return make_check("pairing", name, ("fusion",), leaky or not rule, detail, {"rule": rule})


def tabulate_rows(rows: Predictions) -> pd.DataFrame:
    """Tabulate what rows belong to: ``patch_id``, ``case_id``, ``subject_id`` and ``split``."""
    subjects = rows.subjects if rows.on_patches else rows.groups
    names = {"patch_id": rows.keys, "case_id": rows.groups, "subject_id": subjects}
    return pd.DataFrame(names | {"split": rows.split})


def list_units(kind: str, rows: pd.DataFrame, split_units: Sequence[str]) -> dict[str, pd.Series]:
    """List what two splits must not share: ``cases``, ``frames`` or ``patients`` of each row."""
    if kind in ("tabular", "patient"):
        return {"patients": rows["subject_id"]}
    if "frame" in split_units:  # "Case_10-03/0042" is a patch of the frame "Case_10-03"
        units = {"frames": rows["patch_id"].str.rsplit("/", n=1).str[0]}
    else:
        units = {"cases": rows["case_id"]}
    return units | ({"patients": rows["subject_id"]} if kind == "fusion" else {})


def mark_seen(
    kind: str, test: pd.DataFrame, stored: pd.DataFrame, split_units: Sequence[str]
) -> dict[str, pd.Series]:
    """Name what current test rows share with training or validation rows; None where nothing."""
    seen = list_units(kind, stored[stored["split"] != "test"], split_units)
    units = list_units(kind, test, split_units)
    return {unit: names.where(names.isin(seen[unit])) for unit, names in units.items()}


def check_shared_rows(rows: Predictions, split_units: Sequence[str]) -> AlarmCheck:
    """Count cases (frames if the split may be by frame) and patients in several splits."""
    units = list_units(rows.kind, tabulate_rows(rows), split_units)
    shared = {
        unit: int((pd.Series(rows.split).groupby(names.to_numpy()).nunique() > 1).sum())
        for unit, names in units.items()
    }
    counts = " and ".join(f"{n:,} of its {unit}" for unit, n in shared.items())
    detail = f"{counts} are in more than one split"
    alarm = any(shared.values())
    return make_check("shared_rows", rows.name, (rows.kind,), alarm, detail, {"shared": shared})


def check_training_rows(
    rows: Predictions, test: pd.DataFrame | None, split_units: Sequence[str]
) -> AlarmCheck:
    """Count what is in the current test split and was in the model's training or validation."""
    name, kinds = "training_rows", (rows.kind,)
    if test is None:
        return skip_check(name, rows.name, kinds, "the current split is missing; dvc repro")
    marks = mark_seen(rows.kind, test, tabulate_rows(rows), split_units)
    totals = {u: n.nunique() for u, n in list_units(rows.kind, test, split_units).items()}
    seen = {unit: marked.nunique() for unit, marked in marks.items()}
    counts = " and ".join(f"{n:,} of {totals[unit]:,} test {unit}" for unit, n in seen.items())
    detail = f"{counts} were in its training or validation rows"
    return make_check(name, rows.name, kinds, any(seen.values()), detail, {"seen": seen})


def check_too_good(rows: Predictions, alarm_at: float, alarm_metrics: Sequence[str]) -> AlarmCheck:
    """Look for a score of the test rows at or above a limit."""
    measured = measure_rows(rows, "test")
    metrics = [name_focus(m, rows.focus_class) for m in alarm_metrics]
    values = {metric: measured.get(f"test/{metric}") for metric in metrics}
    high = [m for m, v in values.items() if v is not None and v >= alarm_at]
    scores = ", ".join(f"{m} {show_value(v)}" for m, v in values.items())
    limit = f"{alarm_at:g}"
    detail = (
        f"test {scores}; {f'{limit} or more: look for a leak' if high else f'all below {limit}'}"
    )
    numbers = {"values": values, "at": alarm_at}
    return make_check("too_good", rows.name, (rows.kind,), bool(high), detail, numbers, "suspicion")


def check_validation_test_gap(
    rows: Predictions, params: AlarmParams, bootstrap: Bootstrap
) -> Iterator[AlarmCheck]:
    """Compare test with validation; they share no case, so each is resampled by itself."""
    gap = params.validation_test_gap
    limits = gap.select(rows.unit, rows.focus_class)
    metrics = list(limits)
    test, validation = (
        replace(bootstrap, seed=derive_seed(bootstrap.seed, split)).resample_metrics(
            rows.of(split), metrics
        )
        for split in ("test", "validation")
    )
    difference = test.minus(validation)
    for column, (metric, margin) in enumerate(limits.items()):
        name, kinds = f"validation_test_gap[{metric}]", (rows.kind,)
        interval = difference.interval(metric, "percentile")
        if interval.value is None:
            yield skip_check(name, rows.name, kinds, "not defined on validation or on test")
            continue
        large = abs(interval.value) > margin
        ends = show_ends(interval.low, interval.high, "+")
        # An alarm asks for a look and claims nothing, so few cases do not silence it.
        if ends and find_side(interval, fewest_groups=2) == "inconclusive":
            large = False
        ends = ends or "no interval, the margin decides"
        scores = [float(r.values[column]) for r in (test, validation)]
        detail = (
            f"test {scores[0]:.3f}, validation {scores[1]:.3f}: {interval.value:+.3f}, {ends}; "
        )
        detail += f"margin {margin:g}"
        numbers = {"test": scores[0], "validation": scores[1], "difference": interval.value}
        numbers |= {"low": interval.low, "high": interval.high, "margin": margin}
        yield make_check(name, rows.name, kinds, large, detail, numbers, "suspicion")


def check_calibrator(model: AlarmModel, tolerance: float) -> AlarmCheck:
    """Refit the calibrator on validation rows and compare it with the stored one."""
    assert model.rows is not None and model.rows.logits is not None
    logits, groups, stored = model.rows.logits, model.rows.groups, model.calibrator

    def measure_gap(rows: np.ndarray, labels: np.ndarray) -> float:
        again = fit_calibrator(logits[rows], labels, groups[rows], stored.method)
        return float(np.abs(again.probabilities(logits) - stored.probabilities(logits)).max())

    return _check_fit("calibrator", model, measure_gap, stored.fitted_on.per_class, tolerance)


def check_thresholds(model: AlarmModel, tolerance: float) -> AlarmCheck:
    """Refit the thresholds on validation rows and compare them with the stored ones."""
    stored = model.thresholds
    assert model.rows is not None and model.rows.logits is not None
    probabilities = model.calibrator.probabilities(model.rows.logits)

    def measure_gap(rows: np.ndarray, labels: np.ndarray) -> float:
        again = fit_thresholds(probabilities[rows], labels, stored.rule)
        return float(np.abs(np.subtract(again.values, stored.values)).max())

    return _check_fit("threshold", model, measure_gap, stored.fitted_on.per_class, tolerance)


def _check_fit(
    name: str,
    model: AlarmModel,
    measure_gap: Callable[[np.ndarray, np.ndarray], float],
    stated: Sequence[int],
    tolerance: float,
) -> AlarmCheck:
    """Check that something was fitted on rows that the model did not learn from.

    `measure_gap` refits on a mask of rows and their labels, and returns the largest difference;
    `stated` are the rows of each class that the fit names.
    """
    assert model.rows is not None
    strategy = model.config.get("params", {}).get("strategy")
    rows = np.isin(model.rows.split, list_decision_splits(strategy))
    labels, fitted = model.rows.labels[rows], name_decision_rows(strategy)
    counts = np.bincount(labels, minlength=len(model.rows.classes)).tolist()
    gap = measure_gap(rows, labels)
    same_counts = list(stated) in (counts, [sum(counts)])  # of restricted data the sum alone
    numbers: dict[str, Any] = {"gap": gap, "rows_stated": sum(stated)}
    numbers |= {"validation_rows": sum(counts), "same_classes": same_counts}
    if gap <= tolerance and same_counts:
        detail = f"fitted on the {sum(counts):,} {fitted} rows, within {max(gap, 1e-9):.1g}"
        return make_check(name, model.name, (model.kind,), False, detail, numbers)
    parts = [f"differs from a fit on {fitted} rows by {gap:.2g}"] if gap > tolerance else []
    if not same_counts:
        parts.append(f"states {sum(stated):,} rows, and {fitted} has {sum(counts):,}")
    return make_check(name, model.name, (model.kind,), True, "; ".join(parts), numbers)


def check_scaler(
    model: AlarmModel,
    embedded: Mapping[str, Float[np.ndarray, "n dim"]],
    *,
    standardised: bool,
    tolerance: float,
) -> AlarmCheck:
    """Recompute means and spreads of image embeddings on the head's pairs, in units of spread."""
    assert model.scaler is not None
    name, kinds, scaler = "scaler", (model.kind,), model.scaler
    if not standardised:
        identity = not np.any(scaler[0]) and bool((scaler[1] == 1).all())
        detail = "embeddings are not standardised" + ("" if identity else ", and yet are shifted")
        return make_check(name, model.name, kinds, not identity, detail)
    held_out = model.config["params"].get("head_rows") == "held_out"
    learnt, pairs = ("validation", "validation") if held_out else ("train", "training")
    gap, count = _compare_scaler(scaler, embedded[learnt]), len(embedded[learnt])
    detail = f"means and spreads are those of the {count:,} {pairs} pairs"
    if gap > tolerance:
        detail = f"differs from the {pairs} pairs by {gap:.2g} of a spread"
    numbers = {"gap": gap, f"{learnt}_rows": count}
    return make_check(name, model.name, kinds, gap > tolerance, detail, numbers)


def _compare_scaler(stored: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> float:
    """Find the largest difference of a mean or a spread, relative to the spread."""
    if not len(values):
        return float("inf")
    spread = values.std(axis=0, dtype=np.float64)
    scale = np.where(spread > SMALLEST_SPREAD, spread, 1.0)
    off = np.abs(stored[0] - values.mean(axis=0, dtype=np.float64)), np.abs(stored[1] - scale)
    return float(max((o / scale).max() for o in off))


# As `models.standardiser.SMALLEST_SPREAD`, which takes torch to import.
SMALLEST_SPREAD: Final = 1e-6
