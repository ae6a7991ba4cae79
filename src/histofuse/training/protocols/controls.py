"""Controls: models trained and tested on shuffled labels, or on shuffled images.

Nothing is shuffled across splits. Labels are shuffled in training and validation, images in all.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from histofuse.core.ids import SPLITS
from histofuse.core.seeding import derive_seed, make_rng
from histofuse.models.fusion import ROWS_AT_ONCE
from histofuse.models.mlp import one_thread
from histofuse.params.fusion import FusionParams
from histofuse.params.tabular import AnyTabularParams
from histofuse.training.decision import fit_decision
from histofuse.training.fitting.batches import compute_logits
from histofuse.training.fusion import PairedEmbeddings, PairTensors, fit_head, gather
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import EncodedTable, fit_model, to_columns

TRAINED_ON = ("train", "validation")


class Answers(NamedTuple):
    """Calibrated probabilities and class numbers of a control on the test rows."""

    probabilities: Float[np.ndarray, "n k"]
    predictions: Int[np.ndarray, " n"]


def shuffle_within(
    split: np.ndarray, splits: tuple[str, ...], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Draw a permutation of row numbers that leaves each row in its split; only `splits` change."""
    order = np.arange(len(split))
    for name in splits:
        rows = np.flatnonzero(split == name)
        order[rows] = rng.permutation(rows)
    return order


# What each control shuffles, and the splits within which it does.
SHUFFLES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "shuffled_labels": ("labels", TRAINED_ON),
    "shuffled_images": ("image", SPLITS),
}


def shuffle(tensors: PairTensors, control: str, rng: np.random.Generator) -> PairTensors:
    """Shuffle the labels training sees, or image embeddings over the patches of each split."""
    field, splits = SHUFFLES[control]
    order = torch.from_numpy(shuffle_within(tensors.split, splits, rng))
    return replace(tensors, **{field: getattr(tensors, field)[order]})


def run_fusion_control(
    data: PairedEmbeddings, params: FusionParams, control: str, repeats: int, seed: int
) -> list[Answers]:
    """Train a head for each shuffle and predict the test pairs, in the order of the pairs."""
    whole, rule = gather(data), data.pairing.root.rule
    found = []
    for number in range(repeats):
        rng = make_rng(seed, "controls", control, rule, number)
        tensors = shuffle(whole, control, rng)
        found.append(_train_head(data, tensors, params, derive_seed(seed, "controls", number)))
    return found


def _train_head(
    data: PairedEmbeddings, tensors: PairTensors, params: FusionParams, seed: int
) -> Answers:
    labels = tensors.rows("validation").labels.numpy()
    with one_thread():
        head = fit_head(data, tensors, params, seed)
        test = tensors.rows("test").inputs
        of_test = compute_logits(head.network, test, batch_size=ROWS_AT_ONCE)
    cases = data.pairs.loc[data.pairs["split"] == "validation", "case_id"].to_numpy(dtype=object)
    return _answer(head.validation_logits, labels, cases, of_test, params)


def run_tabular_control(
    table: EncodedTable, params: AnyTabularParams, repeats: int, seed: int
) -> list[Answers]:
    """Train on shuffled targets, for each shuffle, and predict the test rows in their order."""
    split = table.rows["split"].to_numpy(dtype=object)
    target = table.rows["target"].to_numpy(dtype=np.int64)
    rows = split == "validation"
    patients = table.rows["subject_id"].to_numpy()[rows]
    found = []
    for number in range(repeats):
        rng = make_rng(seed, "controls", "shuffled_targets", number)
        shuffled = target[shuffle_within(split, TRAINED_ON, rng)]
        changed = replace(table, rows=table.rows.assign(target=shuffled))
        model = fit_model(changed, params, derive_seed(seed, number), Recorder()).model
        logits = to_columns(model.logits(table.rows))
        of_validation, of_test = logits[rows], logits[split == "test"]
        found.append(_answer(of_validation, shuffled[rows], patients, of_test, params))
    return found


def _answer(
    of_validation: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    of_test: np.ndarray,
    params: FusionParams | AnyTabularParams,
) -> Answers:
    decision = fit_decision(of_validation, labels, groups, params.calibration, params.threshold)
    return Answers(*decision.decide(of_test))
