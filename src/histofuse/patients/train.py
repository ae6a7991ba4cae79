"""Bags -> the bundle of one method of fusion at patient level."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import digest_file, load_json, write_json, write_text
from histofuse.core.bundle import CONFIG, HISTORY, PREDICTIONS, Bundle, writing_bundle
from histofuse.core.errors import InputError
from histofuse.core.tables import Contract, to_csv, write_table
from histofuse.features.encoding import Encoder
from histofuse.models.tabular import ENCODER
from histofuse.params.ehr import EncodingParams
from histofuse.params.patients import AnyPatientParams, PatientCohortKind, PatientParams
from histofuse.patients.bags import META, PatientBags, load_bags
from histofuse.patients.fusion.interface import Fitted, PatientModel
from histofuse.patients.fusion.methods import fit_method, load_method
from histofuse.patients.rows import (
    VIEWS,
    PatientRows,
    View,
    fit_record_encoder,
    make_rows,
    select_split,
)
from histofuse.training.calibrate import check_method
from histofuse.training.decision import Decision, fit_decision, write_decision
from histofuse.training.recorder import Recorder
from histofuse.training.rows import score_logits
from histofuse.training.tabular import to_columns

KIND: Final = "patient"

PATIENT_PREDICTIONS: Final = Contract(
    name="predictions on patients",
    columns={"patient_id": "str", "split": "str", "target": "int"}
    | {
        f"{column}{suffix}": kind
        for suffix in ("", "_image", "_record")
        for column, kind in (("logit", "float"), ("probability", "float"), ("prediction", "int"))
    },
    key=("patient_id",),
)


@dataclass(frozen=True)
class PatientCohort:
    """Bags and where they came from."""

    bags: PatientBags  # all patients
    target: str  # name of the outcome
    source: str  # such as ``simulated``
    digests: Mapping[str, str]  # input -> SHA-256
    # the frozen image encoder: ``name``, ``digest`` and ``registered``, its name in the registry
    encoder: Mapping[str, str]
    kind: PatientCohortKind  # ``simulated``, or ``crosswalk``: of the data's own patients


def load_cohort(folder: Path) -> PatientCohort:
    """Load linked patients (`bags.load_bags`), what ``meta.json`` says of them, and digests.

    Raises InputError as `bags.load_bags` does.
    """
    meta = load_json(folder / META)
    files = {
        "patients": "patients.parquet",
        "nuclei": "nuclei.parquet",
        "image_embeddings": "image.npy",
        "image_logits": "logits.npy",
    }
    return PatientCohort(
        bags=load_bags(folder),
        target=meta["target"],
        source=meta["source"],
        digests={name: digest_file(folder / file) for name, file in files.items()},
        encoder=meta["encoder"],
        kind=meta["cohort"],
    )


@dataclass(frozen=True)
class TrainedMethod:
    """A method fitted on a cohort, with a decision for each set of sides."""

    fitted: Fitted
    encoder: Encoder
    rows: PatientRows
    logits: Mapping[View, np.ndarray]
    decisions: Mapping[View, Decision]


def train_method(
    bags: PatientBags,
    params: AnyPatientParams,
    encoding: EncodingParams,
    seed: int,
    recorder: Recorder,
) -> TrainedMethod:
    """Fit a method on the train patients; validation calibrates each set of sides for itself.

    The bags must have passed `bags.check_bags`. Raises InputError if no value of the record can be
    used.
    """
    check_method(params.calibration)
    encoder = fit_record_encoder(bags, encoding)
    if not encoder.feature_order:
        few = f"of fewer than {encoding.fewest_patients} patients (encoding.fewest_patients)"
        problem = f"no value of the record can be used: constant, missing in most, or {few}"
        raise InputError.of("the train patients", problem, "at least one that varies")
    rows = make_rows(bags, encoder)
    train, validation = (select_split(rows, bags.split, s) for s in ("train", "validation"))
    fitted = fit_method(train, validation, params, seed, recorder)
    logits: dict[View, np.ndarray] = {view: fitted.model.logits(rows.show(view)) for view in VIEWS}
    held_out = bags.split == "validation"
    of_rows = bags.outcome[held_out], bags.patient_ids[held_out]
    decisions: dict[View, Decision] = {
        # Where a side is not read, the answer is the outcome's share: nothing to calibrate.
        view: fit_decision(
            to_columns(values[held_out]),
            *of_rows,
            params.calibration if np.ptp(values) else "none",
            params.threshold,
        )
        for view, values in logits.items()
    }
    return TrainedMethod(fitted, encoder, rows, logits, decisions)


def train_patients(  # noqa: PLR0917
    cohort: PatientCohort,
    params: AnyPatientParams,
    encoding: EncodingParams,
    seed: int,
    recorder: Recorder,
    path: Path,
) -> TrainedMethod:
    """Train a method and write its bundle to `path`, whose last part is the model's name.

    Raises InputError if no value of the record can be used.
    """
    recorder.log_params({**params.model_dump(), "seed": seed})
    trained = train_method(cohort.bags, params, encoding, seed, recorder)
    with writing_bundle(path, path.name) as folder:
        trained.fitted.model.write(folder)
        for view, decision in trained.decisions.items():
            inner = folder if view == "both" else folder / view
            inner.mkdir(exist_ok=True)
            write_decision(decision, inner, cohort.source)
        write_json(trained.encoder.to_dict(), folder / ENCODER)
        history = describe_history(trained, cohort.bags)
        write_text(to_csv(history, float_format="%.6g"), folder / HISTORY)
        predictions = tabulate(trained, cohort.bags)
        write_table(predictions, folder / PREDICTIONS, PATIENT_PREDICTIONS)
        write_json(_describe(path.name, cohort, params, seed, trained), folder / CONFIG)
    recorder.finish(path)
    return trained


def tabulate(trained: TrainedMethod, bags: PatientBags) -> pd.DataFrame:
    """Table what the method says of each patient from both sides, image alone and record alone."""
    table = pd.DataFrame({"patient_id": bags.patient_ids, "split": bags.split}).astype("str")
    table["target"] = bags.outcome
    for view, logits in trained.logits.items():
        probabilities, decided = trained.decisions[view].decide(to_columns(logits))
        suffix = "" if view == "both" else f"_{view}"
        table[f"logit{suffix}"] = logits
        table[f"probability{suffix}"] = probabilities[:, 1]
        table[f"prediction{suffix}"] = decided
    return table[list(PATIENT_PREDICTIONS.columns)].sort_values("patient_id", ignore_index=True)


def describe_history(trained: TrainedMethod, bags: PatientBags) -> pd.DataFrame:
    """Take the method's history; one that has none gets a row of its final scores."""
    if len(trained.fitted.history):
        return trained.fitted.history
    row: dict[str, float] = {"round": 1}
    for split in ("train", "validation"):
        chosen = bags.split == split
        scores = score_logits(trained.logits["both"][chosen], bags.outcome[chosen])
        row |= {f"{split}_{name}": value for name, value in scores.items()}
    return pd.DataFrame([row])


def _describe(
    name: str, cohort: PatientCohort, params: AnyPatientParams, seed: int, trained: TrainedMethod
) -> dict[str, Any]:
    fitted = trained.fitted
    return {
        "kind": KIND,
        "level": "patient",
        "name": name,
        "classes": [f"no_{cohort.target}", cohort.target],
        "focus_class": cohort.target,
        "params": params.model_dump(),
        "seed": seed,
        "inputs": dict(cohort.digests),
        "source": cohort.source,
        # A cohort that is not the data's own is said to be simulated by its source.
        **({"cohort": cohort.kind} if cohort.kind == "crosswalk" else {}),
        "encoders": {"image": dict(cohort.encoder)},
        "architecture": {
            "kind": params.kind,
            "parameters": fitted.model.parameters,
            **fitted.architecture,
        },
        "training": fitted.training,
    }


def describe_training(trained: TrainedMethod, bags: PatientBags) -> str:
    """Summarise in a line how a method ranks the validation patients, by the sides given."""
    rows = bags.split == "validation"
    scores = {
        v: score_logits(x[rows], bags.outcome[rows])["auroc"] for v, x in trained.logits.items()
    }
    shown = ", ".join(f"{view} {score:.3f}" for view, score in scores.items())
    return f"validation AUROC on {int(rows.sum())} patients: {shown}"


def load_patient_model(bundle: Bundle) -> PatientModel:
    """Load the model of a bundle.

    Raises BundleError if the bundle holds no model at patient level.
    """
    config = bundle.require_kind(KIND)
    params = PatientParams.model_validate(config["params"]).root
    return load_method(bundle.path, params, config["architecture"])
