"""Encoders by name: libraries, folders and a hub on loopback."""

import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save_file

from histofuse.core.errors import InputError
from histofuse.models.backbones import ImageModel, ImageSpec, build_model
from histofuse.models.encoders import resolve_encoder
from histofuse.params.image import ProbeParams

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = {"init_values": 1e-5, "depth": 2, "embed_dim": 48, "num_heads": 3, "dynamic_img_size": True}
VALUES = {
    "strategy": "probe",
    "backbone": "simple_cnn",
    "model_kwargs": {},
    "weights": "none",
    "pooling": "encoder",
    "input_px": 64,
    "levels": [],
    "rotations": 1,
    "c": [1.0],
    "folds": 2,
    "normalisation": "unit",
    "minimum_map_px": 4,
    "calibration": "temperature",
    "threshold": "argmax",
    "study": "none",
}


def build(**changes) -> ImageModel:
    params = ProbeParams.model_validate(VALUES | changes)
    encoder = resolve_encoder(params)
    spec = ImageSpec(
        encoder.backbone,
        ["a", "b"],
        encoder.input_px,
        64,
        0,
        encoder.normalisation,
        0.0,
        params.levels,
        model_kwargs=encoder.model_kwargs,
        pooling=params.pooling,
    )
    return build_model(spec, encoder.weights).eval()


def refuse(**changes) -> str:
    with pytest.raises(InputError) as caught:
        build(**changes)
    return str(caught.value)


class Published:
    """A tiny vision transformer as timm lays it out in a folder or repository."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.network = timm.create_model("vit_tiny_patch16_224", **TINY)
        state = self.network.state_dict()
        save_file(state, folder / "model.safetensors")
        torch.save(state, folder / "pytorch_model.bin")
        config = {"input_size": [3, 112, 112], "mean": [0.7, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
        values = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": config}
        arguments = {**TINY, "img_size": 224, "num_classes": 1000}
        (folder / "config.json").write_text(json.dumps({**values, "model_args": arguments}))

    def pin(self, file: str = "model.safetensors") -> str:
        return "sha256:" + hashlib.sha256((self.folder / file).read_bytes()).hexdigest()

    def is_in(self, model: ImageModel) -> bool:
        own, given = model.backbone.state_dict(), self.network.state_dict()
        return all(torch.equal(own[key], given[key]) for key in own)


@pytest.fixture
def published(tmp_path) -> Published:
    (tmp_path / "model").mkdir()
    return Published(tmp_path / "model")


# --- folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_gives_its_weights_arguments_size_and_normalisation(published, file):
    name, pin = f"local-dir:{published.folder}", published.pin(file)
    model = build(backbone=name, weights=pin, input_px="encoder", normalisation="encoder")
    assert published.is_in(model)
    assert (model.spec.backbone, model.spec.input_px) == ("timm/vit_tiny_patch16_224", 112)
    assert model.spec.normalisation == [[0.7, 0.5, 0.6], [0.2, 0.25, 0.3]]
    images = torch.rand(2, 3, 112, 112)
    with torch.inference_mode():
        published.network.eval().reset_classifier(0)
        torch.testing.assert_close(model.embed(images), published.network(images))


def test_a_bundle_rebuilds_it_without_the_folder(published):
    model = build(backbone=f"local-dir:{published.folder}", weights=published.pin())
    published.folder.rename(published.folder.with_name("gone"))
    again = build_model(model.spec, "none")
    again.load_state_dict(model.state_dict())


def test_a_network_of_a_fixed_size_gets_resampled_positions(published):
    fixed = {"model_kwargs": {"dynamic_img_size": False}, "weights": published.pin()}
    model = build(backbone=f"local-dir:{published.folder}", **fixed)
    assert model.backbone.pos_embed.shape == (1, 1 + 4 * 4, 48)
    assert torch.equal(model.backbone.cls_token, published.network.cls_token)


def test_arguments_of_params_come_before_those_of_the_folder(published):
    assert len(build(backbone=f"local-dir:{published.folder}").backbone.blocks) == 2
    model = build(backbone=f"local-dir:{published.folder}", model_kwargs={"depth": 1})
    assert len(model.backbone.blocks) == 1


def test_another_digest_is_refused_with_those_there_are(published):
    message = refuse(backbone=f"local-dir:{published.folder}", weights="sha256:" + "0" * 64)
    assert published.pin().removeprefix("sha256:") in message and "model.safetensors" in message


def test_folders_that_are_none_or_not_timms_are_refused(published, tmp_path):
    assert "no such folder" in refuse(backbone=f"local-dir:{tmp_path}/nowhere")
    assert "has no config.json" in refuse(backbone=f"local-dir:{tmp_path}")
    config = published.folder / "config.json"
    config.write_text('{"architectures": ["ViTModel"], "model_type": "vit"}')
    assert "transformers need a port to timm" in refuse(backbone=f"local-dir:{published.folder}")
    config.write_text('{"architecture": "vit_of_tomorrow"}')
    assert "'vit_of_tomorrow' is not in timm" in refuse(backbone=f"local-dir:{published.folder}")


@pytest.mark.parametrize(
    ("held", "problem"),
    [
        ({"pretrained_cfg": [1]}, "pretrained_cfg or model_args is no object"),
        ({"model_args": [1]}, "pretrained_cfg or model_args is no object"),
        ({"model_args": {"pretrained": True}}, r"model_kwargs would load weights (pretrained)"),
        ({"pretrained_cfg": {"std": [0, 0.2, 0.2]}}, "std [0, 0.2, 0.2]"),
        ({"pretrained_cfg": {"mean": None}}, "mean None"),
        ({"pretrained_cfg": {"mean": [0.5] * 4}}, "mean [0.5, 0.5, 0.5, 0.5]"),
        ({"pretrained_cfg": {"input_size": [3, 32, 64]}}, "input_size [3, 32, 64]"),
        ({"pretrained_cfg": {"input_size": "large"}}, "input_size large"),
    ],
)
def test_what_a_configuration_says_is_checked(held, problem, published):
    config = {"architecture": "vit_tiny_patch16_224", "model_args": TINY} | held
    (published.folder / "config.json").write_text(json.dumps(config))
    own = {"input_px": "encoder", "normalisation": "encoder"}
    assert problem in refuse(backbone=f"local-dir:{published.folder}", **own)


@pytest.mark.parametrize(
    "model_kwargs",
    [{"pretrained": True}, {"checkpoint_path": "a.bin"}, {"pretrained_cfg_overlay": {"file": "a"}}],
)
def test_arguments_cannot_load_weights_that_are_not_pinned(model_kwargs):
    said = refuse(backbone="timm/resnet18", model_kwargs=model_kwargs)
    assert f"model_kwargs would load weights ({next(iter(model_kwargs))})" in said


def test_a_layer_that_does_not_exist_is_said():
    said = refuse(backbone="timm/resnet18", model_kwargs={"act_layer": "Nope"})
    assert "cannot be built" in said and "{'act_layer': 'Nope'}" in said


# --- a hub --------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Serves a folder as the repository org/open; the others are closed in their ways."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def log_message(self, *_) -> None:
        pass

    def _answer(self) -> bytes:
        _, _, name, _, commit, file = self.path.split("/", 5)
        refusals = {"gated": (403, "GatedRepo"), "hidden": (401, "RepoNotFound")}
        path = self.folder / file
        status, code = refusals.get(name, (200, ""))
        if status == 200 and commit != COMMIT:
            status, code = 404, "RevisionNotFound"
        if status == 200 and not path.is_file():
            status, code = 404, "EntryNotFound"
        body = path.read_bytes() if status == 200 else b""
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", hashlib.sha256(body).hexdigest())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    (published.folder / "model.safetensors").unlink()
    server = HTTPServer(("127.0.0.1", 0), type("Serving", (Hub,), {"folder": published.folder}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    fetch = partial(hf_hub_download, endpoint=address)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    yield published
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_gives_what_a_folder_does_and_then_needs_no_hub(hub, monkeypatch):
    pinned = {"backbone": f"hf-hub:org/open@{COMMIT}", "weights": hub.pin("pytorch_model.bin")}
    model = build(**pinned, input_px="encoder")
    assert hub.is_in(model) and model.spec.input_px == 112
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.is_in(build(**pinned))


def test_weights_that_changed_are_refused(hub):
    message = refuse(backbone=f"hf-hub:org/open@{COMMIT}", weights="sha256:" + "1" * 64)
    assert hub.pin("pytorch_model.bin").removeprefix("sha256:") in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"org/gated@{COMMIT}", ["Ask for it at https://huggingface.co/org/gated", "auth"]),
        (f"org/hidden@{COMMIT}", ["no such repository, or not for everyone", "org/hidden"]),
        (f"org/open@{'a' * 40}", ["has no commit", "huggingface.co/org/open/commits/main"]),
    ],
)
def test_a_closed_repository_is_named_with_its_page_and_the_way_by_files(hub, name, expected):
    message = refuse(backbone=f"hf-hub:{name}")
    assert all(part in message for part in [*expected, "local-dir:<folder>"])


def test_without_a_connection_the_way_by_files_is_shown(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refuse(backbone=f"hf-hub:org/open@{COMMIT}")
    assert "could not be downloaded" in message and "local-dir:<folder>" in message


@pytest.mark.parametrize("name", ["org/open", "org/open@main", "open@" + COMMIT, "org/open@"])
def test_a_repository_without_a_commit_is_refused(name):
    assert "40 hexadecimal digits" in refuse(backbone=f"hf-hub:{name}")


# --- libraries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "near"),
    [
        ("resnt50", "resnet50"),
        ("timm/convnext_tny", "convnext_tiny"),
        ("torchvision/densenet112", "densenet121"),
        ("resnet50.a1_in2k", "resnet50.a1_in1k"),
        ("MahmoodLab/UNI", "hf-hub:<org>/<model>@<commit>"),
    ],
)
def test_a_name_that_does_not_exist_gives_near_ones(backbone, near):
    assert near in refuse(backbone=backbone)


def test_size_and_normalisation_of_a_library_are_read():
    model = build(backbone="torchvision/vit_b_16", input_px="encoder", normalisation="encoder")
    assert (model.spec.input_px, model.spec.normalisation[0]) == (224, [0.485, 0.456, 0.406])
    named = {"backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "normalisation": "encoder"}
    assert build(**named).spec.normalisation == [[0.5] * 3, [0.5] * 3]
    assert "no configuration" in refuse(normalisation="encoder")
    given = {"mean": [0.7, 0.6, 0.7], "sd": [0.2, 0.25, 0.2]}
    assert build(normalisation=given).spec.normalisation == [*given.values()]


def test_arguments_reach_the_builder_and_layers_are_named():
    given = {"depth": 1, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "init_values": 0.1}
    block = build(backbone="vit_tiny_patch16_224", model_kwargs=given).backbone.blocks[0]
    assert type(block.mlp) is timm.layers.SwiGLUPacked or hasattr(block.mlp, "gate_last")
    assert block.ls1.gamma.mean().item() == pytest.approx(0.1)
    assert "init_valus" in refuse(
        backbone="vit_tiny_patch16_224", model_kwargs={"init_valus": 1e-5}
    )
    assert "takes no arguments" in refuse(model_kwargs={"depth": 3})


def test_weights_of_the_wrong_kind_are_refused():
    assert "hf-hub:timm/<name>" in refuse(backbone="resnet18", weights="sha256:" + "0" * 64)
    message = refuse(backbone=f"hf-hub:org/open@{COMMIT}", weights="imagenet")
    assert "sha256:<digest>" in message


# --- tokens -------------------------------------------------------------------------------------

TOKENS = {
    "timm": {"backbone": "vit_tiny_patch16_224", "model_kwargs": {"depth": 1, "reg_tokens": 2}},
    "torchvision": {"backbone": "torchvision/vit_b_16", "model_kwargs": {"image_size": 64}},
}


@pytest.mark.parametrize("library", TOKENS)
def test_tokens_are_pooled_by_hand_alike(library):
    torch.manual_seed(0)
    whole = build(**TOKENS[library]).backbone
    images, kept = torch.rand(2, 3, 64, 64), []
    last = whole.norm if library == "timm" else whole.encoder
    last.register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.inference_mode():
        own = whole(images)
        tokens, prefix = kept[0], 3 if library == "timm" else 1
        means = tokens[:, prefix:].mean(1)
        expected = {"class_token": own, "mean": means}
        expected["class_token_and_mean"] = torch.cat((own, means), 1)
        for pooling, value in expected.items():
            model = build(**TOKENS[library], pooling=pooling)
            model.backbone.network.load_state_dict(whole.state_dict())
            torch.testing.assert_close(model.embed(images), value)
            assert model.embedding_dim == value.shape[1]


def test_pooling_without_the_tokens_for_it_is_refused():
    assert "has no tokens" in refuse(backbone="resnet18", pooling="mean")
    without = {"class_token": False, "global_pool": "avg", "depth": 1}
    named = {"backbone": "vit_tiny_patch16_224", "model_kwargs": without}
    assert "has no class token" in refuse(**named, pooling="class_token")
    assert build(**named, pooling="mean").embedding_dim == 192
    assert "levels: []" in refuse(backbone="resnet18", levels=["layer1"], pooling="mean")
