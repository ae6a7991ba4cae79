"""Encoded health records -> one bundle of a tabular model, whatever its kind.

Fitted on the training rows, calibrated on the validation rows; the test rows are only predicted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from histofuse.core.artifacts import digest_file, load_json, write_json, write_text
from histofuse.core.bundle import CONFIG, HISTORY, PREDICTIONS, writing_bundle
from histofuse.core.code import digest_code
from histofuse.core.seeding import derive_seed
from histofuse.core.tables import Contract, parse_columns, read_table, to_csv, write_table
from histofuse.features.encoding import ENCODED
from histofuse.features.specs import KEY
from histofuse.models.tabular import (
    ENCODER,
    FEATURE_ORDER,
    AnyTabularModel,
    Kind,
    LinearModel,
    MlpModel,
    TreesModel,
    XgboostModel,
    name_table,
    write_model,
)
from histofuse.params.tabular import (
    AnyTabularParams,
    GradientBoostingParams,
    LogisticRegressionParams,
    MlpParams,
    XgboostParams,
)
from histofuse.training.calibrate import check_method
from histofuse.training.decision import Decision, choose_focus_class, fit_decision, write_decision
from histofuse.training.recorder import Recorder
from histofuse.training.rows import (
    WEIGHT,
    LabelledRows,
    check_trainable,
    repeat_by_weight,
    score_logits,
    select_rows,
)

TABULAR_PREDICTIONS = Contract(
    name="tabular predictions",
    columns=parse_columns(
        "subject_id:int hadm_id:int split target:int logit:float probability:float prediction:int"
    ),
    key=("subject_id", "hadm_id"),
)


@dataclass(frozen=True)
class EncodedTable:
    """An encoded table and where it came from.

    `rows` hold key, split, target, features and, where the cohort weighs admissions, ``weight``;
    `encoder` is the JSON file that the bundle gets a copy of.
    """

    rows: pd.DataFrame
    features: list[str]
    encoder: Path
    target: str
    source: str
    digests: Mapping[str, str]


def load_table(encoded: Path, cohort_meta: Path, kind: Kind) -> EncodedTable:
    """Load the encoded table that a kind of model reads from a folder, with its encoder."""
    path, encoder = encoded / f"{name_table(kind)}.parquet", encoded / ENCODER
    rows, meta = read_table(path, ENCODED), load_json(cohort_meta)
    features = [column for column in rows.columns if column not in ENCODED.columns]
    if meta.get("weighted"):
        weights = pd.read_parquet(cohort_meta.with_name("cohort.parquet"), columns=[*KEY, WEIGHT])
        rows = rows.merge(weights, on=list(KEY), validate="1:1")
    digests = {"encoded": digest_file(path), "encoder": digest_file(encoder)}
    return EncodedTable(rows, features, encoder, meta["target"], meta["source"], digests)


@dataclass(frozen=True)
class Fit:
    """A fitted model: its history by round or epoch, what rebuilds it, and more for its config."""

    model: AnyTabularModel
    history: pd.DataFrame
    architecture: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def train_tabular(
    table: EncodedTable, params: AnyTabularParams, seed: int, recorder: Recorder, path: Path
) -> None:
    """Train one model and write its bundle to `path`, whose last part is the model's name."""
    check_method(params.calibration)
    check_trainable(table.rows, table.features, params.kind)
    recorder.log_params({**params.model_dump(), "seed": seed})
    with _keep_checkpoints(table, params, seed, path.name) as checkpoints:
        fit = fit_model(table, params, seed, recorder, checkpoints)
        with writing_bundle(path, path.name) as folder:
            _fill_bundle(folder, fit, table, params)
            write_json(_describe(path.name, table, params, seed, fit), folder / CONFIG)
    recorder.finish(path)


@contextmanager
def _keep_checkpoints(
    table: EncodedTable, params: AnyTabularParams, seed: int, name: str
) -> Iterator[Path | None]:
    """Yield the folder a killed run resumes from; None for the kinds that take seconds."""
    if not isinstance(params, MlpParams):
        yield None
        return
    from histofuse.training.fitting.checkpoints import make_checkpoint_key, resumable

    key = make_checkpoint_key(params.model_dump(), seed, table.digests, digest_code(__name__))
    with resumable(name, key) as folder:
        yield folder


def _fill_bundle(folder: Path, fit: Fit, table: EncodedTable, params: AnyTabularParams) -> None:
    logits = fit.model.logits(table.rows).astype(np.float32)
    validation = np.flatnonzero(table.rows["split"] == "validation")
    weight = table.rows[WEIGHT].to_numpy(np.float32)[validation] if WEIGHT in table.rows else None
    validation = validation[repeat_by_weight(weight, len(validation))]
    rows = table.rows.iloc[validation]
    columns, target = to_columns(logits[validation]), rows["target"].to_numpy(dtype=np.int64)
    subjects = rows["subject_id"].to_numpy()
    decision = fit_decision(columns, target, subjects, params.calibration, params.threshold)
    predictions = make_predictions(table, logits, decision)
    write_model(fit.model, folder)
    write_decision(decision, folder, table.source)
    write_table(predictions, folder / PREDICTIONS, TABULAR_PREDICTIONS)
    write_text(to_csv(fit.history, float_format="%.6g"), folder / HISTORY)
    write_json(table.features, folder / FEATURE_ORDER)
    write_text(table.encoder.read_text(encoding="utf-8"), folder / ENCODER)


def to_columns(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Put a binary logit into the form calibration takes: [0, logit]."""
    return np.column_stack([np.zeros(len(logits)), logits.astype(np.float64)])


def make_predictions(
    table: EncodedTable, logits: Float[np.ndarray, " n"], decision: Decision
) -> pd.DataFrame:
    """Table the predictions for all rows, sorted by key."""
    probabilities, decided = decision.decide(to_columns(logits))
    predictions = table.rows[["subject_id", "hadm_id", "split", "target"]].assign(
        logit=logits, probability=probabilities[:, 1], prediction=decided
    )
    return predictions.sort_values(["subject_id", "hadm_id"], ignore_index=True)


def _describe(
    name: str, table: EncodedTable, params: AnyTabularParams, seed: int, fit: Fit
) -> dict[str, Any]:
    classes = [f"no_{table.target}", table.target]
    return {
        "kind": "tabular",
        "name": name,
        "classes": classes,
        "focus_class": choose_focus_class(classes, target=table.target),
        "params": params.model_dump(),
        "seed": seed,
        "inputs": dict(table.digests),
        "source": table.source,
        "architecture": {
            "kind": params.kind,
            "n_features": len(table.features),
            **fit.architecture,
        },
        **fit.extra,
    }


def fit_model(
    table: EncodedTable,
    params: AnyTabularParams,
    seed: int,
    recorder: Recorder,
    checkpoints: Path | None = None,
) -> Fit:
    """Fit one model on the training rows; the validation rows only decide when to stop."""
    train, validation = (
        select_rows(table.rows, table.features, split) for split in ("train", "validation")
    )
    data = _Data(table.features, train, validation)
    match params:
        case LogisticRegressionParams():
            return _fit_logistic_regression(data, params)
        case GradientBoostingParams():
            return _fit_gradient_boosting(data, params, seed)
        case XgboostParams():
            return _fit_xgboost(data, params, seed, recorder)
        case MlpParams():
            return _fit_mlp(data, params, seed, recorder, checkpoints)


class _Data(NamedTuple):
    features: list[str]
    train: LabelledRows
    validation: LabelledRows

    def score(self, on_train: np.ndarray, on_validation: np.ndarray) -> dict[str, float]:
        train = score_logits(on_train, self.train.target)
        validation = score_logits(on_validation, self.validation.target)
        parts = {"train": train, "validation": validation}
        return {f"{part}_{name}": s[name] for part, s in parts.items() for name in s}


def _fit_logistic_regression(data: _Data, params: LogisticRegressionParams) -> Fit:
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if params.imbalance == "class_weights" else None
    peer = LogisticRegression(C=params.c, class_weight=weights, max_iter=5000, tol=1e-8)
    # One thread: the order in which BLAS sums depends on their number.
    with threadpool_limits(limits=1, user_api="blas"):
        peer.fit(data.train.x.astype(np.float64), data.train.target, data.train.weight)
    model = LinearModel(data.features, peer.coef_[0], float(np.ravel(peer.intercept_)[0]))
    scores = data.score(model.logits(data.train.x), model.logits(data.validation.x))
    return Fit(model, pd.DataFrame([{"round": int(np.ravel(peer.n_iter_)[0]), **scores}]))


def _fit_gradient_boosting(data: _Data, params: GradientBoostingParams, seed: int) -> Fit:
    from sklearn.ensemble import GradientBoostingClassifier

    from histofuse.models.trees import extract_trees
    from histofuse.training.boosting import BestRound

    peer = GradientBoostingClassifier(
        n_estimators=params.rounds,
        max_depth=params.max_depth,
        learning_rate=params.learning_rate,
        subsample=params.subsample,
        random_state=derive_seed(seed, "gradient_boosting"),
    )
    watch = BestRound(data.validation, params)
    peer.fit(data.train.x, data.train.target, data.train.weight, monitor=watch)
    grown = extract_trees(peer)
    stages = grown.predict_stages(data.train.x), grown.predict_stages(data.validation.x)
    history = [
        {"round": number + 1, **data.score(stages[0][:, number], stages[1][:, number])}
        for number in range(len(grown.roots))
    ]
    peer.estimators_ = peer.estimators_[: watch.rounds]
    model = TreesModel(data.features, extract_trees(peer))
    kept = {"best_round": watch.rounds, "monitor": "loss", "note": watch.note}
    return Fit(model, pd.DataFrame(history), {"rounds": watch.rounds}, {"training": kept})


def _fit_xgboost(data: _Data, params: XgboostParams, seed: int, recorder: Recorder) -> Fit:
    from histofuse.training.boosting import cross_validate, fit_booster

    cv = cross_validate(data.train, params, seed, recorder)
    model = XgboostModel(data.features, fit_booster(data.train, params, cv.rounds, seed))
    summary = {"folds": cv.folds, "rounds": cv.rounds, "note": cv.note, **cv.scores}
    return Fit(model, cv.history, {"rounds": cv.rounds}, {"cross_validation": summary})


def _fit_mlp(
    data: _Data, params: MlpParams, seed: int, recorder: Recorder, checkpoints: Path | None
) -> Fit:
    from histofuse.training.mlp import fit_mlp

    network, result, monitor = fit_mlp(
        data.train, data.validation, params, seed, recorder=recorder, checkpoints=checkpoints
    )
    architecture = {
        "hidden": params.hidden,
        "outputs": network.output.out_features,
        "dropout": params.dropout,
        "embedding_dim": params.hidden[-1],
    }
    extra = {"training": {"best_epoch": result.best_epoch, "monitor": monitor}}
    history = pd.DataFrame(result.history).astype({"epoch": "int64"})
    return Fit(MlpModel(data.features, network), history, architecture, extra)


def describe_training(path: Path) -> str:
    """Say in a line how a bundle's model ranks the validation rows."""
    predictions = read_table(path / PREDICTIONS, TABULAR_PREDICTIONS)
    rows = predictions[predictions["split"] == "validation"]
    auroc = score_logits(rows["logit"].to_numpy(), rows["target"].to_numpy())["auroc"]
    return f"validation AUROC {auroc:.3f} on {len(rows)} rows, {rows['target'].sum()} positive"
