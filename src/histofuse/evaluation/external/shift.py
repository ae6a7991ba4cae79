"""How far inputs lie from those of training: feature by feature, and all of them at once.

The unit is the patient or the case. P-values are Holm's, over all features and the classifier.

Source: Lopez-Paz & Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from histofuse.core.artifacts import render
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap, Interval
from histofuse.evaluation.metrics.weighted import Clusters, rank_rows
from histofuse.features.labs import load_labs

CLASSIFIER: Final = "all inputs at once (classifier)"
_FOLDS: Final = 5
_FEWEST_UNITS: Final = 10  # of either side, for a classifier
_FEWEST_EXPECTED: Final = 5  # in a cell of a table of counts
_UNIT_TOLERANCE: Final = 0.1
_ANOTHER_UNIT: Final = 1.5  # factor of medians from which one may be looking at another unit
_SHARPNESS: Final = "patch: sharpness"
_COLOURS: Final = ("red", "green", "blue")


@dataclass(frozen=True)
class Shift:
    """One feature here against training."""

    name: str
    training: str  # median, or most common category and its share, with the share missing
    here: str
    p: float  # of no difference, corrected for the number of comparisons
    note: str  # what the difference looks like; empty if like nothing in particular

    def __str__(self) -> str:
        """Write it as in "age_years: 60 in training, 71 here"."""
        note = f" ({self.note})" if self.note else ""
        before = f"{self.training} in training, " if self.training else ""
        return f"{self.name}: {before}{self.here}{' here' if before else ''}{note}"


@dataclass(frozen=True)
class Distance:
    """How far two data sets lie from each other."""

    shifts: list[Shift]  # of all features, the smallest p first
    # of the classifier that tells the two apart; None where units are too few
    auroc: Interval | None
    level: float  # corrected p-values below are an alarm
    few_units: bool  # too few of either side to call them alike

    @property
    def alarms(self) -> list[Shift]:
        """What differs."""
        return [shift for shift in self.shifts if shift.p < self.level]

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        return {
            "level": self.level,
            "few_units": self.few_units,
            "alarms": [shift.name for shift in self.alarms],
            "classifier_auroc": render(self.auroc),
            "features": render(self.shifts),
        }


def measure_distance(
    training: pd.DataFrame, here: pd.DataFrame, inputs: Sequence[str], bootstrap: Bootstrap
) -> Distance:
    """Compare two tables, a row a patient or case; the classifier sees the columns `inputs`."""
    names = [str(name) for name in training]
    raw = [_compare(training[name], here[name]) for name in names]
    auroc, of_classifier = _tell_apart(training[list(inputs)], here[list(inputs)], bootstrap)
    corrected = correct_for_number([*raw, of_classifier])
    shifts = [
        Shift(n, _describe(training[n]), _describe(here[n]), p, _explain(n, training[n], here[n]))
        for n, p in zip(names, corrected, strict=False)
    ]
    if auroc is not None:
        shifts.append(Shift(CLASSIFIER, "", f"AUROC {auroc}", corrected[-1], "0.5 if alike"))
    shifts.sort(key=lambda shift: shift.p)
    few_units = min(len(training), len(here)) < bootstrap.params.fewest_groups
    return Distance(shifts, auroc, round(1 - bootstrap.params.confidence, 6), few_units)


def correct_for_number(p: Sequence[float]) -> list[float]:
    """Correct p-values as Holm does."""
    order = np.argsort(p, kind="stable")
    steps = (len(p) - np.arange(len(p))) * np.asarray(p)[order]
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def _compare(training: pd.Series, here: pd.Series) -> float:
    """Compare values, and how many are missing; the smaller p, doubled for there being two."""
    from scipy.stats import ks_2samp

    sides = [training.dropna(), here.dropna()]
    tests = []
    if training.isna().any() or here.isna().any():
        tests.append(_compare_counts(training.isna(), here.isna()))
    if min(map(len, sides)) > 1:
        numeric = all(pd.api.types.is_numeric_dtype(side) for side in sides)
        if numeric and pd.concat(sides).nunique() > 2:
            pair = (side.to_numpy(np.float64) for side in sides)
            tests.append(float(ks_2samp(*pair)[1]))  # pyright: ignore[reportArgumentType]
        else:
            tests.append(_compare_counts(*sides))
    return min([1.0, *(len(tests) * p for p in tests)])


def _compare_counts(training: pd.Series, here: pd.Series) -> float:
    """Compare the shares of categories; rare ones are taken together."""
    from scipy.stats import chi2_contingency, fisher_exact

    both = pd.concat([training, here]).astype(str)
    side = np.repeat([0, 1], [len(training), len(here)])
    counts = pd.crosstab(both.to_numpy(), side).to_numpy()
    expected = counts.sum(axis=1) * min(len(training), len(here)) / len(both)
    rare = expected < _FEWEST_EXPECTED
    if rare.sum() > 1:
        counts = np.vstack([counts[~rare], counts[rare].sum(axis=0)])
    if len(counts) < 2:
        return 1.0
    if len(counts) == 2:
        return float(fisher_exact(counts)[1])  # pyright: ignore[reportArgumentType]
    return float(chi2_contingency(counts)[1])  # pyright: ignore[reportArgumentType]


def _tell_apart(
    training: pd.DataFrame, here: pd.DataFrame, bootstrap: Bootstrap
) -> tuple[Interval | None, float]:
    """Cross-validate a classifier of training against here: its AUROC, and p of chance."""
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(training), len(here)) < _FEWEST_UNITS or not training.shape[1]:
        return None, 1.0
    both = pd.concat([training, here], ignore_index=True)
    x = _encode(both)
    is_here = np.repeat([0, 1], [len(training), len(here)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=bootstrap.seed % 2**32)
    told = cross_val_predict(model, x, is_here, cv=folds, method="predict_proba")
    scores = np.asarray(told)[:, 1]
    units = ClusterBootstrap(bootstrap, Clusters(np.arange(len(both)), len(both), "units"))
    ranking = rank_rows(scores, is_here == 1, units.clusters.number)
    auroc = units.estimate_weighted(lambda w: {"auroc": ranking.measure(w)[0]})["auroc"]
    p = mannwhitneyu(scores[is_here == 1], scores[is_here == 0], alternative="greater")[1]
    return auroc, float(p)


def _encode(table: pd.DataFrame) -> Float[np.ndarray, "n columns"]:
    """Encode numbers with their medians where missing, texts one-hot, and what is missing."""
    numbers = table.select_dtypes("number").astype(np.float64)
    texts = table.drop(columns=numbers.columns).astype("str")
    missing = table.isna().astype(np.float64)
    columns = [numbers.fillna(numbers.median()).fillna(0.0), missing]
    columns += [pd.get_dummies(texts, dtype=np.float64)] if texts.shape[1] else []
    return np.hstack([part.to_numpy(np.float64) for part in columns])


def _describe(values: pd.Series) -> str:
    known = values.dropna()
    missing = f", {values.isna().mean():.0%} missing" if values.isna().any() else ""
    if known.empty:
        return "all missing"
    if not pd.api.types.is_numeric_dtype(known):
        shares = known.value_counts(normalize=True)
        return f"{shares.index[0]} {shares.iloc[0]:.0%}{missing}"
    if set(known.unique()) <= {0, 1}:
        return f"{known.mean():.1%}{missing}"
    return f"{known.median():.3g}{missing}"


def _explain(name: str, training: pd.Series, here: pd.Series) -> str:
    """Say whether a number looks as if in another unit."""
    if not pd.api.types.is_numeric_dtype(training) or not (training.min() > 0 and here.min() > 0):
        return ""
    factor = float(here.median() / training.median())
    lab = load_labs().get(name.removesuffix("_mean").removesuffix("_min").removesuffix("_max"))
    for unit, of_standard in (lab.units if lab else {}).items():
        if of_standard != 1.0 and abs(factor * of_standard - 1) < _UNIT_TOLERANCE:
            spelt = re.sub("/(d?)l$", r"/\1L", unit)
            return f"× {factor:.3g}: as if in {spelt}"
    far = max(factor, 1 / factor) >= _ANOTHER_UNIT
    return f"× {factor:.3g}: in another unit?" if far else ""


def describe_patches(patches: UInt8[np.ndarray, "n side side 3"]) -> pd.DataFrame:
    """Describe patches by their colours and sharpness, in which scanners and stains differ."""
    values = patches.reshape(len(patches), -1, 3).astype(np.float32)
    columns = {f"patch: {c}, mean": values[..., k].mean(axis=1) for k, c in enumerate(_COLOURS)}
    columns |= {f"patch: {c}, spread": values[..., k].std(axis=1) for k, c in enumerate(_COLOURS)}
    grey = patches.astype(np.float32).mean(axis=3)
    columns[_SHARPNESS] = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    return pd.DataFrame(columns, dtype=np.float64)
