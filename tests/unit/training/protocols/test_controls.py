from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from histofuse.core.auroc import compute_auroc
from histofuse.core.seeding import make_rng
from histofuse.features.embeddings import Embeddings, number_rows
from histofuse.params.base import load_section
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import PairingParams
from histofuse.params.tabular import TabularParams
from histofuse.training.fusion import PairedEmbeddings, PairTensors
from histofuse.training.protocols.controls import (
    run_fusion_control,
    run_tabular_control,
    shuffle,
    shuffle_within,
)
from histofuse.training.tabular import load_table

ROOT = Path(__file__).parents[4]
SPLIT = np.resize(["train", "train", "validation", "test"], 80).astype(object)


@pytest.fixture
def tensors():
    numbers = torch.arange(80.0)[:, None]
    return PairTensors(numbers, numbers.clone(), torch.arange(80), SPLIT)


def test_shuffle_keeps_each_row_in_its_split():
    order = shuffle_within(SPLIT, ("train", "test"), make_rng(1))
    assert sorted(order) == list(range(80))
    assert (SPLIT[order] == SPLIT).all()
    moved = order != np.arange(80)
    assert moved[SPLIT == "train"].mean() > 0.8
    assert not moved[SPLIT == "validation"].any()


def test_labels_are_shuffled_where_training_looks_and_nowhere_else(tensors):
    found = shuffle(tensors, "shuffled_labels", make_rng(1))
    moved = (found.labels != tensors.labels).numpy()
    assert moved[SPLIT == "train"].mean() > 0.8
    assert moved[SPLIT == "validation"].mean() > 0.8
    assert not moved[SPLIT == "test"].any()
    assert torch.equal(found.image, tensors.image)
    assert torch.equal(found.patient, tensors.patient)


def test_images_are_shuffled_everywhere_and_patients_stay_with_labels(tensors):
    found = shuffle(tensors, "shuffled_images", make_rng(1))
    moved = (found.image != tensors.image).numpy()[:, 0]
    assert all(moved[s == SPLIT].mean() > 0.8 for s in ("train", "validation", "test"))
    assert torch.equal(found.labels, tensors.labels)
    assert torch.equal(found.patient, tensors.patient)


CLASSES = ["mitosis", "tumour", "non_tumour"]


def make_data(rule, n=360):
    """Images that tell the label, and patients whose embedding tells a target."""
    rng = np.random.default_rng(0)
    labels, target = np.arange(n) % 3, np.arange(60) % 2
    image = (3 * np.eye(3, 6)[labels] + rng.normal(size=(n, 6))).astype(np.float32)
    patient = np.column_stack([6 * target - 3, rng.normal(size=(60, 2)).T[0]]).astype(np.float32)
    given = rng.permutation(np.arange(n) % 60)
    if rule == "label_aligned":
        given = 2 * (np.arange(n) // 3 % 30) + (labels == 0)
    pairs = pd.DataFrame(
        {
            "patch_id": [f"Case_1-01/{i:04d}" for i in range(n)],
            "case_id": "Case_1",
            "frame_id": "Case_1-01",
            "subject_id": given,
            "hadm_id": given,
            "split": np.repeat(["train", "validation", "test"], n // 3),
            "label": np.array(CLASSES)[labels],
        }
    )
    keys = pd.DataFrame({"subject_id": np.arange(60), "hadm_id": np.arange(60)})
    embeddings = Embeddings(
        number_rows(pairs[["patch_id"]], image), number_rows(keys, patient), {"classes": CLASSES}
    )
    share = {"positive_share": {"mitosis": 1.0, "tumour": 0.0, "non_tumour": 0.0}}
    blind = {"level": "patch"}
    values = {"rule": rule} | (share if rule == "label_aligned" else blind)
    return PairedEmbeddings(pairs, embeddings, PairingParams.model_validate(values), {})


def score(data, answers):
    labels = np.array([CLASSES.index(v) for v in data.pairs["label"]])
    labels = labels[data.pairs["split"] == "test"]
    return np.mean(
        [[compute_auroc(a.probabilities[:, k], labels == k) for k in range(3)] for a in answers],
        axis=0,
    )


def test_controls_of_a_head_stay_at_chance_but_for_what_the_record_gives_away(tmp_path):
    params = load_section(FusionParams, "fusion", ROOT / "params.yaml")
    params = params.model_copy(update={"epochs": 20, "learning_rate": 1e-2, "hidden": [16]})
    blind, aligned = make_data("label_blind"), make_data("label_aligned")

    def run(data, control):
        return run_fusion_control(data, params, control, 4, 1)

    for control in ("shuffled_labels", "shuffled_images"):
        assert score(blind, run(blind, control)) == pytest.approx(0.5, abs=0.2)
    answers = run(aligned, "shuffled_images")
    # The record tells mitosis from the rest, and nothing of which of the rest it is.
    mitosis, *rest = score(aligned, answers)
    assert mitosis > 0.95
    assert rest == pytest.approx([0.75, 0.75], abs=0.08)
    again = run(aligned, "shuffled_images")
    np.testing.assert_array_equal(answers[0].probabilities, again[0].probabilities)


def test_controls_of_a_held_out_head_do_not_look_at_the_training_split():
    params = load_section(FusionParams, "fusion", ROOT / "params.yaml")
    params = params.model_copy(update={"epochs": 2, "hidden": [4], "head_rows": "held_out"})
    data = make_data("label_blind")
    cases = [f"Case_{i % 4}" for i in range(len(data.pairs))]
    data = replace(data, pairs=data.pairs.assign(case_id=cases))
    train = data.pairs["split"] == "train"
    other = replace(data, pairs=data.pairs.assign(label=data.pairs["label"].mask(train, "tumour")))
    answers = [run_fusion_control(d, params, "shuffled_labels", 1, 1)[0] for d in (data, other)]
    np.testing.assert_array_equal(answers[0].probabilities, answers[1].probabilities)


def test_record_model_on_shuffled_targets_stays_at_chance(small_project):
    params = load_section(TabularParams, "tabular.logistic_regression").root
    table = load_table(Path("data/encoded"), Path("data/cohort/meta.json"), params.kind)
    target = table.rows.loc[table.rows["split"] == "test", "target"].to_numpy()
    answers = run_tabular_control(table, params, 6, 1)
    scores = [compute_auroc(a.probabilities[:, 1], target) for a in answers]
    assert abs(np.mean(scores) - 0.5) < 0.15
    assert len(set(scores)) == 6
