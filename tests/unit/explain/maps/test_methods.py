"""Maps of networks whose evidence is known, and of each family of networks by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from histofuse.core.errors import InputError
from histofuse.explain.maps.mappers import Inputs, map_image_network
from histofuse.explain.maps.methods import blur, compute_maps, enlarge, measure_margins
from histofuse.models.backbones import ImageModel, ImageSpec, build_model
from histofuse.models.stages import MapLayer, MapMethod, choose_gradcam_layer

CLASSES = ["mitosis", "tumour"]
METHODS = {
    name: MapMethod(name, blur_px=3.0, masks=8)
    for name in ("gradcam", "hirescam", "layercam", "scorecam")
}
every_method = pytest.mark.parametrize("method", METHODS)


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


def explain(model, images, targets, method="gradcam"):
    layer = MapLayer("backbone.features", images.shape[-1])
    return compute_maps(model.eval(), images, targets, layer=layer, method=METHODS[method])


@every_method
def test_the_map_is_bright_where_the_evidence_is_and_dark_elsewhere(red_is_mitosis, method):
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, 1:3, 1:3] = 1.0  # red, top left
    images[:, 1, 5:7, 4:6] = 0.5  # green, below
    maps = explain(red_is_mitosis, images, torch.tensor([0, 1]), method)

    expected = torch.zeros(2, 8, 8)
    expected[0, 1:3, 1:3] = 1
    expected[1, 5:7, 4:6] = 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)


@every_method
def test_evidence_against_the_class_gives_an_empty_map(red_is_mitosis, method):
    with torch.no_grad():
        red_is_mitosis.head[1].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, 2, 2] = 1.0
    images[1, 1, 3, 3] = 1.0
    maps = explain(red_is_mitosis, images, torch.tensor([0, 1]), method)
    assert maps[0].max() == 0
    assert maps[1].max() == 1


@every_method
def test_evidence_that_all_classes_share_decides_nothing(red_is_mitosis, method):
    with torch.no_grad():  # green speaks for both, and more for the logit of the first than red
        red_is_mitosis.head[1].weight.copy_(torch.tensor([[1.0, 3.0], [0.0, 3.0]]))
    images = torch.zeros(1, 3, 8, 8)
    images[:, 0, 1:3, 1:3] = 1.0
    images[:, 1, 5:7, 5:7] = 1.0
    heat = explain(red_is_mitosis, images, torch.tensor([0]), method)[0]
    assert heat[1:3, 1:3].min() > 0.9
    assert heat[5:7, 5:7].max() < 0.1


@every_method
def test_a_map_moves_with_what_it_shows_for_no_method_knows_positions(red_is_mitosis, method):
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, 6:8, 6:8] = 1.0
    moved = images.roll((3, -2), (2, 3))
    before, after = (explain(red_is_mitosis, x, torch.tensor([0]), method) for x in (images, moved))
    np.testing.assert_allclose(np.roll(before, (3, -2), (1, 2)), after, atol=0.02)


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


# --- by hand ------------------------------------------------------------------------------------


def test_margins_are_over_the_most_likely_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0]])
    found = measure_margins(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([0.5, -5.0]))


def test_score_cam_is_the_covariance_of_a_slow_loop():
    torch.manual_seed(0)
    model = build_model(make_spec(input_px=32), "none").eval()
    image, targets = torch.rand(1, 3, 32, 32), torch.tensor([1])
    layer, method = MapLayer("backbone.features.1", 8), METHODS["scorecam"]
    found = compute_maps(model, image, targets, layer=layer, method=method)

    with torch.inference_mode():
        channels = model.backbone.features[1](model.backbone.features[0](image))[0].double()
        blurred = blur(image, 3.0)
        masks, margins = [], []
        for channel in sorted(channels, key=lambda c: -c.var())[:8]:
            mask = (channel - channel.min()) / (channel.max() - channel.min())
            seen = torch.from_numpy(enlarge(mask.float().numpy(), 32))
            logits = model(seen * image + (1 - seen) * blurred)[0]
            masks.append(mask)
            margins.append((logits[1] - logits[0]).double())
    expected = np.zeros((8, 8))
    for row in range(8):
        for column in range(8):
            shown = np.array([mask[row, column].item() for mask in masks])
            expected[row, column] = np.cov(shown, np.array(margins), bias=True)[0, 1]
    expected = expected.clip(min=0) / expected.max()
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


# Backbone and side, the layer by hand, and what brings its output to (n, channels, rows, columns).
FAMILIES = {
    "resnet18@64": ("layer2", lambda x: x),
    "timm/efficientnet_b0@64": ("blocks.2", lambda x: x),
    "timm/mobilenetv3_small_100@64": ("blocks.1", lambda x: x),
    "timm/convnext_atto@64": ("stages.1", lambda x: x),
    "timm/ghostnet_100@64": ("blocks.3", lambda x: x),
    "timm/edgenext_xx_small@64": ("stages.1", lambda x: x),
    "torchvision/vit_b_16@224": (
        "encoder.layers.encoder_layer_10",
        lambda x: x[:, 1:].transpose(1, 2).reshape(len(x), -1, 14, 14),
    ),
    "timm/vit_tiny_patch16_224@112": (
        "blocks.10",
        lambda x: x[:, 1:].transpose(1, 2).reshape(len(x), -1, 7, 7),
    ),
    "torchvision/swin_t@64": ("features.3", lambda x: x.movedim(3, 1)),
    "timm/swin_tiny_patch4_window7_224@224": ("layers.3", lambda x: x.movedim(3, 1)),
}
NORMED = {
    "timm/convnext_atto@64",
    "timm/edgenext_xx_small@64",
    "torchvision/vit_b_16@224",
    "timm/vit_tiny_patch16_224@112",
    "timm/swin_tiny_patch4_window7_224@224",
}


@pytest.mark.parametrize("network", FAMILIES)
def test_maps_of_each_family_are_those_computed_by_hand(network):
    backbone, _, side = network.partition("@")
    torch.manual_seed(0)
    model = build_model(make_spec(backbone, int(side)), "none").eval()
    model.gradcam_layer = choose_gradcam_layer(model, 7)
    model.double()
    images = torch.rand(2, 3, int(side), int(side)).double()
    targets = torch.tensor([0, 1])

    name, arrange = FAMILIES[network]
    kept = []
    module = model.backbone.get_submodule(name)
    hook = module.register_forward_hook(lambda _, __, out: kept.append(out))
    logits = model(images.clone().requires_grad_())
    hook.remove()
    margin = logits[0, 0] - logits[0, 1] + logits[1, 1] - logits[1, 0]
    (gradient,) = torch.autograd.grad(margin, kept[0])
    seen, slope = arrange(kept[0].detach()), arrange(gradient)
    by_hand = {
        "gradcam": torch.einsum("nchw,nc->nhw", seen, slope.mean((2, 3))),
        "hirescam": torch.einsum("nchw,nchw->nhw", seen, slope),
        "layercam": torch.einsum("nchw,nchw->nhw", seen, slope.clamp(min=0)),
    }
    mapper = map_image_network("model", model)
    for method, signed in by_hand.items():
        found = replace(mapper, method=METHODS[method]).compute_maps(Inputs(images, (), targets))
        if method == "hirescam" and network in NORMED:
            # Only a layer norm reads a position: it ignores its scale, so all cancels out.
            assert found.max() == 0
            continue
        heat = signed.clamp(min=0)
        expected = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-30)
        np.testing.assert_allclose(found, expected, atol=2e-3, err_msg=method)


@pytest.mark.parametrize("network", ["timm/vit_tiny_patch16_224@112", "torchvision/swin_t@64"])
def test_score_cam_takes_tokens_and_channels_last(network):
    backbone, _, side = network.partition("@")
    torch.manual_seed(0)
    model = build_model(make_spec(backbone, int(side)), "none").eval()
    model.gradcam_layer = choose_gradcam_layer(model, 7)
    model.map_method = METHODS["scorecam"]
    mapper = map_image_network("model", model)
    images, targets = torch.rand(2, 3, int(side), int(side)), torch.tensor([0, 1])
    maps = mapper.compute_maps(Inputs(images, (), targets))
    assert maps.shape == (2, model.gradcam_layer.map_px, model.gradcam_layer.map_px)
    assert maps.max() == 1


def test_every_parameter_is_randomised_those_of_no_layer_last():
    model = build_model(make_spec("timm/vit_tiny_patch16_224", 112), "none").eval()
    model.gradcam_layer = choose_gradcam_layer(model, 7)
    parts = map_image_network("model", model).parts
    assert [parts[0][0], parts[1][0], parts[-1][0]] == ["head", "blocks.11", "tokens"]
    assert set(parts[-1][1]) == {"backbone.cls_token", "backbone.pos_embed"}
    covered = tuple(prefix for _, prefixes in parts for prefix in prefixes)
    assert all(name.startswith(covered) for name, _ in model.named_parameters())
