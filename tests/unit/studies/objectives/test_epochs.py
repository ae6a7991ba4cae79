"""Objectives over epochs: what they report, that they stop, and what they leave behind."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from histofuse.params.base import load_section
from histofuse.params.fusion import FusionParams
from histofuse.params.image import FinetuneParams
from histofuse.params.pairing import PairingParams
from histofuse.studies.objectives.epochs import FusionObjective, ImageObjective, to_result
from histofuse.studies.trials import StopTrial
from histofuse.training.fitting.history import FitResult
from histofuse.training.fusion import load_pairs, train_fusion
from histofuse.training.image import load_patch_data
from histofuse.training.recorder import Recorder


class Told:
    """Keeps what is reported; stops at a step."""

    def __init__(self, stop_at=math.inf):
        self.values, self.stop_at = [], stop_at

    def __call__(self, step, value):
        assert step == len(self.values)
        self.values.append(value)
        if step >= self.stop_at:
            raise StopTrial


@pytest.fixture
def pairs(small_project):
    pairing = load_section(PairingParams, "pairing.label_blind")
    return load_pairs(Path("data/pairs/label_blind.parquet"), Path("data/embeddings"), pairing)


@pytest.fixture
def fusion_params(small_project):
    return load_section(FusionParams, "fusion").model_copy(update={"epochs": 6})


@pytest.mark.parametrize("rows", ["in_sample", "held_out"])
def test_the_value_is_the_best_of_the_epochs_that_training_goes_through(pairs, fusion_params, rows):
    fusion_params = fusion_params.model_copy(update={"head_rows": rows})
    result = FusionObjective(pairs, 5, "macro_f1")(fusion_params, Told())
    trained = train_fusion(pairs, fusion_params, 5, Recorder(), Path("models/tuned"))
    best = max(trained.history, key=lambda row: row["validation_macro_f1"])
    assert result.value == best["validation_macro_f1"]
    assert result.scores["best_epoch"] == best["epoch"]
    assert result.scores["validation/auroc/macro"] == best["validation_auroc"]
    assert len(result.steps["validation/f1/macro/epoch"]) == len(trained.history)


@pytest.mark.parametrize("metric", ["macro_f1", "auroc"])
def test_the_best_so_far_is_reported_after_each_epoch(pairs, fusion_params, metric):
    told = Told()
    result = FusionObjective(pairs, 5, metric)(fusion_params, told)
    assert told.values == sorted(told.values)
    assert told.values[-1] == result.value
    name = {"macro_f1": "validation/f1/macro", "auroc": "validation/auroc/macro"}[metric]
    assert result.value == max(result.steps[f"{name}/epoch"])


def test_a_stop_ends_the_training_and_the_next_trial_is_none_the_worse(pairs, fusion_params):
    objective = FusionObjective(pairs, 5, "macro_f1")
    whole = objective(fusion_params, Told())
    told = Told(stop_at=1)
    with pytest.raises(StopTrial):
        objective(fusion_params.model_copy(update={"learning_rate": 0.1}), told)
    assert len(told.values) == 2
    assert objective(fusion_params, Told()) == whole


def test_the_test_split_stays_out_of_it(pairs, fusion_params):
    spoilt = pairs.pairs.copy()
    for split in ("test", "validation"):
        rows = spoilt.index[spoilt["split"] == split]
        other = spoilt.copy()
        other.loc[rows, "label"] = other.loc[rows, "label"].to_numpy()[::-1]
        assert not other.equals(spoilt)
        found = FusionObjective(replace(pairs, pairs=other), 5, "macro_f1")(fusion_params, Told())
        same = found == FusionObjective(pairs, 5, "macro_f1")(fusion_params, Told())
        assert same == (split == "test"), "validation is to decide, test is not"


def test_tuned_values_are_heeded_and_another_seed_is_another_start(pairs, fusion_params):
    objective = FusionObjective(pairs, 5, "auroc")
    first = objective(fusion_params, Told())
    for change in ({"learning_rate": 1e-5}, {"dropout": 0.5}, {"hidden": [4]}):
        assert objective(fusion_params.model_copy(update=change), Told()) != first, change
    assert FusionObjective(pairs, 6, "auroc")(fusion_params, Told()) != first


def test_an_image_network_is_tried_and_leaves_no_files(small_project):
    data = load_patch_data(Path("data/patches"), Path("data/splits/patches.parquet"))
    params = load_section(FinetuneParams, "image.simple_cnn").model_copy(update={"epochs": 2})
    before = set(Path.cwd().rglob("*"))
    objective = ImageObjective("simple_cnn", data, 5, "macro_f1")
    first = objective(params, Told())
    assert objective(params, Told()) == first
    assert 0 < first.value <= 1
    with pytest.raises(StopTrial):
        objective(params, Told(stop_at=0))
    assert set(Path.cwd().rglob("*")) == before


def test_epochs_without_a_score_are_left_out():
    row = {"validation_macro_f1": 0.5, "validation_auroc": math.nan}
    result = to_result(FitResult([row, {**row, "validation_macro_f1": 0.7}], 2), "macro_f1")
    assert (result.value, result.scores) == (0.7, {"best_epoch": 2.0, "validation/f1/macro": 0.7})
    assert result.steps["validation/auroc/macro/epoch"] == []


def test_a_score_that_no_epoch_has_is_no_value():
    row = {"validation_macro_f1": 0.5, "validation_auroc": math.nan}
    assert math.isnan(to_result(FitResult([row, row], 1), "auroc").value)
