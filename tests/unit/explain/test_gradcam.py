"""Grad-CAM on networks whose evidence is known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from histofuse.core.artifacts import to_json, write_json
from histofuse.core.bundle import Bundle, open_bundle, writing_bundle
from histofuse.core.errors import InputError
from histofuse.core.tables import write_table
from histofuse.data.patches import PATCH_INDEX
from histofuse.explain.gradcam import (
    blend,
    choose_examples,
    choose_layer,
    compute_gradcam,
    enlarge,
    share_empty,
    write_gradcam_gallery,
)
from histofuse.models.backbones import (
    ImageModel,
    ImageSpec,
    build_model,
    describe_model,
    save_weights,
)

CLASSES = ["mitosis", "tumour"]


def make_spec(backbone: str = "simple_cnn", input_px: int = 64) -> ImageSpec:
    return ImageSpec(backbone, CLASSES, input_px, input_px, 4, "unit", 0.0)


class ChannelMeans(nn.Module):
    """Convolutions that copy the red and green channels; the embedding is their means."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:2, :, None, None])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.pool(self.features(x))


@pytest.fixture
def red_is_mitosis() -> ImageModel:
    model = ImageModel(make_spec(), ChannelMeans(), 2)
    with torch.no_grad():
        model.head[1].weight.copy_(torch.eye(2))
    return model


def test_the_map_is_bright_where_the_evidence_is_and_dark_elsewhere(red_is_mitosis):
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, 1:3, 1:3] = 1.0  # red, top left
    images[:, 1, 5:7, 4:6] = 0.5  # green, below
    maps = compute_gradcam(red_is_mitosis, images, torch.tensor([0, 1]), "backbone.features")

    expected = torch.zeros(2, 8, 8)
    expected[0, 1:3, 1:3] = 1
    expected[1, 5:7, 4:6] = 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_evidence_against_the_class_gives_an_empty_map_that_is_counted(red_is_mitosis):
    with torch.no_grad():
        red_is_mitosis.head[1].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, 2, 2] = 1.0
    images[:, 1, 3, 3] = 1.0
    maps = compute_gradcam(red_is_mitosis, images, torch.tensor([0, 1]), "backbone.features")
    assert maps[0].max() == 0
    assert maps[1].max() == 1
    assert share_empty(maps) == 0.5


def test_evidence_against_the_class_is_left_out_of_a_map(red_is_mitosis):
    with torch.no_grad():
        red_is_mitosis.head[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 1.0]]))
    images = torch.zeros(1, 3, 8, 8)
    images[:, 0, 2, 2] = 1.0
    images[:, 1, 3, 3] = 1.0
    maps = compute_gradcam(red_is_mitosis, images, torch.tensor([0]), "backbone.features")
    assert maps[0, 2, 2] == 1
    assert maps[0, 3, 3] == 0


def test_frozen_weights_are_explained_all_the_same(red_is_mitosis):
    images = torch.rand(1, 3, 8, 8)
    before = compute_gradcam(red_is_mitosis, images, torch.tensor([0]), "backbone.features")
    red_is_mitosis.requires_grad_(False)
    after = compute_gradcam(red_is_mitosis, images, torch.tensor([0]), "backbone.features")
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("backbone", "input_px", "layer", "side"),
    [
        ("resnet18", 64, "backbone.layer2", 8),
        ("resnet18", 224, "backbone.layer4", 7),
        ("simple_cnn", 64, "backbone.features.2", 8),
    ],
)
def test_the_deepest_block_that_is_fine_enough_is_chosen(backbone, input_px, layer, side):
    model = build_model(make_spec(backbone, input_px), "none")
    assert choose_layer(model, input_px, 7) == (layer, side)


def test_without_a_map_fine_enough_it_is_said_what_there_is():
    model = build_model(make_spec("simple_cnn", 16), "none")
    with pytest.raises(InputError, match=r"features\.0 8 px.*features\.2 2 px.*at least 9 x 9"):
        choose_layer(model, 16, 9)


def test_an_enlarged_map_keeps_its_place():
    heat = np.zeros((4, 4), np.float32)
    heat[3, 0] = 1
    large = enlarge(heat, 16)
    assert large.shape == (16, 16)
    assert np.unravel_index(large.argmax(), large.shape) == (14, 0)


def test_where_the_map_is_zero_the_patch_shows_through():
    patch = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(blend(patch, np.zeros((2, 2), np.float32)), patch)
    assert (blend(patch, np.ones((2, 2), np.float32)) != patch).any()


def make_predictions(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["label", "prediction", "probability_mitosis"])
    ids = [f"Case_1-01/{n:04d}" for n in range(len(rows))]
    return table.assign(patch_id=ids, probability_tumour=1 - table["probability_mitosis"])


def test_hits_and_misses_are_chosen_by_confidence():
    hits = [("mitosis", "mitosis", p) for p in (0.6, 0.9, 0.7, 0.8)]
    misses = [("mitosis", "tumour", p) for p in (0.4, 0.1, 0.3)]
    chosen = choose_examples(make_predictions(hits + misses), CLASSES, 4)
    assert chosen["probability_mitosis"].tolist() == [0.9, 0.8, 0.1, 0.3]


@pytest.mark.parametrize(("hits", "misses", "expected"), [(5, 1, 4), (1, 5, 4), (2, 0, 2)])
def test_where_one_kind_is_too_few_the_other_fills_up(hits, misses, expected):
    rows = [("mitosis", "mitosis", 0.9)] * hits + [("mitosis", "tumour", 0.2)] * misses
    chosen = choose_examples(make_predictions(rows), CLASSES, 4)
    assert len(chosen) == expected
    assert (chosen["prediction"] == "tumour").sum() == min(misses, max(2, 4 - hits))


@dataclass
class Params:
    gradcam_per_class: int = 2
    minimum_map_px: int = 7


def write_inputs(folder: Path) -> tuple[Bundle, pd.DataFrame]:
    torch.manual_seed(0)
    model = build_model(make_spec(), "none")
    with writing_bundle(folder / "m", "m") as inside:
        save_weights(model, inside / "weights.safetensors")
        config = {"kind": "image", "classes": CLASSES, "architecture": describe_model(model)}
        write_json(config, inside / "config.json")
    rows = [(CLASSES[n % 2], CLASSES[n % 3 % 2], 0.5) for n in range(6)]
    predictions = make_predictions(rows)
    index = predictions[["patch_id", "label"]].assign(
        frame_id="Case_1-01", case_id="Case_1", x_px=1.0, y_px=1.0, shard=0, row=range(6)
    )
    (folder / "patches").mkdir()
    write_table(index, folder / "patches" / "index.parquet", PATCH_INDEX)
    patches = np.random.default_rng(0).integers(0, 256, (6, 72, 72, 3), dtype=np.uint8)
    np.save(folder / "patches" / "shard-00000.npy", patches)
    meta = {"patch_px": 64, "margin_px": 4, "stored_px": 72, "classes": CLASSES}
    meta |= {"source": "simulated", "stain_normalisation": "none"}
    (folder / "patches" / "meta.json").write_text(to_json(meta))
    return open_bundle(folder / "m"), predictions


def test_the_gallery_lies_in_class_named_folders_and_is_the_same_twice(tmp_path):
    bundle, predictions = write_inputs(tmp_path)
    files = []
    for out in (tmp_path / "a", tmp_path / "b"):
        summary = write_gradcam_gallery(bundle, tmp_path / "patches", predictions, out, Params())
        found = {f.relative_to(out).as_posix(): f.read_bytes() for f in sorted(out.rglob("*.*"))}
        files.append(found)
    assert files[0] == files[1]
    assert (summary["layer"], summary["map_px"], summary["patches"]) == ("features.2", 8, 4)
    names = list(files[0])
    assert {n.rsplit("/", 1)[0] for n in names} == {"m", "m/mitosis", "m/tumour"}
    assert sum(n.startswith("m/mitosis/") for n in names) == 2
    assert {"m/contact_sheet.png", "m/summary.json"} <= set(names)
    assert not any(b"matplotlib" in content.lower() for content in files[0].values())


def test_a_split_without_patches_leaves_a_summary_alone(tmp_path):
    bundle, predictions = write_inputs(tmp_path)
    out = tmp_path / "a"
    empty = predictions.iloc[:0]
    summary = write_gradcam_gallery(bundle, tmp_path / "patches", empty, out, Params())
    assert summary["patches"] == 0
    assert [f.name for f in (out / "m").iterdir()] == ["summary.json"]
