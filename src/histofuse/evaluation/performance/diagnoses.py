"""What a model of the health record owes to diagnoses that are billed after the discharge."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval, align_rows
from histofuse.evaluation.predictions import Predictions, name_admissions
from histofuse.params.tabular import TabularParams
from histofuse.training.decision import fit_decision
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import EncodedTable, fit_model, to_columns

BOTH, PRIOR, DIFFERENCE = (
    "Diagnoses of this admission and earlier ones",
    "Diagnoses of earlier admissions only",
    "Earlier only, less both",
)
EXPLAIN_DIAGNOSES: Final = (
    "Diagnoses of an admission are coded for billing after its end: at the bedside only those of "
    "earlier admissions are known, and what the second row shows is to be expected there."
)


def refit_model(model: Predictions, table: EncodedTable) -> Predictions:
    """Train a tabular model by its own recipe on other features of the same admissions."""
    params, rows = TabularParams.model_validate(model.config["params"]).root, table.rows
    fitted = fit_model(table, params, model.config["seed"], Recorder()).model
    logits = to_columns(fitted.logits(rows))
    target, subjects = (rows[name].to_numpy(dtype=np.int64) for name in ("target", "subject_id"))
    validation = (rows["split"] == "validation").to_numpy()
    decision = fit_decision(
        logits[validation],
        target[validation],
        subjects[validation],
        params.calibration,
        params.threshold,
    )
    probabilities, predictions = decision.decide(logits)
    keys = name_admissions(subjects, rows["hadm_id"].to_numpy())
    refitted = replace(
        model,
        keys=keys,
        split=rows["split"].to_numpy(dtype=object),
        labels=target,
        probabilities=probabilities,
        predictions=predictions,
        groups=subjects,
        subjects=subjects,
        admissions=keys,
        logits=logits,
        digest="",
    )
    return align_rows(refitted, model)


def compare_diagnoses(
    both: Predictions, prior: Predictions, split: str, bootstrap: Bootstrap
) -> dict[str, Mapping[str, Interval]]:
    """Measure a model with and without diagnoses of the index admission, and the difference."""
    both, prior = both.of(split), prior.of(split)
    return {
        BOTH: bootstrap.estimate_metrics(both),
        PRIOR: bootstrap.estimate_metrics(prior),
        DIFFERENCE: bootstrap.estimate_differences(prior, both),
    }
