"""Encoders of many families, made small: trained for an epoch, and explained from the bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from plain_patches import CLASSES, write_project
from safetensors.torch import save_file

from histofuse.core.bundle import open_bundle
from histofuse.data.patches import read_patches
from histofuse.explain.maps.mappers import Inputs, map_image_network
from histofuse.models.backbones import load_image_model
from histofuse.params.image import FinetuneParams
from histofuse.training.image import load_patch_data, train_image
from histofuse.training.recorder import Recorder

UNI = {"init_values": 1e-5, "depth": 2, "embed_dim": 48, "num_heads": 3, "dynamic_img_size": True}
SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL_SWIN = {"depths": [1, 1, 1, 1], "embed_dim": 24, "num_heads": [1, 2, 3, 4]}
# Family -> backbone, arguments of its builder, side of the input, minimum side of a map.
FAMILIES = {
    "ResNet": ("torchvision/resnet18", {}, 32, 4),
    "ResNet of timm": ("timm/resnet10t", {}, 32, 2),
    "DenseNet": ("torchvision/densenet121", {}, 32, 2),
    "GoogLeNet": ("torchvision/googlenet", {}, 32, 2),
    "EfficientNet": ("timm/test_efficientnet", {}, 32, 2),
    "MobileNet": ("timm/mobilenetv3_small_050", {}, 64, 4),
    "ConvNeXt": ("timm/convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, 32, 2),
    "RegNet": ("timm/regnetx_002", {}, 32, 2),
    "SqueezeNet": ("torchvision/squeezenet1_1", {}, 48, 4),
    "ViT": ("timm/vit_tiny_patch16_224", SMALL_VIT, 64, 4),
    "Swin": ("timm/swin_tiny_patch4_window7_224", {**SMALL_SWIN, "window_size": 4}, 64, 4),
    "UNI": ("local-dir:uni", {}, 64, 4),
}
VALUES = {
    "strategy": "finetune",
    "weights": "none",
    "pooling": "encoder",
    "epochs": 1,
    "batch_size": 16,
    "head_learning_rate": 1e-3,
    "backbone_learning_rate": 1e-4,
    "weight_decay": 0.0,
    "weight_averaging": 0.0,
    "monitor": "loss",
    "dropout": 0.0,
    "frozen_epochs": 0,
    "unfreeze_every_epochs": 1,
    "imbalance": "none",
    "focal_gamma": 0.0,
    "schedule": "constant",
    "step_epochs": 1,
    "step_factor": 1.0,
    "patience": 5,
    "precision": "fp32",
    "augmentation": {
        "flips": True,
        "rotation_degrees": 0.0,
        "scale": [1.0, 1.0],
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "stain_scale": 0.1,
        "stain_shift": 0.02,
    },
    "normalisation": "encoder",
    "calibration": "temperature",
    "threshold": "argmax",
    "study": "none",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


def write_uni(folder: Path) -> None:
    """A small encoder laid out as UNI is."""
    folder.mkdir()
    network = timm.create_model("vit_large_patch16_224", num_classes=0, **UNI)
    save_file(network.state_dict(), folder / "model.safetensors")
    values = {"architecture": "vit_large_patch16_224", "model_args": {**UNI, "img_size": 224}}
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_and_maps(family, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone, model_kwargs, input_px, minimum_map_px = FAMILIES[family]
    if family == "UNI":
        write_uni(Path("uni"))
    named = {"backbone": backbone, "model_kwargs": model_kwargs, "input_px": input_px}
    params = FinetuneParams.model_validate({**VALUES, **named, "minimum_map_px": minimum_map_px})
    data = load_patch_data(project / "patches", project / "splits.parquet")
    result = train_image(data, params, 3, Recorder(), Path("models/tiny"))
    assert np.isfinite(result.history[0]["train_loss"])

    model = load_image_model(open_bundle(Path("models/tiny")))
    patches = torch.from_numpy(read_patches(data.folder, data.table.iloc[:3]))
    inputs = Inputs(model.prepare(patches), (), torch.arange(len(CLASSES)))
    maps = map_image_network("tiny", model).compute_maps(inputs)
    assert maps.shape == (3, model.gradcam_layer.map_px, model.gradcam_layer.map_px)
    assert model.gradcam_layer.map_px >= minimum_map_px
    assert np.isfinite(maps).all() and maps.max() > 0
