"""Paired embeddings -> one bundle of the fusion head. The encoders stay as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from safetensors.torch import save_file

from histofuse.core.artifacts import digest_file, write_json
from histofuse.core.bundle import CONFIG, HISTORY, PREDICTIONS, WEIGHTS, writing_bundle
from histofuse.core.code import digest_code
from histofuse.core.errors import InputError, collect_faults
from histofuse.core.privacy import merge_sources
from histofuse.core.seeding import derive_seed
from histofuse.core.tables import Contract, read_table, write_table
from histofuse.features.embeddings import Embeddings, load_embeddings, select_pairs
from histofuse.features.pairing import PAIRS
from histofuse.models.fusion import ROWS_AT_ONCE, FusionHead
from histofuse.models.mlp import one_thread
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import LEAKY_RULES, PairingParams
from histofuse.training.calibrate import check_method
from histofuse.training.decision import fit_decision, write_decision
from histofuse.training.fitting.batches import compute_logits
from histofuse.training.fitting.checkpoints import make_checkpoint_key, resumable
from histofuse.training.fitting.fit import fit, record_epoch
from histofuse.training.fitting.history import FitResult, find_best, write_history
from histofuse.training.fitting.recipe import ParameterGroup, Recipe, Rows, read_recipe
from histofuse.training.folds import Folds, split_folds
from histofuse.training.recorder import Recorder

MOST_FOLDS: Final = 5
# Of the validation rows. The paper's macro-F1 (Appendix B) jumps from epoch to epoch, may be best
# in the first, and over seeds the average precision of the heads it chose was lower each time.
MONITOR: Final = "loss"

FUSION_PREDICTIONS = Contract(
    name="fusion predictions",
    columns={**PAIRS.columns, "prediction": "str"},
    key=("patch_id",),
    open_ended=True,
)


@dataclass(frozen=True)
class PairedEmbeddings:
    """Pairs and the embeddings of both sides; digests by ``pairs`` and parts of the embeddings."""

    pairs: pd.DataFrame
    embeddings: Embeddings
    pairing: PairingParams
    digests: Mapping[str, str]

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return self.embeddings.meta["classes"]


def load_pairs(path: Path, embeddings: Path, pairing: PairingParams) -> PairedEmbeddings:
    """Load a `features.pairing.PAIRS` table and the embeddings of both sides."""
    files = {"pairs": path, "embeddings": embeddings / "meta.json"}
    files |= {f"{side}_embeddings": embeddings / f"{side}.npy" for side in ("image", "patient")}
    return PairedEmbeddings(
        pairs=read_table(path, PAIRS),
        embeddings=load_embeddings(embeddings),
        pairing=pairing,
        digests={what: digest_file(file) for what, file in files.items()},
    )


@dataclass(frozen=True)
class PairTensors:
    """All pairs as tensors, in the order of the pairs."""

    image: torch.Tensor
    patient: torch.Tensor
    labels: torch.Tensor
    split: np.ndarray

    def rows(self, split: str) -> Rows:
        """Take the rows of one split."""
        return self.take(np.flatnonzero(self.split == split))

    def take(self, rows: np.ndarray) -> Rows:
        """Take rows by number."""
        return Rows((self.image[rows], self.patient[rows]), self.labels[rows])


def train_fusion(
    data: PairedEmbeddings, params: FusionParams, seed: int, recorder: Recorder, path: Path
) -> FitResult:
    """Train the fusion head and write its bundle to `path`, whose last part is the model's name.

    Raises InputError if a pair has no embedding or an unknown label, or a split no rows.
    """
    check_method(params.calibration)
    recorder.log_params({**params.model_dump(), "seed": seed, **_describe_pairing(data.pairing)})
    tensors = gather(data)
    key = make_checkpoint_key(params.model_dump(), seed, data.digests, digest_code(__name__))
    with resumable(path.name, key) as checkpoints, one_thread():
        head = fit_head(data, tensors, params, seed, checkpoints=checkpoints, recorder=recorder)
        network, result = head.network, head.result
        logits = compute_logits(network, (tensors.image, tensors.patient), batch_size=ROWS_AT_ONCE)
        rows, labels = tensors.split == "validation", tensors.labels.numpy()
        logits[rows] = head.validation_logits
        cases = data.pairs["case_id"].to_numpy(dtype=object)
        decision = fit_decision(
            logits[rows], labels[rows], cases[rows], params.calibration, params.threshold
        )
        kept = {"best_epoch": result.best_epoch, "monitor": MONITOR}
        if params.head_rows == "held_out":
            kept["note"] = "loss of folds of validation"
        config = _describe(path.name, data, params, seed) | {"training": kept}
        with writing_bundle(path, path.name) as folder:
            save_file(network.state_dict(), folder / WEIGHTS)
            write_decision(decision, folder, str(config["source"]))
            write_history(result, folder / HISTORY)
            keys = data.pairs[[c for c in FUSION_PREDICTIONS.columns if c != "prediction"]]
            predictions = decision.tabulate(keys, data.classes, logits).sort_values("patch_id")
            write_table(predictions, folder / PREDICTIONS, FUSION_PREDICTIONS)
            write_json(config, folder / CONFIG)
    recorder.finish(path)
    return result


@dataclass(frozen=True)
class FittedHead:
    """A fitted head, its history, and logits of validation by heads not trained on those rows."""

    network: FusionHead
    result: FitResult
    validation_logits: Float32[np.ndarray, "n classes"]


def fit_head(
    data: PairedEmbeddings,
    tensors: PairTensors,
    params: FusionParams,
    seed: int,
    *,
    checkpoints: Path | None = None,
    recorder: Recorder | None = None,
    show_progress: bool = True,
) -> FittedHead:
    """Fit a head on the rows that ``head_rows`` names; `tensors` are of the pairs, in their order.

    Raises InputError if a split has no rows, or validation too few cases for folds.
    """
    if params.head_rows == "held_out":
        return _fit_held_out(data, tensors, params, seed, recorder or Recorder())
    train, validation = tensors.rows("train"), tensors.rows("validation")
    network, recipe = _start_head(data, train, params, seed)
    recipe = replace(recipe, show_progress=show_progress)
    result = fit(network, train, validation, recipe, checkpoints, recorder)
    logits = compute_logits(network, validation.inputs, batch_size=ROWS_AT_ONCE)
    return FittedHead(network, result, logits)


def _start_head(
    data: PairedEmbeddings, train: Rows, params: FusionParams, seed: int
) -> tuple[FusionHead, Recipe]:
    torch.manual_seed(derive_seed(seed, "fusion", "init"))
    network = make_head(data.embeddings, train, len(data.classes), params)
    return network, make_recipe(network, train, len(data.classes), params, seed)


def _fit_held_out(
    data: PairedEmbeddings,
    tensors: PairTensors,
    params: FusionParams,
    seed: int,
    recorder: Recorder,
) -> FittedHead:
    """Fit on validation; the mean loss over folds of it chooses the number of epochs.

    The history is the mean over folds: with them all rows are used, and nothing is left to watch.
    """
    validation = np.flatnonzero(tensors.split == "validation")

    def run(train: np.ndarray, watched: np.ndarray, epochs: int) -> tuple[FusionHead, FitResult]:
        rows = tensors.take(train)
        network, recipe = _start_head(data, rows, params, seed)
        recipe = replace(recipe, epochs=epochs, monitor="last", show_progress=False)
        return network, fit(network, rows, tensors.take(watched), recipe)

    folds = split_validation(data, tensors, seed)
    curves = [pd.DataFrame(run(*fold, params.epochs)[1].history) for fold in folds]
    history = _average_curves(curves, params.patience)
    for row in history:
        record_epoch(row, recorder)
    epochs = find_best(history, MONITOR) + 1
    logits = np.empty((len(tensors.split), len(data.classes)), dtype=np.float32)
    for rest, held_out in folds:
        network, _ = run(rest, held_out, epochs)
        inputs = tensors.take(held_out).inputs
        logits[held_out] = compute_logits(network, inputs, batch_size=ROWS_AT_ONCE)
    network, _ = run(validation, validation, epochs)
    return FittedHead(network, FitResult(history, epochs), logits[validation])


def _average_curves(curves: Sequence[pd.DataFrame], patience: int) -> list[dict[str, float]]:
    """Average histories by epoch, up to where the mean loss is out of patience."""
    mean = pd.concat(curves).groupby("epoch", as_index=False).mean()
    history = [{str(k): float(v) for k, v in row.items()} for row in mean.to_dict("records")]
    for length in range(1, len(history)):
        if length - 1 - find_best(history[:length], MONITOR) >= patience:
            return history[:length]
    return history


def split_validation(data: PairedEmbeddings, tensors: PairTensors, seed: int) -> Folds:
    """Split validation rows into folds by case; by patient where a crosswalk links the cases.

    Returns numbers of the rows, among all pairs, of the rest and of those held out. Raises
    InputError if a class is in too few cases.
    """
    unit = "patient" if data.pairing.root.rule == "linked" else "case"
    column = data.pairs["subject_id" if unit == "patient" else "case_id"]
    rows = np.flatnonzero(tensors.split == "validation")
    groups, labels = pd.factorize(column.iloc[rows], sort=True)[0], tensors.labels.numpy()[rows]
    own = derive_seed(seed, "fusion", "folds")
    if folds := split_folds(labels, groups, len(data.classes), MOST_FOLDS, own):
        return [(rows[rest], rows[held_out]) for rest, held_out in folds]
    counts = (
        f"{name} {len(np.unique(groups[labels == c]))}" for c, name in enumerate(data.classes)
    )
    problem = f"{unit}s with each class: {', '.join(counts)}"
    expected = "at least two each, for fusion.head_rows: held_out"
    remedy = "Give validation more cases (splits.images), or set fusion.head_rows: in_sample."
    raise InputError.of("split 'validation'", problem, expected, remedy)


def gather(data: PairedEmbeddings) -> PairTensors:
    """Put the embeddings of all pairs into tensors, in the order of the pairs.

    Raises InputError if a pair has no embedding or an unknown label.
    """
    known = data.classes
    with collect_faults() as faults:
        for label in sorted(set(data.pairs["label"]) - set(known)):
            expected = f"one of the encoder's classes {known}"
            faults.add("pairs, label", f"unknown class {label!r}", expected)
    image, patient = select_pairs(data.embeddings, data.pairs)
    labels = pd.Index(known).get_indexer(data.pairs["label"].to_numpy(dtype=object))
    image, patient, numbers = map(
        torch.from_numpy, (np.array(image), np.array(patient), labels.astype(np.int64))
    )
    return PairTensors(image, patient, numbers, data.pairs["split"].to_numpy(dtype=object))


def make_head(
    embeddings: Embeddings, train: Rows, classes: int, params: FusionParams
) -> FusionHead:
    """Build the head; what it makes of image embeddings is fitted on its own rows alone."""
    dims = embeddings.image.dim, embeddings.patient.dim
    network = FusionHead(*dims, params.hidden, classes, params.dropout)
    image = train.inputs[0]
    assert isinstance(image, torch.Tensor)
    if params.standardise and len(train):
        network.image_scaler.fit(image)
    return network


def make_recipe(
    network: FusionHead, train: Rows, classes: int, params: FusionParams, seed: int
) -> Recipe:
    """Translate the params into a recipe for the loop.

    Source: paper 3.3 (cross-entropy, Adam, early stopping) and Appendix B (patience 5).
    """
    return Recipe(
        **read_recipe(params, train.labels, classes),
        monitor=MONITOR,
        seed=derive_seed(seed, "fusion"),
        groups=(ParameterGroup("all", tuple(network.parameters()), params.learning_rate),),
    )


def _describe(name: str, data: PairedEmbeddings, params: FusionParams, seed: int) -> dict[str, Any]:
    meta = data.embeddings.meta
    return {
        "kind": "fusion",
        "name": name,
        "classes": data.classes,
        "focus_class": meta["focus_class"],
        "params": params.model_dump(),
        "seed": seed,
        "inputs": dict(data.digests),
        "source": merge_sources(meta["sources"]["image"], meta["sources"]["patient"]),
        "sources": meta["sources"],
        "encoders": meta["encoders"],
        "architecture": {
            "image_dim": data.embeddings.image.dim,
            "patient_dim": data.embeddings.patient.dim,
            "hidden": params.hidden,
            "dropout": params.dropout,
        },
        **_describe_pairing(data.pairing),
    }


def _describe_pairing(pairing: PairingParams) -> dict[str, Any]:
    return {"pairing": pairing.root.model_dump(), "leaky": pairing.root.rule in LEAKY_RULES}
