"""Alarm checks of the data: shared rows, features that predict the target alone, encoder fits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.auroc import compute_auroc
from histofuse.core.naming import show_count
from histofuse.evaluation.alarms.checks import (
    IMAGES,
    RECORDS,
    AlarmCheck,
    AlarmRules,
    make_check,
    skip_check,
)
from histofuse.features.encoding import ENCODED, Encoder, encode_table, fit_encoder
from histofuse.features.specs import FeatureSpec
from histofuse.params.promotion import AlarmParams

_FOLDS: Final = 5
_SHOWN: Final = 5


def check_image_split(
    audit: Mapping[str, Any] | None, split_units: Sequence[str]
) -> Iterator[AlarmCheck]:
    """Check what the image splits share, and by which unit they were split."""
    if audit is None:
        yield skip_check("shared[images]", None, IMAGES, "the split has no audit; dvc repro")
        return
    none = "no case, frame or pixel is in two splits that may not share"
    yield _check_shared("shared[images]", IMAGES, audit, none)
    units = {audit["unit"], audit["validation_unit"]}
    leaky = bool(audit["leaky"]) or not units <= set(split_units)
    overlapping = {
        pair: counts.get("overlapping_patches", 0) for pair, counts in audit["shared"].items()
    }
    detail = f"split by {audit['unit']}, validation by {audit['validation_unit']}"
    if leaky:
        between = ", ".join(f"{n:,} {pair}" for pair, n in overlapping.items())
        detail += f": patches that overlap between splits: {between}"
    numbers = {"units": sorted(units), "overlapping_patches": overlapping}
    yield make_check("split_unit", None, IMAGES, leaky, detail, numbers)


def check_patient_split(audit: Mapping[str, Any] | None) -> AlarmCheck:
    """Check that the patient splits share no patient."""
    if audit is None:
        return skip_check("shared[patients]", None, RECORDS, "the split has no audit; dvc repro")
    return _check_shared("shared[patients]", RECORDS, audit, "no patient is in two splits")


def _check_shared(
    name: str, concerns: Sequence[str], audit: Mapping[str, Any], none: str
) -> AlarmCheck:
    forbidden = {
        pair: {what: counts[what] for what in audit["forbidden"][pair] if counts.get(what)}
        for pair, counts in audit["shared"].items()
    }
    shared = {pair: counts for pair, counts in forbidden.items() if counts}
    shown = ", ".join(
        f"{pair} share {show_count(count, what.replace('_', ' '))}"
        for pair, counts in shared.items()
        for what, count in counts.items()
    )
    return make_check(name, None, concerns, bool(shared), shown or none, {"shared": shared})


def check_features(joined: pd.DataFrame, encoded: pd.DataFrame, params: AlarmParams) -> AlarmCheck:
    """Look for a feature that predicts the target alone, by its values or by being missing."""
    scores = score_features(joined, encoded, params.feature_fewest_rows)
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    high = {name: value for name, value in ranked if value >= params.feature_auroc}
    numbers = {"highest": dict(ranked[:_SHOWN]), "judged": len(scores), "at": params.feature_auroc}
    if high:
        named = ", ".join(f"{name} (AUROC {value:.3f})" for name, value in high.items())
        detail = f"predicts the target alone on training rows: {named}; the limit is "
        detail += f"{params.feature_auroc:g}. Does it contain the target, or come after it?"
    elif ranked:
        name, value = ranked[0]
        detail = f"of {len(scores)} features {name} predicts the target best alone: AUROC "
        detail += f"{value:.3f}, below {params.feature_auroc:g}"
    else:
        detail = f"no feature has {params.feature_fewest_rows} training rows of each target"
    return make_check("feature", None, RECORDS, bool(high), detail, numbers, "suspicion")


def score_features(joined: pd.DataFrame, encoded: pd.DataFrame, fewest: int) -> dict[str, float]:
    """Compute each feature's AUROC alone on training rows, the better of both directions."""
    scores: dict[str, float] = {}

    def note(name: str, values: np.ndarray, target: np.ndarray) -> None:
        known = ~np.isnan(values)
        if min(int((target[known] == c).sum()) for c in (0, 1)) >= fewest:
            auroc = compute_auroc(values[known], target[known])
            scores[name] = max(scores.get(name, 0.0), auroc, 1 - auroc)

    rows = encoded[encoded["split"] == "train"]
    target = rows["target"].to_numpy()
    for name in (str(c) for c in rows if c not in ENCODED.columns):
        note(name, rows[name].to_numpy(dtype=np.float64), target)
    rows = joined[joined["split"] == "train"]
    target = rows["target"].to_numpy()
    for name in (str(c) for c in rows if c not in ENCODED.columns):
        missing = rows[name].isna()
        note(f"{name} (missing)", missing.to_numpy(dtype=np.float64), target)
        if pd.api.types.is_numeric_dtype(rows[name]):
            note(name, rows[name].to_numpy(dtype=np.float64, na_value=np.nan), target)
        else:
            note(f"{name} (categories)", _rate_categories(rows[name], target), target)
    return scores


def _rate_categories(values: pd.Series, target: np.ndarray) -> np.ndarray:
    """Replace each category by the target's rate on the other folds; NaN for a new category."""
    fold = np.arange(len(values)) % _FOLDS
    rates = np.full(len(values), np.nan)
    texts = values.astype("str").where(values.notna())
    for number in range(_FOLDS):
        known = pd.Series(target[fold != number]).groupby(texts[fold != number].to_numpy()).mean()
        rates[fold == number] = texts[fold == number].map(known).to_numpy(dtype=np.float64)
    return rates


def check_encoder(
    stored: Mapping[str, Any],
    joined: pd.DataFrame,
    specs: Sequence[FeatureSpec] | None,
    rules: AlarmRules,
    model: str | None = None,
) -> AlarmCheck:
    """Refit the encoder on training rows; `model` is None for that of the encoded tables."""
    if specs is None:
        return skip_check("encoder", model, RECORDS, "ehr/features.json is missing; dvc repro")
    train = joined[joined["split"] == "train"]
    fitted = fit_encoder(train, specs, rules.encoding).to_dict() if len(train) else {}
    different, rows = _compare_encoders(fitted, stored, rules.alarms.fit_tolerance), len(train)
    detail = f"means, spreads, medians and categories are those of the {rows:,} training rows"
    if different:
        detail = f"{different} of its numbers are not those of the {rows:,} training rows; it was "
        detail += f"fitted on {stored['rows']:,}"
    numbers = {"rows": stored["rows"], "train_rows": rows, "different": different}
    return make_check("encoder", model, RECORDS, bool(different), detail, numbers)


def check_encoded(
    stored: Mapping[str, Any], joined: pd.DataFrame, encoded: pd.DataFrame, tolerance: float
) -> AlarmCheck:
    """Encode again and compare with the table that models learn from."""
    keys = ["subject_id", "hadm_id"]
    again = encode_table(Encoder.from_dict(dict(stored)), joined, impute=False)
    name, numbers = "encoded_table", {"rows": len(again)}
    columns = [c for c in again.columns if c not in ENCODED.columns]
    if list(encoded.columns) != list(again.columns) or len(encoded) != len(again):
        return make_check(name, None, RECORDS, True, "has other rows or columns", numbers)
    both = (t.sort_values(keys)[columns].to_numpy(dtype=np.float64) for t in (again, encoded))
    far = ~np.isclose(*both, rtol=tolerance, atol=tolerance, equal_nan=True)
    names = [columns[i] for i in np.flatnonzero(far.any(axis=0))][:_SHOWN]
    detail = (
        f"differs from what its encoder gives in {', '.join(names)}"
        if names
        else f"{len(again):,} rows are what the encoder gives"
    )
    return make_check(name, None, RECORDS, bool(names), detail, numbers)


def _compare_encoders(
    fitted: Mapping[str, Any], stored: Mapping[str, Any], tolerance: float
) -> int:
    """Count the learnt values that differ, leaving out row counts and dropped shares."""
    facts = [{k: e.get(k) for k in ("features", "indicators", "strata")} for e in (fitted, stored)]
    ours, theirs = (dict(_flatten(f, "")) for f in facts)
    return sum(
        not _is_close(ours.get(key), theirs.get(key), tolerance) for key in ours.keys() | theirs
    )


def _flatten(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            key = item.get("name", number) if isinstance(item, Mapping) else number
            yield from _flatten(item, f"{path}/{key}")
    else:
        yield path, value


def _is_close(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return bool(np.isclose(one, other, rtol=tolerance, atol=1e-9))
    return one == other
