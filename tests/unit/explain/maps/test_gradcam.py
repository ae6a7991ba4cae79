"""Grad-CAM on networks whose evidence is known."""

import numpy as np
import pytest
import torch
from torch import nn

from histofuse.core.errors import InputError
from histofuse.explain.maps.gradcam import compute_maps, enlarge
from histofuse.explain.maps.mappers import map_image_network
from histofuse.models.backbones import ImageModel, ImageSpec

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


def explain(model, images, targets):
    return compute_maps(model.eval(), model.backbone.features, images, targets)


def test_the_map_is_bright_where_the_evidence_is_and_dark_elsewhere(red_is_mitosis):
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, 1:3, 1:3] = 1.0  # red, top left
    images[:, 1, 5:7, 4:6] = 0.5  # green, below
    maps = explain(red_is_mitosis, images, torch.tensor([0, 1]))

    expected = torch.zeros(2, 8, 8)
    expected[0, 1:3, 1:3] = 1
    expected[1, 5:7, 4:6] = 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_evidence_against_the_class_gives_an_empty_map(red_is_mitosis):
    with torch.no_grad():
        red_is_mitosis.head[1].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, 2, 2] = 1.0
    images[:, 1, 3, 3] = 1.0
    maps = explain(red_is_mitosis, images, torch.tensor([0, 1]))
    assert maps[0].max() == 0
    assert maps[1].max() == 1


def test_evidence_against_the_class_is_left_out_of_a_map(red_is_mitosis):
    with torch.no_grad():
        red_is_mitosis.head[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 1.0]]))
    images = torch.zeros(1, 3, 8, 8)
    images[:, 0, 2, 2] = 1.0
    images[:, 1, 3, 3] = 1.0
    maps = explain(red_is_mitosis, images, torch.tensor([0]))
    assert maps[0, 2, 2] == 1
    assert maps[0, 3, 3] == 0


def test_frozen_weights_are_explained_too(red_is_mitosis):
    images = torch.rand(1, 3, 8, 8)
    before = explain(red_is_mitosis, images, torch.tensor([0]))
    red_is_mitosis.requires_grad_(False)
    after = explain(red_is_mitosis, images, torch.tensor([0]))
    np.testing.assert_array_equal(before, after)


def test_a_network_without_a_layer_to_explain_is_refused(red_is_mitosis):
    with pytest.raises(InputError, match="no gradcam_layer"):
        map_image_network("model", red_is_mitosis)


def test_an_enlarged_map_keeps_its_place():
    heat = np.zeros((4, 4), np.float32)
    heat[3, 0] = 1
    large = enlarge(heat, 16)
    assert large.shape == (16, 16)
    assert np.unravel_index(large.argmax(), large.shape) == (14, 0)
