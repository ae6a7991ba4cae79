"""Embeddings pooled from several levels of a backbone."""

import copy

import pytest
import torch

from histofuse.core.errors import InputError
from histofuse.models.backbones import ImageModel, ImageSpec, build_model
from histofuse.models.stages import choose_gradcam_layer, list_stages

CLASSES = ["mitosis", "tumour", "non_tumour"]
LEVELS = {
    "torchvision/squeezenet1_0": ["features.4", "features.8"],
    "resnet18": ["layer1", "layer3"],
    "simple_cnn": ["features.0", "features.2"],
}


def build(backbone: str, levels: list[str], rotations: int = 1, input_px: int = 64) -> ImageModel:
    torch.manual_seed(0)
    spec = ImageSpec(backbone, CLASSES, input_px, 64, 0, "unit", 0.0, levels, rotations)
    return build_model(spec, "none").eval()


@pytest.mark.parametrize("backbone", LEVELS)
def test_levels_are_the_pooled_maps_of_the_whole_network(backbone):
    levels = LEVELS[backbone]
    whole, pooled = build(backbone, []), build(backbone, levels)
    state = whole.backbone.state_dict()
    kept = {k: state[k] for k in pooled.backbone.network.state_dict()}
    pooled.backbone.network.load_state_dict(kept)
    maps = {}
    for level in levels:
        whole.backbone.get_submodule(level).register_forward_hook(
            lambda _, __, out, level=level: maps.__setitem__(level, out)
        )
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        whole(images)
        found = pooled.embed(images)
    pairs = [(m.mean((2, 3)), m.amax((2, 3))) for m in map(maps.__getitem__, levels)]
    joined = torch.cat([part for pair in pairs for part in pair], 1)
    assert pooled.embedding_dim == joined.shape[1]
    torch.testing.assert_close(found, joined.sign() * joined.abs().log1p())


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("resnet18", ["layer1", "layer2"]),
        ("simple_cnn", ["features.0", "features.1"]),
        ("torchvision/squeezenet1_0", ["features.4", "features.8"]),
    ],
)
def test_what_lies_beyond_the_deepest_level_is_neither_kept_nor_explained(backbone, levels):
    model = build(backbone, levels, input_px=96)
    assert [s.name for s in list_stages(model.backbone)][-1] == f"network.{levels[-1]}"
    layer = choose_gradcam_layer(model, 7)
    assert layer is not None and layer.name == f"backbone.network.{levels[-1]}"


def test_levels_that_are_no_stages_are_all_named_with_those_that_are():
    with pytest.raises(InputError) as caught:
        build("resnet18", ["layer2", "layer7", "fire4"])
    message = str(caught.value)
    assert "layer7, fire4" in message and "layer1, layer2, layer3, layer4" in message


def test_rotations_average_the_embedding_and_leave_turned_patches_alike():
    model = build("simple_cnn", ["features.1"], rotations=4)
    one = copy.deepcopy(model)
    object.__setattr__(one.spec, "rotations", 1)
    images = torch.rand(5, 3, 64, 64)
    with torch.inference_mode():
        found = model.embed(images)
        views = torch.stack([one.embed(images.rot90(k, (2, 3))) for k in range(4)])
        torch.testing.assert_close(found, views.mean(0))
        torch.testing.assert_close(model.embed(images.rot90(1, (2, 3))), found)
        assert (views[0] - views[1]).abs().max() > 1e-3
        assert model.embed(images[:0]).shape == (0, model.embedding_dim)
