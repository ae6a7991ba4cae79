"""Cross-validation: per-fold metrics, and metrics of all out-of-fold predictions together.

Each row is predicted by the one model that saw neither it nor anything else of its case, or of its
patient. The pooled numbers stand on all of them; their intervals draw whole cases, or patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.errors import LeakageError
from histofuse.core.naming import show_name
from histofuse.core.tables import read_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.leakage import audit_patches, audit_patients, require_clean
from histofuse.data.patches import load_index, load_meta
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Difference
from histofuse.evaluation.metrics.classification import Metrics, classification_metrics
from histofuse.evaluation.performance.comparison import Comparison, compare_fusion
from histofuse.evaluation.performance.intervals import (
    Intervals,
    describe_intervals,
    estimate_intervals,
)
from histofuse.evaluation.performance.results import (
    Facts,
    Result,
    evaluate_model,
    find_minority,
)
from histofuse.evaluation.predictions import Predictions, concatenate, load_predictions
from histofuse.params.crossval import CrossvalParams
from histofuse.params.splits import ImageSplitParams
from histofuse.training.crossval import MODELS, PATCHES, PATIENTS, Sources

TEST: Final = "test"
RESTRICTED: Final = "restricted"
_EFFECTS: Final = {
    "train": "the class cannot be learnt",
    "validation": "no threshold is fitted for the class, and argmax decides on it",
    "test": "its metrics are not defined in this fold",
}
FEWEST_PATIENTS: Final = 10  # fewer of restricted patients are not told
_DECIMALS: Final = 6


@dataclass(frozen=True)
class FoldSplit:
    """Who is where in one fold.

    Attributes:
        cases: Split to its cases.
        patches: Split to class to patches.
        patients: Split to patients.
    """

    cases: Mapping[str, list[str]]
    patches: Mapping[str, Mapping[str, int]]
    patients: Mapping[str, int]


@dataclass(frozen=True)
class Folds:
    """All models over all folds.

    Attributes:
        tests: Model to its test rows, fold by fold.
        digests: Model to its bundles' digests, fold by fold.
        splits: Of each fold.
    """

    tests: Mapping[str, Sequence[Predictions]]
    digests: Mapping[str, Sequence[str]]
    splits: Sequence[FoldSplit]


@dataclass(frozen=True)
class Spread:
    """A metric over the folds it is defined in.

    Attributes:
        mean: None where no fold defines it.
        sd: Of the sample; None for fewer than two folds.
        folds: How many define it.
    """

    mean: float | None
    sd: float | None
    folds: int


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation found.

    Attributes:
        folds: What it rests on.
        results: All out-of-fold predictions of each model together, and their metrics.
        per_fold: Model to metrics without a split in their names, fold by fold.
        comparison: Fusion and the image model it is built on; None without fusion.
        intervals: Of the pooled metrics, and of fusion less image.
        differences: Fusion model to metric to its paired difference from the image model.
        facts: What is known of the data.
    """

    folds: Folds
    results: Sequence[Result]
    per_fold: Mapping[str, Sequence[Metrics]]
    comparison: Comparison | None
    intervals: Intervals
    differences: Mapping[str, Mapping[str, Difference]]
    facts: Facts

    def spread(self, model: str, metric: str) -> Spread:
        """Summarise a metric of a model over the folds."""
        return find_spread([metrics[metric] for metrics in self.per_fold[model]])


def load_folds(paths: Sequence[Path], names: Sequence[str], sources: Sources) -> Folds:
    """Load the test predictions of every fold, after an audit of its splits.

    Raises:
        LeakageError: If a fold shares cases, frames, pixels or patients between splits.
        BundleError: If a bundle does not match its manifest.
    """
    splits = [_audit_fold(path, sources) for path in paths]
    tests: dict[str, list[Predictions]] = {name: [] for name in names}
    digests: dict[str, list[str]] = {name: [] for name in names}
    for path in paths:
        for name in names:
            model = load_predictions(path / MODELS / name)
            require_unseen(model, path)
            tests[name].append(model.of(TEST))
            digests[name].append(model.digest)
    return Folds(tests, digests, splits)


def _audit_fold(path: Path, sources: Sources) -> FoldSplit:
    patches = read_table(path / PATCHES, PATCH_SPLITS)
    patients = read_table(path / PATIENTS, PATIENT_SPLITS)
    by_frame = _shares_cases(patches)
    how = ImageSplitParams(
        unit="case",
        validation_unit="frame" if by_frame else "case",
        folds=2,
        test_fold=0,
        validation_fold=0,
        classes_required=[],
    )
    index, frames = load_index(sources.patches), read_table(sources.frames, FRAMES)
    window_px = load_meta(sources.patches).stored_px
    on_patches = audit_patches(patches, index, frames, window_px, how)
    on_patients = audit_patients(patients)
    require_clean(on_patches)
    require_clean(on_patients)
    cases = {str(s): sorted(set(ids)) for s, ids in patches.groupby("split")["case_id"]}
    return FoldSplit(cases, on_patches["counts"], on_patients["counts"])


def _shares_cases(patches: pd.DataFrame) -> bool:
    """Tell whether validation was split from training by frame."""
    rest = patches[patches["split"] != TEST]
    return bool((rest.groupby("case_id")["split"].nunique() > 1).any())


def require_unseen(model: Predictions, where: Path) -> None:
    """Stop if a test row's case, or patient, is among those a model was fitted on.

    Raises:
        LeakageError: Naming the first of them.
    """
    tested = model.split == TEST
    both = sorted(set(model.groups[tested].tolist()) & set(model.groups[~tested].tolist()))
    if both:
        unit = model.group_unit
        raise LeakageError(
            f"{where}, {model.name}: {len(both)} {unit}, such as {both[0]}, are tested on and "
            "fitted on in one fold. Delete the folder and run make crossval."
        )


def pool(tests: Sequence[Predictions]) -> Predictions:
    """Put the test rows of all folds together.

    Raises:
        LeakageError: If a row is tested twice.
    """
    keys = np.concatenate([rows.keys for rows in tests])
    if len(set(keys.tolist())) != len(keys):
        raise LeakageError(f"{tests[0].name}: rows are tested in more than one fold.")
    return concatenate(tests)


def measure_rows(rows: Predictions) -> Metrics:
    """Measure a model on rows, under names without a split."""
    found = classification_metrics(
        rows.labels, rows.probabilities, rows.predictions, rows.classes, TEST
    )
    return {name.removeprefix(f"{TEST}/"): value for name, value in found.items()}


def find_spread(values: Sequence[float | None]) -> Spread:
    """Summarise values, leaving out those not defined."""
    known = np.array([v for v in values if v is not None])
    if not len(known):
        return Spread(None, None, 0)
    sd = float(known.std(ddof=1)) if len(known) > 1 else None
    return Spread(float(known.mean()), sd, len(known))


def cross_validate(folds: Folds, facts: Facts, bootstrap: Bootstrap) -> CrossValidation:
    """Measure all models, fold by fold and pooled."""
    results = [evaluate_model(pool(tests), facts) for tests in folds.tests.values()]
    per_fold = {name: [measure_rows(rows) for rows in tests] for name, tests in folds.tests.items()}
    comparison = compare_fusion(results, facts)
    return CrossValidation(
        folds=folds,
        results=results,
        per_fold=per_fold,
        comparison=comparison,
        intervals=estimate_intervals(results, comparison, facts, bootstrap),
        differences=_find_differences(comparison, bootstrap),
        facts=facts,
    )


def _find_differences(
    comparison: Comparison | None, bootstrap: Bootstrap
) -> dict[str, dict[str, Difference]]:
    if comparison is None:
        return {}
    image = comparison.image.model
    return {
        fused.name: bootstrap.estimate_differences(
            fused.model, image.take(np.flatnonzero(np.isin(image.keys, fused.model.keys)))
        )
        for fused in comparison.fused
    }


# --- in words and JSON --------------------------------------------------------------------------


def explain_pooling() -> list[str]:
    """Say what the two kinds of numbers mean."""
    return [
        "Pooled numbers stand on the test predictions of all folds together. Those of rank (AUROC, "
        "AUPRC) compare calibrated probabilities of different models, so the mean over the folds "
        "stands beside them; their spread over the folds is no interval.",
        "Models take the values of params.yaml, not those of a study, which has been over the "
        "patients tested here.",
    ]


def explain_gaps(folds: Sequence[FoldSplit]) -> list[str]:
    """Say which classes a fold lacks where, and what that does."""
    notes = []
    for number, split in enumerate(folds):
        for where, counts in split.patches.items():
            missing = [show_name(label) for label, count in counts.items() if not count]
            if missing:
                notes.append(
                    f"Fold {number + 1}: {where} holds no {' and no '.join(missing)}; "
                    f"{_EFFECTS[where]}."
                )
    return notes


def describe_fold(path: Path) -> str:
    """Say in a line how a fold went: test cases, and the first image model on the rarest class."""
    splits = read_table(path / PATCHES, PATCH_SPLITS)
    cases = sorted(splits.loc[splits["split"] == TEST, "case_id"].unique())
    parts = [f"tested on {', '.join(cases)}"]
    for folder in sorted((path / MODELS).iterdir()):
        model = load_predictions(folder).of(TEST)
        if model.kind == "image":
            focus = "mitosis" if "mitosis" in model.classes else model.classes[0]
            value = measure_rows(model)[f"auprc/{focus}"]
            shown = "not defined" if value is None else f"{value:.3f}"
            parts.append(f"{model.name} {focus} AUPRC {shown}")
    return "; ".join(parts)


def describe_run(found: CrossValidation, params: CrossvalParams) -> dict[str, Any]:
    """Render ``crossval.json``.

    Returns:
        ``how`` (unit, folds, validation_unit, threads), ``data`` (images, patients), ``minority``,
        ``simulated``; ``folds``: a list of ``cases`` (split to names), ``patches`` (split to class
        to count), ``patients`` (split to count; None for fewer than ten restricted ones);
        ``models``: name to ``title``, ``kind``, ``leaky``, ``rows``, ``groups``, ``group_unit``,
        ``digests``, ``per_fold`` (a list of metric to value), ``over_folds`` (metric to ``mean``,
        ``sd``, ``folds``) and ``pooled`` (metric to ``value``, ``low``, ``high``, ``groups``,
        ``defined`` and, without an interval, ``note``); ``minus_image_model``: fusion model to
        ``image_model`` and ``metrics`` (as pooled, with ``probability_above``: the share of
        resamples in which fusion is higher); ``intervals`` (confidence, method, resamples);
        ``notes``. Values that are not defined are None.
    """
    facts, how = found.facts, describe_intervals(found.intervals, TEST)
    return {
        "how": {"unit": "case", "folds": len(found.folds.splits)}
        | params.model_dump(include={"validation_unit", "threads"}),
        "data": {"images": facts.image_source, "patients": facts.patient_source},
        "simulated": any(r.simulated for r in found.results),
        "minority": find_minority(found.results),
        "folds": [_describe_split(split, facts) for split in found.folds.splits],
        "models": {r.name: _describe_model(r, found, how["models"]) for r in found.results},
        "minus_image_model": _describe_differences(found, how["minus_image_model"]),
        "intervals": {k: how[k] for k in ("confidence", "method", "resamples")},
        "notes": [*explain_gaps(found.folds.splits), *explain_pooling()],
    }


def _describe_split(split: FoldSplit, facts: Facts) -> dict[str, Any]:
    hidden = facts.patient_source == RESTRICTED
    return {
        "cases": dict(split.cases),
        "patches": dict(split.patches),
        "patients": {
            s: None if hidden and n < FEWEST_PATIENTS else n for s, n in split.patients.items()
        },
    }


def _describe_model(
    result: Result, found: CrossValidation, intervals: Mapping[str, Any]
) -> dict[str, Any]:
    name, rows = result.name, result.model
    per_fold = found.per_fold[name]
    return {
        "title": result.title,
        "kind": rows.kind,
        "leaky": result.leaky,
        "rows": len(rows),
        "groups": rows.count_groups(),
        "group_unit": rows.group_unit,
        "digests": list(found.folds.digests[name]),
        "per_fold": [{m: _round(v) for m, v in metrics.items()} for metrics in per_fold],
        "over_folds": {m: _describe_spread(found.spread(name, m)) for m in per_fold[0]},
        "pooled": {
            m: {"value": _round(result.metrics[f"{TEST}/{m}"])} | intervals[name][f"{TEST}/{m}"]
            for m in per_fold[0]
        },
    }


def _describe_spread(spread: Spread) -> dict[str, Any]:
    return {"mean": _round(spread.mean), "sd": _round(spread.sd), "folds": spread.folds}


def _describe_differences(
    found: CrossValidation, intervals: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    if found.comparison is None:
        return {}
    return {
        name: {
            "image_model": found.comparison.image.name,
            "metrics": {
                m: {"value": _round(d.interval.value)}
                | intervals[name][f"{TEST}/{m}"]
                | {"probability_above": _round(d.probability_above)}
                for m, d in differences.items()
            },
        }
        for name, differences in found.differences.items()
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS)
