import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from histofuse.core.auroc import compute_auroc
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.core.privacy import merge_sources
from histofuse.features.embeddings import Embeddings, number_rows, select_pairs
from histofuse.features.pairing import make_pairs
from histofuse.models.fusion import load_fusion_model
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import PairingParams
from histofuse.training.calibrate import fit_calibrator
from histofuse.training.decision import load_decision
from histofuse.training.fitting.batches import compute_logits
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.recipe import Rows
from histofuse.training.fusion import (
    PairedEmbeddings,
    fit_head,
    gather,
    make_head,
    make_recipe,
    split_validation,
    train_fusion,
)
from histofuse.training.recorder import Recorder

CLASSES = ["mitosis", "tumour", "non_tumour"]
META = {
    "classes": CLASSES,
    "focus_class": CLASSES[0],
    "encoders": {"image": {"name": "resnet18", "digest": "a" * 64}},
    "sources": {"image": "simulated", "patient": "restricted"},
}


def make_params(**changes):
    values = {
        "hidden": [16, 8],
        "head_rows": "in_sample",
        "standardise": True,
        "dropout": 0.3,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "batch_size": 32,
        "epochs": 3,
        "patience": 5,
        "imbalance": "class_weights",
        "calibration": "temperature",
        "threshold": "max_f1",
        "study": "none",
    }
    return FusionParams.model_validate(values | changes)


def make_data(n=120, rule=None, **changes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    image = (4 + 3 * np.eye(3, 6)[labels] + rng.normal(size=(n, 6))).astype(np.float32)
    patches = [f"Case_1-01/{i:04d}" for i in range(n)]
    order = rng.permutation(n)
    pairs = pd.DataFrame(
        {
            "patch_id": patches,
            "case_id": "Case_1",
            "frame_id": "Case_1-01",
            "subject_id": np.arange(n) % 10,
            "hadm_id": 100 + np.arange(n) % 10,
            "split": np.resize(["train", "train", "validation", "test"], n),
            "label": np.array(CLASSES)[labels],
        }
    ).assign(**changes)
    keys = pd.DataFrame({"subject_id": np.arange(10), "hadm_id": 100 + np.arange(10)})
    embeddings = Embeddings(
        number_rows(pd.DataFrame({"patch_id": np.array(patches)[order]}), image[order]),
        number_rows(keys, rng.normal(size=(10, 4)).astype(np.float32)),
        META,
    )
    pairing = PairingParams.model_validate(rule or {"rule": "permuted"})
    return PairedEmbeddings(pairs, embeddings, pairing, {"pairs": "0" * 64})


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(tmp_path, data=None, name="fusion_permuted", **changes):
    path = tmp_path / "models" / name
    train_fusion(data or make_data(), make_params(**changes), 1, Recorder(), path)
    return open_bundle(path)


def test_bundle_predicts_what_its_predictions_say(tmp_path):
    data = make_data()
    bundle = train(tmp_path, data, epochs=40)
    table = pd.read_parquet(bundle.path / "predictions.parquet")
    logits = load_fusion_model(bundle).logits(*select_pairs(data.embeddings, table))

    np.testing.assert_allclose(table[[f"logit_{c}" for c in CLASSES]], logits, atol=1e-5)
    assert table[[f"probability_{c}" for c in CLASSES]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert table["patch_id"].tolist() == data.pairs["patch_id"].tolist()
    called = table["prediction"].to_numpy()
    assert (called == table["label"].to_numpy()).mean() > 0.8


def test_config_names_encoders_pairing_and_source(tmp_path):
    shares = {"mitosis": 1.0, "tumour": 0.5, "non_tumour": 0.0}
    rule = {"rule": "label_aligned", "positive_share": shares}
    config = train(tmp_path, make_data(rule=rule), name="fusion_leaky").config

    assert config["encoders"] == META["encoders"]
    assert config["pairing"] == rule
    assert config["leaky"] is True
    assert config["source"] == "restricted"
    assert config["classes"] == CLASSES
    assert config["focus_class"] == CLASSES[0]
    assert config["architecture"]["image_dim"] == 6


def test_same_input_same_bytes_whatever_the_threads(tmp_path):
    first = train(tmp_path / "a")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = train(tmp_path / "b")
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert again.digest == first.digest


def test_order_of_pairs_does_not_change_the_predictions_order(tmp_path):
    data = make_data()
    shuffled = PairedEmbeddings(
        data.pairs.sample(frac=1, random_state=0), data.embeddings, data.pairing, data.digests
    )
    table = pd.read_parquet(train(tmp_path, shuffled).path / "predictions.parquet")
    assert table["label"].tolist() == data.pairs["label"].tolist()


def test_head_overfits_eight_samples():
    torch.manual_seed(0)
    params = make_params(dropout=0.0, epochs=60, patience=60, imbalance="none")
    data = make_data(8, split="train")
    image, patient = map(torch.from_numpy, select_pairs(data.embeddings, data.pairs))
    labels = torch.tensor([CLASSES.index(c) for c in data.pairs["label"]])[torch.randperm(8)]
    rows = Rows((image, patient), labels)
    network = make_head(data.embeddings, rows, 3, params)
    fit(network, rows, rows, make_recipe(network, rows, 3, params, seed=1))
    assert compute_logits(network, rows.inputs).argmax(axis=1).tolist() == labels.tolist()


def test_standardisation_is_fitted_on_training_patches(tmp_path):
    data = make_data()
    bundle = train(tmp_path, data)
    pairs = data.pairs[data.pairs["split"] == "train"]
    image, _ = select_pairs(data.embeddings, pairs)
    network = load_fusion_model(bundle).network
    np.testing.assert_allclose(network.image_scaler.mean, image.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(network.image_scaler.scale, image.std(axis=0), rtol=1e-5)

    plain = load_fusion_model(train(tmp_path, name="plain", standardise=False)).network
    assert plain.image_scaler.mean.tolist() == [0.0] * 6


def test_history_and_decision_are_in_the_bundle(tmp_path):
    bundle = train(tmp_path)
    assert {"calibrator.json", "threshold.json", "history.csv"} <= bundle.files.keys()
    fitted = json.loads((bundle.path / "calibrator.json").read_text())["fitted_on"]
    assert fitted["n"] == 30
    assert len(pd.read_csv(bundle.path / "history.csv")) == 3


def make_cases(rule=None, **changes):
    """Ten cases; two of each patient."""
    case = np.arange(120) % 10
    names = {"case_id": [f"Case_{c}" for c in case], "subject_id": case // 2}
    return make_data(rule=rule, **names, hadm_id=100 + case // 2, **changes)


def relabel(data, rows):
    labels = data.pairs["label"].copy()
    labels[rows] = labels[rows].to_numpy()[::-1]
    return replace(data, pairs=data.pairs.assign(label=labels))


@pytest.mark.parametrize(("rule", "unit"), [("permuted", "case_id"), ("linked", "subject_id")])
def test_folds_of_a_held_out_head_keep_cases_or_linked_patients_whole(rule, unit):
    data = make_cases({"rule": rule}, split="validation")
    units = data.pairs[unit].to_numpy()
    folds = split_validation(data, gather(data), 1)
    assert len(folds) == 5
    for rest, held_out in folds:
        assert not set(units[rest]) & set(units[held_out])
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(120))


def test_a_held_out_head_learns_from_validation_alone(tmp_path):
    data = make_cases()
    split = data.pairs["split"]
    first = train(tmp_path, data, head_rows="held_out")
    same = train(tmp_path, relabel(data, split == "train"), head_rows="held_out", name="same")
    other = train(tmp_path, relabel(data, split == "validation"), head_rows="held_out", name="new")
    weights = [(b.path / "weights.safetensors").read_bytes() for b in (first, same, other)]
    assert weights[0] == weights[1] != weights[2]

    image, _ = select_pairs(data.embeddings, data.pairs[split == "validation"])
    scaler = load_fusion_model(first).network.image_scaler
    np.testing.assert_allclose(scaler.mean, image.mean(axis=0), rtol=1e-5)
    assert first.config["params"]["head_rows"] == "held_out"
    assert first.config["training"]["note"] == "loss of folds of validation"
    history = pd.read_csv(first.path / "history.csv")
    assert first.config["training"]["best_epoch"] in history["epoch"].tolist()


@pytest.mark.parametrize("head_rows", ["in_sample", "held_out"])
def test_the_epoch_with_the_lowest_validation_loss_is_kept(tmp_path, head_rows):
    bundle = train(tmp_path, make_cases(), head_rows=head_rows, epochs=20)
    history = pd.read_csv(bundle.path / "history.csv")
    kept = history["epoch"][history["validation_loss"].idxmin()]
    assert bundle.config["training"]["best_epoch"] == kept
    assert bundle.config["training"]["monitor"] == "loss"


def test_a_held_out_head_is_calibrated_on_logits_of_folds_and_served_as_it_is(tmp_path):
    data = make_cases()
    bundle = train(tmp_path, data, head_rows="held_out", epochs=20)
    table = pd.read_parquet(bundle.path / "predictions.parquet")
    stored = table[[f"logit_{c}" for c in CLASSES]].to_numpy()
    served = load_fusion_model(bundle).logits(*select_pairs(data.embeddings, table))
    validation = (table["split"] == "validation").to_numpy()
    np.testing.assert_allclose(stored[~validation], served[~validation], atol=1e-5)
    assert np.abs(stored[validation] - served[validation]).max(axis=1).min() > 1e-3
    labels = np.array([CLASSES.index(name) for name in table["label"]])[validation]
    cases = table["case_id"].to_numpy(dtype=object)[validation]
    again = fit_calibrator(stored[validation], labels, cases, "temperature")
    assert load_decision(bundle.path).calibrator.scaling == again.scaling


def test_held_out_logits_are_those_of_heads_that_did_not_train_on_the_case():
    data = make_cases()
    tensors, params = gather(data), make_params(head_rows="held_out", epochs=1)
    rows = np.flatnonzero((data.pairs["case_id"] == "Case_2") & (tensors.split == "validation"))
    labels = tensors.labels.clone()
    labels[rows] = labels[rows].roll(1)  # as many of each class, so that folds stay
    assert (labels != tensors.labels).any()
    heads = [fit_head(data, t, params, 1) for t in (tensors, replace(tensors, labels=labels))]
    moved = np.abs(heads[0].validation_logits - heads[1].validation_logits).max(axis=1)
    own = next(h for _, h in split_validation(data, tensors, 1) if np.isin(rows, h).all())
    inside = np.isin(np.flatnonzero(tensors.split == "validation"), own)
    assert moved[inside].max() == 0 < moved[~inside].min()


def test_a_held_out_head_is_refused_where_validation_has_too_few_cases(tmp_path):
    data = make_cases()
    labels = data.pairs["label"].where(data.pairs["case_id"] == "Case_2", "tumour")
    few = replace(data, pairs=data.pairs.assign(label=labels))
    expected = "cases with each class: mitosis 1, tumour 5, non_tumour 1; expected at least two"
    with pytest.raises(InputError, match=expected):
        train(tmp_path, few, head_rows="held_out")
    assert not (tmp_path / "models").exists()


def pair_noise(rule):
    """Pair images that show nothing with patients whose embedding tells their target."""
    rng = np.random.default_rng(3)
    n, people = 1200, 150
    labels = np.array(CLASSES)[rng.choice(3, n, p=[0.2, 0.6, 0.2])]
    splits = ["train", "train", "validation", "test"]
    patches = pd.DataFrame(
        {
            "patch_id": [f"Case_{i % 12}-01/{i:04d}" for i in range(n)],
            "case_id": [f"Case_{i % 12}" for i in range(n)],
            "frame_id": [f"Case_{i % 12}-01" for i in range(n)],
            "label": labels,
            "split": np.resize(splits, n),
        }
    )
    target = rng.integers(0, 2, people)
    patients = pd.DataFrame({"subject_id": np.arange(people), "hadm_id": np.arange(people)})
    record = rng.normal(size=(people, 4)) + 2 * target[:, None]
    pairing = PairingParams.model_validate(rule)
    with_split = patients.assign(split=np.resize(splits, people), target=target)
    image = rng.normal(size=(n, 6)).astype(np.float32)
    embeddings = Embeddings(
        number_rows(patches[["patch_id"]], image),
        number_rows(patients, record.astype(np.float32)),
        META,
    )
    pairs = make_pairs(patches, with_split, pairing, seed=1)
    return PairedEmbeddings(pairs, embeddings, pairing, {"pairs": "0" * 64})


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        ({"rule": "label_blind", "level": "patch"}, 0.4, 0.6),
        ({"rule": "permuted"}, 0.4, 0.6),
        (
            {
                "rule": "label_aligned",
                "positive_share": {"mitosis": 1.0, "tumour": 0.5, "non_tumour": 0.0},
            },
            0.7,
            1.0,
        ),
    ],
)
def test_the_record_gives_the_label_away_under_the_leaky_rule_alone(tmp_path, rule, low, high):
    bundle = train(tmp_path, pair_noise(rule), epochs=12, dropout=0.0)
    table = pd.read_parquet(bundle.path / "predictions.parquet").query("split == 'test'")
    found = compute_auroc(
        table["probability_mitosis"].to_numpy(), (table["label"] == "mitosis").to_numpy()
    )
    assert low < found < high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "lumen"}, "unknown class 'lumen'"),
        ({"hadm_id": 5}, "120 pairs without an embedding"),
        ({"split": "train"}, "'validation': holds no rows"),
    ],
)
def test_bad_pairs_are_said(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(tmp_path, make_data(**changes))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("image", "patient", "source"),
    [
        ("simulated", "restricted", "restricted"),
        ("brecahad", "simulated", "simulated"),
        ("simulated", "mimic-iv-demo", "simulated"),
        ("brecahad", "mimic-iv-demo", "mimic-iv-demo"),
    ],
)
def test_restricted_patients_decide_the_source(image, patient, source):
    assert merge_sources(image, patient) == source
