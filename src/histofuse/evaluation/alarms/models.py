"""Alarms of one model: shared rows, scores not to be believed, fits on what must not be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.seeding import derive_seed
from histofuse.evaluation.alarms.checks import AlarmCheck, make_check, skip_check
from histofuse.evaluation.focus import find_minority_class, name_bars
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.classification import classification_metrics
from histofuse.evaluation.predictions import PREDICTIONS, Predictions, read_predictions
from histofuse.params.controls import AlarmParams
from histofuse.params.pairing import LEAKY_RULES
from histofuse.params.promotion import PromotionParams
from histofuse.training.calibrate import Calibrator, fit_calibrator
from histofuse.training.decision import load_decision
from histofuse.training.thresholds import Thresholds, fit_thresholds

WEIGHTS: Final = "weights.safetensors"
ENCODER: Final = "encoder.json"
_FITS: Final[Mapping[str, tuple[str, ...]]] = {
    "every row": ("train", "validation", "test"),
    "validation and test rows": ("validation", "test"),
    "test rows": ("test",),
    "training rows": ("train",),
    "training and validation rows": ("train", "validation"),
}


@dataclass(frozen=True)
class ModelFacts:
    """What a bundle holds that alarms look at.

    Attributes:
        name: The model's name.
        config: Its ``config.json``.
        digest: Of the bundle.
        rows: Its predictions, of every split; None for a copy without row-level files.
        calibrator: Of the bundle.
        thresholds: Of the bundle.
        encoder: ``encoder.json`` of the record it reads; None for image models.
        scaler: Mean and spread by which a fusion model standardises image embeddings.
    """

    name: str
    config: Mapping[str, Any]
    digest: str
    rows: Predictions | None
    calibrator: Calibrator
    thresholds: Thresholds
    encoder: Mapping[str, Any] | None
    scaler: tuple[np.ndarray, np.ndarray] | None

    @property
    def kind(self) -> str:
        """``image``, ``tabular`` or ``fusion``."""
        return self.config["kind"]


def read_model(path: Path, patient: Path | None = None) -> ModelFacts:
    """Read a bundle.

    Args:
        path: Its folder.
        patient: For a fusion model, the folder of its patient encoder.

    Raises:
        BundleError: If it does not match its manifest.
    """
    bundle = open_bundle(path, row_level=False)
    config = bundle.config
    record = path if config["kind"] == "tabular" else patient
    encoder = record / ENCODER if record else None
    return ModelFacts(
        bundle.name,
        config,
        bundle.digest,
        read_predictions(bundle) if (path / PREDICTIONS).is_file() else None,
        *load_decision(path),
        encoder=load_json(encoder) if encoder and encoder.is_file() else None,
        scaler=_read_scaler(path) if config["kind"] == "fusion" else None,
    )


def _read_scaler(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from safetensors.numpy import load_file

    arrays = load_file(path / WEIGHTS)
    return arrays["image_scaler.mean"], arrays["image_scaler.scale"]


def check_model(
    facts: ModelFacts,
    params: AlarmParams,
    promotion: PromotionParams,
    bootstrap: Bootstrap,
) -> Iterator[AlarmCheck]:
    """Ask of a model all that its own bundle can answer."""
    name, kinds = facts.name, (facts.kind,)
    if facts.kind == "fusion":
        yield _check_pairing(facts)
    if facts.rows is None or facts.rows.logits is None:
        for what in ("shared_rows", "too_good", "apart", "calibrator", "threshold"):
            yield skip_check(what, name, kinds, "its predictions did not travel; dvc repro alarms")
        return
    yield check_shared_rows(facts.rows, promotion.split_units)
    yield check_too_good(facts.rows, promotion)
    yield from check_apart(facts.rows, params, bootstrap)
    yield check_calibrator(facts, params.fit_tolerance)
    yield check_thresholds(facts, params.fit_tolerance)


def _check_pairing(facts: ModelFacts) -> AlarmCheck:
    rule = facts.config.get("pairing", {}).get("rule")
    leaky = rule in LEAKY_RULES or bool(facts.config.get("leaky"))
    tells = ": the patient is chosen by the label and gives it away" if leaky else ""
    detail = f"rule {rule or 'not stated'}{tells}"
    return make_check("pairing", facts.name, ("fusion",), leaky, detail, {"rule": rule})


# --- rows ---------------------------------------------------------------------------------------


def check_shared_rows(rows: Predictions, split_units: Sequence[str]) -> AlarmCheck:
    """Count cases (frames where the split may be by frame) and patients in several splits."""
    names: dict[str, np.ndarray] = {rows.group_unit: rows.groups}
    if rows.on_patches and "frame" in split_units:
        frames = [key.rsplit("/", 1)[0] for key in rows.keys.tolist()]
        names = {"frames": np.array(frames, dtype=object)}
    if rows.on_patches and rows.subjects is not None:
        names["patients"] = rows.subjects
    shared = {what: _count_shared(of, rows.split) for what, of in names.items()}
    detail = " and ".join(f"{n:,} of its {what}" for what, n in shared.items())
    found = any(shared.values())
    detail = f"{detail} are in more than one split"
    return make_check("shared_rows", rows.name, (rows.kind,), found, detail, {"shared": shared})


def _count_shared(names: np.ndarray, split: np.ndarray) -> int:
    table = pd.DataFrame({"name": names, "split": split})
    return int((table.groupby("name")["split"].nunique() > 1).sum())


# --- scores -------------------------------------------------------------------------------------


def check_too_good(rows: Predictions, promotion: PromotionParams) -> AlarmCheck:
    """Look for a test score too good to be true; ``promotion`` holds the bar."""
    found, minority = _measure(rows.of("test")), find_minority_class(rows)
    metrics = [m.replace("minority", minority) for m in promotion.alarm_metrics]
    values = {m: found.get(m) for m in metrics}
    loud = [m for m, v in values.items() if v is not None and v >= promotion.alarm_at]
    shown = ", ".join(f"{m} {_show(v)}" for m, v in values.items())
    bar = f"{promotion.alarm_at:g}"
    detail = f"test {shown}; {f'{bar} or more: look for a leak' if loud else f'all below {bar}'}"
    numbers = {"values": values, "at": promotion.alarm_at}
    return make_check("too_good", rows.name, (rows.kind,), bool(loud), detail, numbers, "suspicion")


def check_apart(
    rows: Predictions, params: AlarmParams, bootstrap: Bootstrap
) -> Iterator[AlarmCheck]:
    """Hold test against validation: both unseen, so far apart one of them was seen, or is another.

    The two are resampled each by itself, for they share no case. Where there is no interval, the
    margin alone decides.
    """
    bars = name_bars(params.apart.patches if rows.on_patches else params.apart.admissions, rows)
    metrics = list(bars)
    test, validation = (
        replace(bootstrap, seed=derive_seed(bootstrap.seed, split)).resample_metrics(
            rows.of(split), metrics
        )
        for split in ("test", "validation")
    )
    difference = test.minus(validation)
    for column, (metric, margin) in enumerate(bars.items()):
        name = f"apart[{metric}]"
        found = difference.interval(metric, "percentile")
        if found.value is None:
            why = "not defined on validation or on test"
            yield skip_check(name, rows.name, (rows.kind,), why)
            continue
        far = abs(found.value) > margin
        ends = "no interval, the margin alone decides"
        if found.low is not None and found.high is not None:
            far = far and not found.low <= 0 <= found.high
            ends = f"[{found.low:+.3f}, {found.high:+.3f}]"
        values = [float(r.values[column]) for r in (test, validation)]
        detail = f"test {values[0]:.3f}, validation {values[1]:.3f}: {found.value:+.3f}, {ends}; "
        detail += f"margin {margin:g}"
        numbers = {"test": values[0], "validation": values[1], "difference": found.value}
        numbers |= {"low": found.low, "high": found.high, "margin": margin}
        yield make_check(name, rows.name, (rows.kind,), far, detail, numbers, "suspicion")


def _show(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _measure(rows: Predictions) -> dict[str, float | None]:
    found = classification_metrics(
        rows.labels, rows.probabilities, rows.predictions, rows.classes, "test"
    )
    return {name.removeprefix("test/"): value for name, value in found.items()}


# --- fits ---------------------------------------------------------------------------------------


def check_calibrator(facts: ModelFacts, tolerance: float) -> AlarmCheck:
    """Fit the calibrator anew on validation rows, and hold what is stored against it."""
    assert facts.rows is not None and facts.rows.logits is not None
    logits, labels, stored = facts.rows.logits, facts.rows.labels, facts.calibrator

    def find_gap(splits: Sequence[str]) -> float:
        mask = np.isin(facts.rows.split, splits) if facts.rows else np.zeros(0, dtype=bool)
        again = fit_calibrator(logits[mask], labels[mask], stored.method)
        return float(np.abs(again.probabilities(logits) - stored.probabilities(logits)).max())

    return _judge_fit("calibrator", facts, find_gap, stored.fitted_on.per_class, tolerance)


def check_thresholds(facts: ModelFacts, tolerance: float) -> AlarmCheck:
    """Fit the thresholds anew on validation rows, and hold what is stored against them."""
    assert facts.rows is not None and facts.rows.logits is not None
    probabilities = facts.calibrator.probabilities(facts.rows.logits)
    labels, stored = facts.rows.labels, facts.thresholds

    def find_gap(splits: Sequence[str]) -> float:
        mask = np.isin(facts.rows.split, splits) if facts.rows else np.zeros(0, dtype=bool)
        again = fit_thresholds(probabilities[mask], labels[mask], stored.rule)
        return float(np.abs(np.subtract(again.values, stored.values)).max())

    return _judge_fit("threshold", facts, find_gap, stored.fitted_on.per_class, tolerance)


def _judge_fit(
    name: str, facts: ModelFacts, find_gap: Any, stated: Sequence[int], tolerance: float
) -> AlarmCheck:
    assert facts.rows is not None
    counts = list(facts.rows.of("validation").count_classes().values())
    gap, honest = find_gap(("validation",)), list(stated) == counts
    numbers: dict[str, Any] = {"gap": gap, "rows_stated": sum(stated)}
    numbers |= {"validation_rows": sum(counts), "same_classes": honest}
    if gap <= tolerance and honest:
        detail = f"is that of the {sum(counts):,} validation rows, within {max(gap, 1e-9):.1g}"
        return make_check(name, facts.name, (facts.kind,), False, detail, numbers)
    like = [what for what, splits in _FITS.items() if find_gap(splits) <= tolerance]
    numbers["matches"] = like[0] if like and gap > tolerance else None
    parts = []
    if gap > tolerance:
        matches = f"it matches a fit on {like[0]}" if like else "it matches no fit on its rows"
        parts.append(f"is off a fit on validation rows by {gap:.2g}; {matches}")
    if not honest:
        parts.append(f"says it rests on {sum(stated):,} rows, and validation has {sum(counts):,}")
    return make_check(name, facts.name, (facts.kind,), True, "; ".join(parts), numbers)


def check_scaler(
    facts: ModelFacts,
    embedded: Mapping[str, Float[np.ndarray, "n dim"]],
    *,
    standardised: bool,
    tolerance: float,
) -> AlarmCheck:
    """Compute means and spreads of image embeddings anew on training pairs.

    Args:
        facts: A fusion model.
        embedded: Split to the image embeddings of its pairs.
        standardised: Whether the model standardises at all.
        tolerance: Absolute and as a share of the spread.
    """
    assert facts.scaler is not None
    name, kinds = "scaler", (facts.kind,)
    if not standardised:
        identity = not np.any(facts.scaler[0]) and bool((facts.scaler[1] == 1).all())
        detail = "embeddings are not standardised" + ("" if identity else ", and yet are shifted")
        return make_check(name, facts.name, kinds, not identity, detail)
    gap = _compare_scaler(facts.scaler, embedded["train"])
    numbers: dict[str, Any] = {"gap": gap, "train_rows": len(embedded["train"])}
    if gap <= tolerance:
        detail = f"means and spreads are those of the {len(embedded['train']):,} training pairs"
        return make_check(name, facts.name, kinds, False, detail, numbers)
    like = [
        what
        for what, splits in _FITS.items()
        if _compare_scaler(facts.scaler, np.concatenate([embedded[s] for s in splits])) <= tolerance
    ]
    numbers["matches"] = like[0] if like else None
    matches = f"it matches a fit on {like[0]}" if like else "it matches no fit on pairs of today"
    detail = f"is off the training pairs by {gap:.2g} of a spread; {matches}"
    return make_check(name, facts.name, kinds, True, detail, numbers)


def _compare_scaler(stored: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> float:
    """Find the largest difference of a mean or a spread, as a share of the spread."""
    if not len(values):
        return float("inf")
    spread = values.std(axis=0, dtype=np.float64)
    scale = np.where(spread > SMALLEST_SPREAD, spread, 1.0)
    off = np.abs(stored[0] - values.mean(axis=0, dtype=np.float64)), np.abs(stored[1] - scale)
    return float(max((o / scale).max() for o in off))


# As `models.fusion.SMALLEST_SPREAD`, which takes torch to import.
SMALLEST_SPREAD: Final = 1e-6
