"""Backbones, their stages and their freezing."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import WEIGHTS, open_bundle, writing_bundle
from histofuse.core.errors import BundleError, InputError
from histofuse.models.backbones import (
    OWN,
    ImageModel,
    ImageSpec,
    MapLayer,
    build_model,
    describe_model,
    load_image_model,
    save_weights,
)
from histofuse.models.stages import choose_gradcam_layer, freeze_backbone


def make_spec(backbone: str, input_px: int = 64, dropout: float = 0.0) -> ImageSpec:
    return ImageSpec(
        backbone=backbone,
        classes=["mitosis", "tumour", "non_tumour"],
        input_px=input_px,
        patch_px=64,
        margin_px=16,
        normalisation="unit",
        dropout=dropout,
    )


@pytest.fixture(scope="module")
def resnet18() -> ImageModel:
    return build_model(make_spec("resnet18", 32), "none")


def test_the_baseline_is_the_papers():
    model = build_model(make_spec("simple_cnn", dropout=0.5), "none")
    assert sum(p.numel() for p in model.parameters()) == 2_191_427
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(3, 32), (32, 64), (64, 128)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(c.in_features, c.out_features) for c in linear] == [(8192, 256), (256, 3)]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5]
    assert model.embedding_dim == 256


def test_logits_are_the_head_on_the_embedding(resnet18):
    resnet18.eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        embedding = resnet18.embed(images)
        expected = embedding @ resnet18.head[1].weight.T + resnet18.head[1].bias
        torch.testing.assert_close(resnet18(images), expected)
    assert embedding.shape == (2, 512)


def test_the_head_is_he_initialised(resnet18):
    fresh = ImageModel(make_spec("resnet18"), nn.Identity(), 40_000)
    assert fresh.head[1].weight.std().item() == pytest.approx((2 / 40_000) ** 0.5, rel=0.02)
    assert fresh.head[1].bias.abs().max() == 0


class TinyBackbone(nn.Sequential):
    """A toy: one convolution, then means."""

    def __init__(self, input_px: int) -> None:
        block = nn.Sequential(nn.Conv2d(3, 5, 3, 2, padding=1), nn.ReLU())
        super().__init__(block, nn.AvgPool2d(input_px // 2), nn.Flatten())


def test_a_backbone_is_added_in_one_place(monkeypatch, tmp_path):
    monkeypatch.setitem(OWN, "tiny", TinyBackbone)
    torch.manual_seed(0)
    model = build_model(make_spec("tiny", 16), "none")
    model.gradcam_layer = choose_gradcam_layer(model, 7)
    assert model.embedding_dim == 5
    assert model.gradcam_layer == MapLayer("backbone.0", 8)
    freeze_backbone(model, 0)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    loaded = load_image_model(write_bundle(tmp_path / "m", model))
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model.eval()(images))


def test_a_backbone_that_convolves_volumes_is_built(monkeypatch):
    def build(input_px: int) -> nn.Module:
        network = TinyBackbone(input_px)
        network[0][0].positions = nn.Parameter(torch.zeros(1, 1, 1, 3, 3))
        return network

    monkeypatch.setitem(OWN, "volumes", build)
    assert build_model(make_spec("volumes", 16), "none").embedding_dim == 5


def test_imagenet_weights_of_an_own_backbone_are_refused():
    with pytest.raises(InputError, match="simple_cnn: has no ImageNet weights"):
        build_model(make_spec("simple_cnn"), "imagenet")


def test_an_unknown_backbone_is_named_with_its_neighbours():
    with pytest.raises(InputError, match=r"resnet81'.*resnet18"):
        build_model(make_spec("torchvision/resnet81"), "none")


def test_a_size_the_backbone_does_not_take_is_said():
    with pytest.raises(InputError, match="vit_b_16 at input_px 32: does not take such images"):
        build_model(make_spec("torchvision/vit_b_16", 32), "none")


def write_torchvision_weights(path, **changes):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(1)
    state = {**squeezenet1_1().state_dict(), **changes}
    state = {k: v for k, v in state.items() if v is not None}
    save_file(state, path)
    return state


def test_weights_of_a_file_are_those_of_the_model_and_the_classifier_is_dropped(tmp_path):
    path = tmp_path / "w.safetensors"
    state = write_torchvision_weights(path)
    model = build_model(make_spec("torchvision/squeezenet1_1"), str(path))
    loaded = model.backbone.state_dict()
    assert "classifier.1.weight" in state
    assert set(loaded) == {k for k in state if not k.startswith("classifier.")}
    assert all(torch.equal(loaded[k], state[k]) for k in loaded)
    assert model.embedding_dim == 512


def test_weights_that_do_not_fit_are_all_listed(tmp_path):
    path = tmp_path / "w.safetensors"
    key = "features.0.weight"
    write_torchvision_weights(
        path, **{"stray": torch.zeros(1), "features.0.bias": None, key: torch.zeros(2)}
    )
    with pytest.raises(InputError) as caught:
        build_model(make_spec("torchvision/squeezenet1_1"), str(path))
    message = str(caught.value)
    assert "3 faults" in message
    assert "missing keys features.0.bias" in message
    assert "unexpected keys stray" in message
    assert "features.0.weight [2] for [64, 3, 3, 3]" in message


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    own = build_model(make_spec("simple_cnn"), "none").backbone.state_dict()
    key, state = next(iter(own)), {name: value.contiguous() for name, value in own.items()}
    save_file(state | {key: torch.full_like(state[key], torch.nan)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=rf"1 keys with values that are NaN or infinite, {key};"):
        build_model(make_spec("simple_cnn"), str(tmp_path / "a.safetensors"))


def test_a_file_that_is_missing_or_no_safetensors_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        build_model(make_spec("simple_cnn"), str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="not readable"):
        build_model(make_spec("simple_cnn"), str(tmp_path / "bad.safetensors"))


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    from torchvision.models import ResNet18_Weights

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", refuse)
    with pytest.raises(InputError, match=r"no route to host.*weights: <path>\.safetensors"):
        build_model(make_spec("resnet18", 32), "imagenet")


def write_bundle(folder, model):
    with writing_bundle(folder, "m") as inside:
        save_weights(model, inside / WEIGHTS)
        config = {"kind": "image", "classes": model.spec.classes}
        write_json({**config, "architecture": describe_model(model)}, inside / "config.json")
    return open_bundle(folder)


def test_a_bundle_gives_the_same_network_back(tmp_path):
    torch.manual_seed(3)
    model = build_model(make_spec("simple_cnn", 16), "none").eval()
    model.gradcam_layer = MapLayer("backbone.features.1", 4)
    bundle = write_bundle(tmp_path / "m", model)
    loaded = load_image_model(bundle)
    images = torch.rand(2, 3, 16, 16)
    assert loaded.spec == model.spec and not loaded.training
    assert loaded.gradcam_layer == model.gradcam_layer
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    assert "head.1.weight" in load_file(bundle.path / WEIGHTS)


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    with writing_bundle(tmp_path / "m", "m") as inside:
        write_json({"kind": "tabular"}, inside / "config.json")
    with pytest.raises(BundleError, match="'tabular', expected image"):
        load_image_model(open_bundle(tmp_path / "m"))


@pytest.mark.real
def test_the_real_squeezenet_weights_fit(real_data):
    path = real_data / "weights" / "squeezenet1_0_imagenet.safetensors"
    model = build_model(make_spec("torchvision/squeezenet1_0"), str(path)).eval()
    assert torch.equal(
        model.backbone.state_dict()["features.0.bias"], load_file(path)["features.0.bias"]
    )
    with torch.inference_mode():
        features = model.backbone.features(torch.ones(1, 3, 64, 64))
        torch.testing.assert_close(model.embed(torch.ones(1, 3, 64, 64)), features.mean(dim=(2, 3)))
