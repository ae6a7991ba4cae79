"""Stages of backbones: freezing, and the layer that Grad-CAM explains."""

import pytest
import torch
from torch import nn

from histofuse.core.errors import InputError
from histofuse.models.backbones import OWN, ImageModel, ImageSpec, MapLayer, build_model
from histofuse.models.stages import (
    choose_gradcam_layer,
    count_unfrozen,
    freeze_backbone,
    list_stages,
    measure_maps,
    recording_outputs,
)


def make_spec(backbone: str, input_px: int = 64) -> ImageSpec:
    return ImageSpec(backbone, ["mitosis", "tumour", "non_tumour"], input_px, 64, 16, "unit", 0.0)


@pytest.fixture(scope="module")
def resnet18() -> ImageModel:
    return build_model(make_spec("resnet18", 32), "none")


def test_stages_run_from_shallow_to_deep(resnet18):
    stages = list_stages(resnet18.backbone)
    assert [s.name for s in stages] == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    baseline = build_model(make_spec("simple_cnn"), "none").backbone
    names = [s.name for s in list_stages(baseline)]
    assert names == ["features.0", "features.1", "features.2", "hidden"]


def test_unfreezing_is_counted_from_the_frozen_epochs_on():
    assert [count_unfrozen(e, 2, 1) for e in range(8)] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert [count_unfrozen(e, 1, 3) for e in range(8)] == [0, 1, 1, 1, 2, 2, 2, 3]


def list_frozen(model: ImageModel) -> list[str]:
    return [
        s.name
        for s in list_stages(model.backbone)
        if not any(p.requires_grad for m in s.modules for p in m.parameters())
    ]


@pytest.mark.parametrize(
    ("epoch", "frozen"),
    [
        (0, ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        (1, ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        (2, ["maxpool", "layer1", "layer2", "layer3"]),
        (4, ["maxpool", "layer1"]),
        (6, []),
        (9, []),
    ],
)
def test_each_epoch_freezes_what_it_should(resnet18, epoch, frozen):
    freeze_backbone(resnet18, count_unfrozen(epoch, 2, 1))
    assert list_frozen(resnet18) == frozen
    assert all(p.requires_grad for p in resnet18.head.parameters())
    learning = [m.training for m in resnet18.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert learning.count(True) == {5: 0, 4: 5, 2: 15, 0: 20}[len(frozen)]


def test_frozen_batch_norms_keep_their_statistics(resnet18):
    freeze_backbone(resnet18, 1)
    before = {k: v.clone() for k, v in resnet18.backbone.named_buffers()}
    resnet18(torch.rand(4, 3, 32, 32))
    changed = {k for k, v in resnet18.backbone.named_buffers() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("layer4") for k in changed)


def test_what_belongs_to_no_stage_thaws_last():
    class WithToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.a = nn.Sequential(nn.Linear(2, 2))
            self.b = nn.Sequential(nn.Linear(2, 2))

    model = ImageModel(make_spec("resnet18"), WithToken(), 2)
    for unfrozen, thawed in ((0, False), (1, False), (2, True)):
        freeze_backbone(model, unfrozen)
        assert model.backbone.token.requires_grad is thawed


@pytest.mark.parametrize(
    ("backbone", "input_px", "layer"),
    [
        ("resnet18", 64, MapLayer("backbone.layer2", 8)),
        ("resnet18", 224, MapLayer("backbone.layer4", 7)),
        ("simple_cnn", 64, MapLayer("backbone.features.2", 8)),
    ],
)
def test_the_deepest_layer_with_a_map_fine_enough_is_explained(backbone, input_px, layer):
    assert choose_gradcam_layer(build_model(make_spec(backbone, input_px), "none"), 7) == layer


def test_a_map_of_one_place_is_not_advised(monkeypatch):
    def build(input_px: int) -> nn.Module:
        return nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, input_px), nn.ReLU()), nn.Flatten())

    monkeypatch.setitem(OWN, "whole", build)
    with pytest.raises(InputError, match=r"are 1 x 1, too coarse.*\. Raise input_px to 32\."):
        choose_gradcam_layer(build_model(make_spec("whole", 16), "none"), 2)


def test_a_network_whose_maps_are_too_coarse_is_refused_with_settings_that_help():
    model = build_model(make_spec("simple_cnn", 16), "none")
    assert [layer.map_px for layer in measure_maps(model)] == [8, 4, 2]
    with pytest.raises(InputError) as caught:
        choose_gradcam_layer(model, 12)
    assert "Lower minimum_map_px to 8, or raise input_px to 24." in str(caught.value)
    assert choose_gradcam_layer(model, 8).map_px == 8
    larger = build_model(make_spec("simple_cnn", 24), "none")
    assert choose_gradcam_layer(larger, 12).map_px == 12


def test_a_network_without_maps_is_refused():
    flat = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)))
    model = ImageModel(make_spec("flat", 8), flat, 4)
    with pytest.raises(InputError, match="no stage with feature maps of a known layout"):
        choose_gradcam_layer(model, 1)


# Ends of the stages with their maps, by hand from the architectures' papers and definitions.
FAMILIES = {
    "timm/resnet18@64": ("layer2", 8, "channels_first", 0),
    "timm/efficientnet_b0@64": ("blocks.2", 8, "channels_first", 0),
    "torchvision/efficientnet_b0@64": ("features.3", 8, "channels_first", 0),
    "timm/mobilenetv3_small_100@64": ("blocks.1", 8, "channels_first", 0),
    "torchvision/mobilenet_v3_small@64": ("features.3", 8, "channels_first", 0),
    "timm/convnext_atto@64": ("stages.1", 8, "channels_first", 0),
    "torchvision/convnext_tiny@64": ("features.3", 8, "channels_first", 0),
    "timm/ghostnet_100@64": ("blocks.3", 8, "channels_first", 0),
    "timm/edgenext_xx_small@64": ("stages.1", 8, "channels_first", 0),
    "torchvision/densenet121@64": ("features.denseblock2", 8, "channels_first", 0),
    "torchvision/regnet_y_400mf@64": ("trunk_output.block2", 8, "channels_first", 0),
    "torchvision/vit_b_16@224": ("encoder.layers.encoder_layer_10", 14, "tokens", 1),
    "timm/vit_tiny_patch16_224@112": ("blocks.10", 7, "tokens", 1),
    "timm/deit_tiny_distilled_patch16_224@112": ("blocks.10", 7, "tokens", 2),
    "torchvision/swin_t@64": ("features.3", 8, "channels_last", 0),
    "timm/swin_tiny_patch4_window7_224@224": ("layers.3", 7, "channels_last", 0),
    "timm/mambaout_femto@64": ("stages.1", 8, "channels_last", 0),
}


@pytest.mark.parametrize("network", FAMILIES)
def test_stages_and_layouts_come_from_the_architecture(network):
    backbone, _, side = network.partition("@")
    name, map_px, layout, prefix = FAMILIES[network]
    model = build_model(make_spec(backbone, int(side)), "none")
    layer = choose_gradcam_layer(model, 7)
    assert layer == MapLayer(f"backbone.{name}", map_px, layout, prefix)
    # Together they hold every parameter, and each of them more than norms.
    stages = list_stages(model.backbone)
    assert layer.name.removeprefix("backbone.") in [stage.name for stage in stages]
    for stage in stages:
        assert any(p.ndim > 1 for module in stage.modules for p in module.parameters())
    freeze_backbone(model, len(stages))
    assert all(p.requires_grad for p in model.parameters())
    for unfrozen in range(len(stages)):
        freeze_backbone(model, unfrozen)
        assert not next(model.backbone.parameters()).requires_grad


def test_the_layout_of_a_stage_is_that_in_which_it_agrees_with_the_maps_timm_returns():
    model = build_model(make_spec("timm/swin_tiny_patch4_window7_224", 224), "none").eval()
    image = torch.rand(1, 3, 224, 224)
    layer = choose_gradcam_layer(model, 7)
    with torch.no_grad(), recording_outputs(model, [layer.name]) as outputs:
        maps = model.backbone.forward_intermediates(image, intermediates_only=True)[-1]
        model(image)
    torch.testing.assert_close(layer.arrange(outputs[layer.name]), maps)
    assert maps.shape == (1, 768, 7, 7)
