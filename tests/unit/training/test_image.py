"""Image training on patches of plain colours, from shards to bundle."""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from plain_patches import CLASSES, write_project

from histofuse.core.artifacts import digest_folder
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.core.seeding import derive_seed
from histofuse.core.tables import read_table, write_table
from histofuse.data.patches import PATCH_INDEX, PatchMeta
from histofuse.data.splits import PATCH_SPLITS
from histofuse.evaluation.alarms.models import check_calibrator, check_thresholds, read_model
from histofuse.explain.maps.mappers import Inputs as MapInputs
from histofuse.explain.maps.mappers import map_image_network
from histofuse.features.augment import augment_patches
from histofuse.features.embeddings import find_image_embeddings
from histofuse.models.backbones import ImageModel, load_image_model
from histofuse.models.stages import MapMethod
from histofuse.params.image import FinetuneParams, LpFtParams, ProbeParams
from histofuse.training import image
from histofuse.training.decision import load_decision
from histofuse.training.fitting import trainer
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.recipe import Rows
from histofuse.training.image import (
    IMAGE_PREDICTIONS,
    apply_network,
    create_model,
    load_patch_data,
    make_recipe,
    train_image,
)
from histofuse.training.probe import fit_probe
from histofuse.training.recorder import Recorder

VALUES = {
    "strategy": "finetune",
    "backbone": "simple_cnn",
    "model_kwargs": {},
    "weights": "none",
    "pooling": "encoder",
    "input_px": 16,
    "epochs": 3,
    "batch_size": 16,
    "head_learning_rate": 3e-3,
    "backbone_learning_rate": 3e-3,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "frozen_epochs": 0,
    "unfreeze_every_epochs": 1,
    "imbalance": "class_weights",
    "focal_gamma": 0.0,
    "schedule": "constant",
    "step_epochs": 1,
    "step_factor": 1.0,
    "patience": 40,
    "precision": "fp32",
    "augmentation": {
        "flips": True,
        "rotation_degrees": 10.0,
        "scale": [0.9, 1.1],
        "brightness": 0.05,
        "contrast": 0.05,
        "saturation": 0.05,
        "hue": 0.01,
        "stain_scale": 0.05,
        "stain_shift": 0.01,
    },
    "normalisation": "unit",
    "minimum_map_px": 4,
    "weight_averaging": 0.0,
    "monitor": "macro_f1",
    "calibration": "temperature",
    "threshold": "argmax",
    "study": "none",
}
OFF = {"flips": False, "rotation_degrees": 0.0, "scale": [1.0, 1.0]} | dict.fromkeys(
    ("brightness", "contrast", "saturation", "hue", "stain_scale", "stain_shift"), 0.0
)


def make_params(**changes) -> FinetuneParams:
    return FinetuneParams.model_validate({**copy.deepcopy(VALUES), **changes})


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


def choose_last(model, predictions, to_probabilities):
    """Check what a choice of maps is given, and choose."""
    assert set(predictions["split"]) == {"validation"} and len(predictions) == 15
    columns = [f"{kind}_{name}" for kind in ("logit", "probability") for name in CLASSES]
    logits, probabilities = np.split(predictions[columns].to_numpy(), 2, axis=1)
    np.testing.assert_allclose(to_probabilities(logits), probabilities, atol=1e-6)
    assert model.gradcam_layer is not None and not model.training
    return {"method": {"name": "scorecam", "blur_px": 2.0, "masks": 5}}


@pytest.fixture(scope="module")
def trained(project, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("root"))
        data = load_patch_data(project / "patches", project / "splits.parquet")
        made = (data, make_params(), 7, Recorder(), Path("models/tiny"))
        train_image(*made, embeddings=Path("embeddings/tiny"), choose_maps=choose_last)
        assert not Path(".histofuse/checkpoints/tiny").exists()
        return Path("models/tiny").resolve()


def test_patches_meet_their_labels_by_key(project):
    data = load_patch_data(project / "patches", project / "splits.parquet")
    rows = data.load_rows("train")
    assert len(rows) == 60
    brightest = rows.inputs[0].to(torch.device("cpu")).float().mean(dim=(1, 2)).argmax(dim=1)
    assert torch.equal(brightest, rows.labels)
    assert data.table["patch_id"].is_monotonic_increasing


def test_patches_without_a_split_and_the_reverse_are_both_named(tmp_path):
    project = write_project(tmp_path)
    splits = pd.read_parquet(project / "splits.parquet")
    splits.loc[0, "patch_id"] = "stray"
    write_table(splits, project / "splits.parquet", PATCH_SPLITS)
    with pytest.raises(InputError, match="2 faults") as caught:
        load_patch_data(project / "patches", project / "splits.parquet")
    assert "stray" in str(caught.value)


@pytest.mark.parametrize(("column", "value"), [("shard", 2**33), ("row", -1)])
def test_places_that_no_shard_has_are_refused(column, value, tmp_path):
    project = write_project(tmp_path)
    index = pd.read_parquet(project / "patches" / "index.parquet")
    index.loc[3, column] = value
    write_table(index, project / "patches" / "index.parquet", PATCH_INDEX)
    with pytest.raises(InputError, match=rf"index\.parquet: {column}s beyond 0 to"):
        load_patch_data(project / "patches", project / "splits.parquet")


def test_the_bundle_holds_what_it_must(trained):
    bundle = open_bundle(trained)
    assert set(bundle.files) == {
        "weights.safetensors",
        "config.json",
        "calibrator.json",
        "distance.safetensors",
        "threshold.json",
        "history.csv",
        "predictions.parquet",
    }
    config = bundle.config
    assert (config["kind"], config["name"], config["source"]) == ("image", "tiny", "simulated")
    assert config["classes"] == CLASSES
    assert config["focus_class"] == "mitosis"
    assert set(config["inputs"]) == {"patches", "splits"}
    assert config["architecture"]["embedding_dim"] == 256
    layer = {"name": "backbone.features.1", "map_px": 4}
    layer |= {"layout": "channels_first", "prefix_tokens": 0}
    assert config["architecture"]["gradcam_layer"] == layer
    assert load_image_model(bundle).map_method == MapMethod("scorecam", blur_px=2.0, masks=5)
    history = pd.read_csv(trained / "history.csv")
    assert {"epoch", "train_loss", "validation_macro_f1", "learning_rate_head"} <= set(history)


def test_predictions_are_the_saved_models_on_each_patch_by_key(trained, project):
    predictions = read_table(trained / "predictions.parquet", IMAGE_PREDICTIONS)
    assert predictions["patch_id"].is_monotonic_increasing
    assert predictions["split"].value_counts().to_dict() == {
        "train": 60,
        "validation": 15,
        "test": 15,
    }
    accuracy = (predictions["prediction"] == predictions["label"])[predictions["split"] == "test"]
    assert accuracy.mean() > 0.9

    model = load_image_model(open_bundle(trained))
    index = read_table(project / "patches" / "index.parquet", PATCH_INDEX).iloc[:7]
    found = predictions.set_index("patch_id").loc[index["patch_id"]]
    logits = apply_network(model, project / "patches", index).logits
    expected = found[[f"logit_{c}" for c in CLASSES]].to_numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert expected.dtype == np.float32
    calibrator, thresholds = load_decision(trained)
    probabilities = calibrator.probabilities(expected)
    np.testing.assert_allclose(found[[f"probability_{c}" for c in CLASSES]], probabilities)
    decided = np.array(CLASSES)[thresholds.decide(probabilities)]
    assert decided.tolist() == found["prediction"].tolist()


def test_embeddings_lead_to_the_logits(trained, project):
    model = load_image_model(open_bundle(trained))
    index = read_table(project / "patches" / "index.parquet", PATCH_INDEX)
    embedding, expected = apply_network(model, project / "patches", index)
    assert embedding.shape == (90, 256) and embedding.dtype == np.float32
    with torch.inference_mode():
        logits = model.head(torch.from_numpy(embedding)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_training_keeps_the_embeddings_of_its_own_encoder_and_patches(trained, project):
    kept, patches = trained.parents[1] / "embeddings" / "tiny", project / "patches"
    origin = {"encoder": open_bundle(trained).digest, "patches": digest_folder(patches)}
    image = find_image_embeddings(origin, kept)
    assert image is not None
    index = read_table(patches / "index.parquet", PATCH_INDEX)
    expected = apply_network(load_image_model(open_bundle(trained)), patches, index).embeddings
    rows = image.rows.set_index("patch_id").loc[index["patch_id"], "row"]
    np.testing.assert_allclose(image.values[rows], expected, atol=1e-5)
    assert find_image_embeddings({**origin, "encoder": "another"}, kept) is None
    assert find_image_embeddings(origin, kept / "missing") is None


def test_patches_of_another_size_are_refused(trained, project, tmp_path):
    other = write_project(tmp_path)
    meta = other / "patches" / "meta.json"
    sides = {"patch_px": 20, "margin_px": 2}
    meta.write_text(json.dumps(json.loads(meta.read_text()) | sides))
    index = read_table(other / "patches" / "index.parquet", PATCH_INDEX)
    with pytest.raises(InputError, match="20 px with a margin of 2 px"):
        apply_network(load_image_model(open_bundle(trained)), other / "patches", index)


def test_the_same_run_gives_the_same_bundle(trained, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_patch_data(project / "patches", project / "splits.parquet")
    train_image(data, make_params(), 7, Recorder(), Path("tiny"), choose_maps=choose_last)
    assert open_bundle(Path("tiny")).digest == open_bundle(trained).digest


@pytest.mark.parametrize(("backbone", "epochs"), [("simple_cnn", 30), ("resnet18", 20)])
def test_each_network_overfits_eight_samples(backbone, epochs):
    generator = torch.Generator().manual_seed(1)
    patches = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    # Five steps an epoch, so that the running statistics of batch norms catch up.
    rows = Rows((patches.repeat(5, 1, 1, 1),), labels.repeat(5))
    params = make_params(
        backbone=backbone,
        input_px=32,
        epochs=epochs,
        batch_size=8,
        augmentation=OFF,
        schedule="cosine",
        head_learning_rate=1e-3,
        backbone_learning_rate=1e-3,
    )

    meta = PatchMeta(32, 4, 40, CLASSES, "simulated", "none")
    model = create_model(backbone, meta, params, 3)
    result = fit(model, rows, rows, make_recipe(backbone, model, rows, params, 3))
    assert max(row["train_accuracy"] for row in result.history) == 1
    assert min(row["train_loss"] for row in result.history) < 0.3
    with torch.inference_mode():
        logits = model.eval()(model.prepare(patches))
    assert logits.argmax(dim=1).tolist() == labels.tolist()


def test_the_recipe_says_what_the_params_say(project):
    data = load_patch_data(project / "patches", project / "splits.parquet")
    rows = data.load_rows("train")
    params = make_params(
        weight_averaging=0.9,
        monitor="auroc",
        frozen_epochs=1,
        head_learning_rate=1e-3,
        backbone_learning_rate=1e-4,
        schedule="step",
        step_epochs=2,
        step_factor=0.5,
        imbalance="weighted_sampler",
    )
    model = create_model("tiny", data.meta, params, 1)
    recipe = make_recipe("tiny", model, rows, params, 1)
    rates = {group.name: group.learning_rate for group in recipe.groups}
    assert rates == {"head": 1e-3, "backbone": 1e-4}
    grouped = sum(p.numel() for g in recipe.groups for p in g.parameters)
    assert grouped == sum(p.numel() for p in model.parameters())
    assert [recipe.schedule(e) for e in range(4)] == [1, 1, 0.5, 0.5]
    assert recipe.class_weights is None and recipe.row_weights is not None
    assert recipe.weight_averaging == 0.9
    assert recipe.monitor == "auroc"

    learning = []
    for epoch in range(5):
        recipe.begin_epoch(model, epoch)
        learning.append(sum(p.requires_grad for p in model.backbone.parameters()))
    assert learning == [0, 2, 4, 6, 8]


def digest(model: ImageModel) -> str:
    parts = (tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_random_weights_come_from_seed_and_name(project):
    meta = load_patch_data(project / "patches", project / "splits.parquet").meta
    runs = (("a", 1), ("a", 1), ("a", 2), ("b", 1))
    digests = [digest(create_model(name, meta, make_params(), seed)) for name, seed in runs]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def fit_briefly(project: Path) -> list[dict[str, float]]:
    data = load_patch_data(project / "patches", project / "splits.parquet")
    params = make_params(batch_size=16, epochs=2)
    model = create_model("tiny", data.meta, params, 1)
    train, validation = data.load_rows("train"), data.load_rows("validation")
    return fit(model, train, validation, make_recipe("tiny", model, train, params, 1)).history


def test_batches_prepared_ahead_are_those_prepared_one_by_one(project, monkeypatch):
    sizes = []

    def augment(stored, *rest):
        sizes.append(len(stored))
        return augment_patches(stored, *rest)

    monkeypatch.setattr(image, "augment_patches", augment)
    one_by_one = fit_briefly(project)
    assert max(sizes) <= 16
    monkeypatch.setattr(trainer, "count_ahead", lambda *_: 3)
    assert fit_briefly(project) == one_by_one
    assert max(sizes) > 32


def test_a_gpu_gets_many_small_batches_at_once():
    assert trainer.count_ahead(torch.device("cpu"), 64) == 1
    assert trainer.count_ahead(torch.device("cuda"), 64) == 16
    assert trainer.count_ahead(torch.device("cuda"), 4096) == 1


# --- probes -------------------------------------------------------------------------------------

PROBE = {
    "strategy": "probe",
    "backbone": "simple_cnn",
    "input_px": 32,
    "levels": ["features.0", "features.1"],
    "rotations": 4,
    "c": [0.1, 0.001, 10.0],
    "folds": 4,
} | {
    key: VALUES[key]
    for key in (
        "model_kwargs",
        "weights",
        "pooling",
        "normalisation",
        "minimum_map_px",
        "calibration",
        "threshold",
        "study",
    )
}


def make_probe_params() -> ProbeParams:
    return ProbeParams.model_validate(PROBE)


@pytest.fixture(scope="module")
def probed(project, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("root"))
        data = load_patch_data(project / "patches", project / "splits.parquet")
        result = train_image(data, make_probe_params(), 7, Recorder(), Path("models/tiny"))
        assert set(result.history[0]) >= {"epoch", "train_loss", "validation_macro_f1"}
        return Path("models/tiny").resolve()


def test_a_probe_is_a_bundle_like_any_other(probed, project):
    bundle = open_bundle(probed)
    model = load_image_model(bundle)
    assert bundle.config["architecture"]["embedding_dim"] == 2 * (32 + 64) == model.embedding_dim
    assert bundle.config["probe"]["unit"] == "patch"
    assert set(bundle.config["probe"]["scores"]) == {"0.001", "0.1", "10.0"}
    predictions = read_table(probed / "predictions.parquet", IMAGE_PREDICTIONS)
    tested = predictions[predictions["split"] == "test"]
    assert (tested["prediction"] == tested["label"]).mean() > 0.9
    index = read_table(project / "patches" / "index.parquet", PATCH_INDEX).set_index("patch_id")
    logits = apply_network(model, project / "patches", index.loc[tested["patch_id"]]).logits
    np.testing.assert_allclose(logits, tested[[f"logit_{c}" for c in CLASSES]], atol=1e-3)


def test_a_probe_is_calibrated_on_training_and_validation_rows_of_folds_held_out(probed, project):
    predictions = read_table(probed / "predictions.parquet", IMAGE_PREDICTIONS)
    known = predictions[predictions["split"] != "test"]
    decision = load_decision(probed)
    assert sum(decision.calibrator.fitted_on.per_class) == len(known)
    assert sum(decision.thresholds.fitted_on.per_class) == len(known)
    index = read_table(project / "patches" / "index.parquet", PATCH_INDEX).set_index("patch_id")
    model = load_image_model(open_bundle(probed))
    fitted = apply_network(model, project / "patches", index.loc[known["patch_id"]]).logits
    found = known[[f"logit_{c}" for c in CLASSES]].to_numpy()
    assert np.abs(fitted - found).max(axis=1).min() > 1e-6
    facts = read_model(probed)
    assert check_calibrator(facts, 1e-4).outcome == "passed"
    assert check_thresholds(facts, 1e-4).outcome == "passed"


def test_a_probe_does_not_depend_on_which_rows_are_validation(probed, project, tmp_path):
    splits = read_table(project / "splits.parquet", PATCH_SPLITS)
    known = np.flatnonzero(splits["split"] != "test")
    splits.loc[known, "split"] = np.where(np.arange(len(known)) % 5, "train", "validation")
    write_table(splits, tmp_path / "splits.parquet", PATCH_SPLITS)
    data = load_patch_data(project / "patches", tmp_path / "splits.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        train_image(data, make_probe_params(), 7, Recorder(), Path("models/tiny"))
    other = tmp_path / "models" / "tiny"
    for name in ("weights.safetensors", "calibrator.json", "threshold.json"):
        assert (other / name).read_bytes() == (probed / name).read_bytes()


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "scorecam"])
def test_maps_of_rotated_views_are_turned_back(probed, method):
    model = load_image_model(open_bundle(probed))
    model.map_method = MapMethod(method, blur_px=4.0, masks=8)
    mapper, targets = map_image_network("probed", model), torch.tensor([0, 1])
    images = torch.rand(2, 3, 32, 32)
    maps = mapper.compute_maps(MapInputs(images, (), targets))
    assert maps.shape[0] == 2 and maps.max() == 1
    turned = mapper.compute_maps(MapInputs(images.rot90(1, (2, 3)), (), targets))
    np.testing.assert_allclose(turned, np.rot90(maps, 1, (1, 2)), atol=1e-4)


def test_a_class_without_training_patches_is_refused(tmp_path, monkeypatch):
    project = write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    splits = pd.read_parquet(project / "splits.parquet")
    splits.loc[(splits["split"] == "train") & (splits["label"] == "mitosis"), "split"] = "test"
    splits.to_parquet(project / "splits.parquet")
    data = load_patch_data(project / "patches", project / "splits.parquet")
    with pytest.raises(InputError, match="no patch of class 'mitosis'"):
        train_image(data, make_probe_params(), 7, Recorder(), tmp_path / "models" / "tiny")


def test_a_probe_is_not_shared_by_torchrun(project, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = load_patch_data(project / "patches", project / "splits.parquet")
    with pytest.raises(InputError, match="2 processes for this stage"):
        train_image(data, make_probe_params(), 7, Recorder(), tmp_path / "models" / "tiny")


def test_a_probe_without_levels_standardises_the_own_embedding(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_patch_data(project / "patches", project / "splits.parquet")
    params = make_probe_params().model_copy(update={"levels": []})
    path = tmp_path / "models" / "tiny"
    train_image(data, params, 7, Recorder(), path)
    model = load_image_model(open_bundle(path))
    assert model.embedding_dim == 256 and model.spec.standardised
    assert model.head[0].mean.abs().max() > 0


# --- fine-tuning from a probe -------------------------------------------------------------------


def make_lp_ft_params(**changes) -> LpFtParams:
    solved = {key: PROBE[key] for key in ("levels", "rotations", "c", "folds")}
    values = {**copy.deepcopy(VALUES), **solved, "strategy": "lp_ft", "input_px": 32}
    del values["dropout"]
    return LpFtParams.model_validate({**values, **changes})


def test_fine_tuning_starts_from_the_solved_head(project, probed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_patch_data(project / "patches", project / "splits.parquet")
    still = {"head_learning_rate": 1e-9, "backbone_learning_rate": 1e-9, "epochs": 1}
    path = Path("models/tiny")
    train_image(data, make_lp_ft_params(**still), 7, Recorder(), path)
    start = load_image_model(open_bundle(path))
    rows = data.select("train")
    features = apply_network(start, data.folder, rows).embeddings
    params = make_lp_ft_params()
    seed = derive_seed(7, "image", "tiny")
    probe = fit_probe(features, data.number_labels(rows), rows, params, seed)
    assert open_bundle(path).config["probe"] == probe.describe()
    np.testing.assert_allclose(start.head[1].weight.detach(), probe.head.weight, atol=2e-3)


def test_fine_tuning_moves_head_and_levels(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_patch_data(project / "patches", project / "splits.parquet")
    params = make_lp_ft_params(epochs=2, imbalance="logit_adjustment", focal_gamma=1.0)
    before = create_model("tiny", data.meta, params, 7)
    train_image(data, params, 7, Recorder(), Path("models/tiny"))
    after = load_image_model(open_bundle(Path("models/tiny")))
    one, other = before.backbone.state_dict(), after.backbone.state_dict()
    assert any((one[key] - other[key]).abs().max() > 1e-3 for key in one)
    assert len(pd.read_csv("models/tiny/history.csv")) == 2
