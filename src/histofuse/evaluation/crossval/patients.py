"""Methods at patient level over the folds of a cross-validation, each patient tested once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from histofuse.core.artifacts import render
from histofuse.core.bundle import list_bundles, open_bundle
from histofuse.evaluation.crossval.folds import TEST, pool, require_unseen
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.patients import (
    compare_methods,
    make_methods_table,
    rank_by_size,
)
from histofuse.evaluation.performance.tables import Table
from histofuse.evaluation.predictions import Predictions, concatenate, read_view
from histofuse.patients.crossval import PATIENT_MODELS
from histofuse.patients.rows import VIEWS, View


@dataclass(frozen=True)
class PatientResults:
    """The methods, compared: as a table, and for ``crossval.json``."""

    table: Table
    summary: dict[str, Any]


def compare_patients(folds: Sequence[Path], bootstrap: Bootstrap) -> PatientResults:
    """Compare the methods on the test patients of all folds, with intervals paired by patient.

    Raises LeakageError if a patient is tested twice, or tested and fitted on in one fold.
    """
    first = sorted(map(open_bundle, list_bundles(folds[0] / PATIENT_MODELS)), key=rank_by_size)
    models = {b.name: {view: _pool(folds, b.name, view) for view in VIEWS} for b in first}
    comparison = compare_methods(models, TEST, bootstrap)
    table = make_methods_table(comparison, bootstrap, TEST)
    simulated = "simulated" in first[0].config["source"]
    tested = len(models[first[0].name]["both"].of(TEST))
    caption = (
        f"Models at patient level: AUROC on {tested} patients, each tested once over {len(folds)} "
        "folds, by the sides given."
    )
    notes = [*table.notes, "Calibrated probabilities of all folds are ranked together."]
    marked = " Simulated data: no patients, no claim." if simulated else ""
    return PatientResults(
        replace(table, name="patients", caption=caption + marked, notes=notes),
        {"patients": tested, "source": first[0].config["source"], **render(comparison)},
    )


def _pool(folds: Sequence[Path], name: str, view: View) -> Predictions:
    """Pool a model's test rows, and the validation rows by which the sides are ranked."""
    parts = [read_view(open_bundle(fold / PATIENT_MODELS / name), view) for fold in folds]
    for part, fold in zip(parts, folds, strict=True):
        require_unseen(part, fold)
    tested = pool([part.of(TEST) for part in parts])
    return concatenate([tested, *(part.of("validation") for part in parts)])
