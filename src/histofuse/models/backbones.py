"""Image networks: a backbone by name, an embedding, and a new head.

A backbone is one of `OWN`, or of torchvision (``torchvision/<name>``) or timm (``timm/<name>``); a
bare name is looked up in that order. To add one, enter a module that maps (batch, 3, side, side) to
(batch, width) in `OWN`: training, freezing, maps and serving then take it by name.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from histofuse.core.bundle import WEIGHTS, Bundle
from histofuse.core.errors import InputError
from histofuse.features.augment import PatchGeometry, PixelScale, Stored, prepare_patches
from histofuse.models.levels import PooledLevels, PooledTokens
from histofuse.models.libraries import Backbone, build_library_backbone, describe_error
from histofuse.models.simple_cnn import SimpleCnnBackbone
from histofuse.models.stages import MapLayer, MapMethod
from histofuse.models.standardiser import Standardiser
from histofuse.models.weights import download_state, load_state, load_weights
from histofuse.params.image import Pooling

MAPS = "maps"  # in config.json: how maps were chosen
# Patches whose rotations are computed at once.
_ROTATED_AT_ONCE = 64

# Name -> builder of the backbone for images of `input_px`.
OWN: dict[str, Callable[[int], nn.Module]] = {"simple_cnn": SimpleCnnBackbone}


@dataclass(frozen=True)
class ImageSpec:
    """All that rebuilds an image network, except its weights."""

    backbone: str
    classes: list[str]  # in the order of the logits
    input_px: int  # side of the input, to which the patch of `patch_px` is resized
    patch_px: int
    margin_px: int  # context around it in a stored patch
    normalisation: PixelScale
    dropout: float
    # stages whose maps are pooled to the embedding; none: the backbone's own embedding
    levels: list[str] = field(default_factory=list)
    rotations: int = 1  # quarter turns of a patch that its embedding is the mean of
    # side of the patch in micrometres; None if the resolution is not known
    patch_um: float | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    # how a transformer's tokens become its embedding, where no levels are pooled
    pooling: Pooling = "encoder"
    # whether the head standardises the embedding; that of levels always is
    standardised: bool = False

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of a patch; None if unknown."""
        return None if self.patch_um is None else self.patch_um / self.patch_px

    @property
    def geometry(self) -> PatchGeometry:
        """Its sides."""
        return PatchGeometry(self.patch_px, self.margin_px, self.input_px)


class ImageModel(nn.Module):
    """Patches -> embedding -> logits.

    The head is dropout, or a standardiser, and the last linear layer. `gradcam_layer`, which maps
    explain, is chosen when the network is created for training; None in bundles from before layers
    were saved. `map_method` is Grad-CAM where methods were not compared.
    """

    def __init__(self, spec: ImageSpec, backbone: nn.Module, embedding_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.embedding_dim = embedding_dim
        self.gradcam_layer: MapLayer | None = None
        self.map_method = MapMethod("gradcam", blur_px=0.0, masks=0)
        last = nn.Linear(embedding_dim, len(spec.classes))
        # Source: paper 3.1, He initialisation of the new head.
        nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
        nn.init.zeros_(last.bias)
        solved = spec.levels or spec.standardised
        first = Standardiser(embedding_dim) if solved else nn.Dropout(spec.dropout)
        self.head = nn.Sequential(first, last)

    def embed(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch width"]:
        """Compute the penultimate activations of prepared images."""
        if self.spec.rotations == 1:
            return self.backbone(images)
        return torch.cat([self._embed_rotated(p) for p in images.split(_ROTATED_AT_ONCE)])

    def _embed_rotated(self, images: Tensor) -> Tensor:
        turns = [images.rot90(turn, (2, 3)) for turn in list_turns(self.spec.rotations)]
        stacked = torch.cat(turns).contiguous(memory_format=torch.channels_last)
        return self.backbone(stacked).unflatten(0, (len(turns), len(images))).mean(0)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch classes"]:
        """Compute logits of prepared images."""
        return self.head(self.embed(images))

    def prepare(self, stored: Stored) -> Float[Tensor, "batch 3 side side"]:
        """Bring stored uint8 patches (batch, stored_px, stored_px, 3) to the network's input."""
        return prepare_patches(stored, self.spec.geometry, self.spec.normalisation)


def list_turns(rotations: int) -> range:
    """List the quarter turns, counter-clockwise, of which some rotations consist."""
    return range(0, 4, 4 // rotations)


def build_model(spec: ImageSpec, weights: str) -> ImageModel:
    """Build a network from random numbers and the weights named: ``none``, ``imagenet``, or a file.

    Raises InputError if there is no such backbone, it does not take such images, or the weights are
    not available or do not fit.
    """
    network = build_network(spec.backbone, spec.input_px, spec.model_kwargs, weights)
    network = _pool(network, spec)
    model = ImageModel(spec, network, _probe_width(network, spec))
    if any(parameter.ndim == 5 for parameter in model.parameters()):
        return model  # it convolves volumes, which torch orders in another way
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _pool(network: nn.Module, spec: ImageSpec) -> nn.Module:
    if spec.levels and spec.pooling != "encoder":
        problem = f"is {spec.pooling}, but levels are pooled by mean and maximum"
        raise InputError.of("params.yaml, pooling", problem, "encoder, or levels: []")
    if spec.levels:
        return PooledLevels(network, spec.levels, spec.input_px)
    if spec.pooling == "encoder":
        return network
    return PooledTokens(network, spec.pooling, spec.input_px)


def build_network(
    name: str, input_px: int, model_kwargs: dict[str, Any], weights: str
) -> nn.Module:
    """Build a backbone with its initial weights, as `build_model` does."""
    backbone = _build_backbone(name, input_px, model_kwargs)
    _load_initial_weights(backbone, name, weights)
    return backbone.network


def _build_backbone(name: str, input_px: int, model_kwargs: dict[str, Any]) -> Backbone:
    if name not in OWN:
        return build_library_backbone(name, input_px, model_kwargs, tuple(OWN))
    if model_kwargs:
        where, expected = f"params.yaml, backbone {name}", "{}: it takes no arguments"
        raise InputError.of(where, f"model_kwargs are {model_kwargs}", expected)
    return Backbone(OWN[name](input_px), ("head.",), None)


def _load_initial_weights(backbone: Backbone, name: str, weights: str) -> None:
    if weights == "none":
        return
    if weights != "imagenet":
        state = load_state(Path(weights))
        load_weights(backbone.network, state, backbone.dropped, weights, backbone.convert)
        return
    if backbone.fetch_imagenet is None:
        raise InputError.of(
            f"params.yaml, backbone {name}", "has no ImageNet weights", "weights: none"
        )
    state = download_state(backbone.fetch_imagenet, name)
    load_weights(backbone.network, state, backbone.dropped, f"ImageNet weights of {name}")


def _probe_width(backbone: nn.Module, spec: ImageSpec) -> int:
    where = f"params.yaml, backbone {spec.backbone} at input_px {spec.input_px}"
    backbone.eval()
    try:
        with torch.inference_mode():
            embedding = backbone(torch.zeros(1, 3, spec.input_px, spec.input_px))
    except (RuntimeError, AssertionError, ValueError) as error:
        problem = f"does not take such images ({describe_error(error)})"
        expected = "a backbone of RGB images, and a size it takes, often 224"
        raise InputError.of(where, problem, expected) from None
    if not isinstance(embedding, Tensor) or embedding.ndim != 2:
        raise InputError.of(where, "gives no embedding", "a classification network, (batch, width)")
    return embedding.shape[1]


def save_weights(model: ImageModel, path: Path) -> None:
    """Write all weights as safetensors."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(state))


def describe_model(model: ImageModel) -> dict[str, Any]:
    """Describe a network as ``architecture`` of its ``config.json``."""
    spec = {key: value for key, value in asdict(model.spec).items() if key != "classes"}
    layer = asdict(model.gradcam_layer) if model.gradcam_layer else None
    return {**spec, "embedding_dim": model.embedding_dim, "gradcam_layer": layer}


def load_image_model(bundle: Bundle) -> ImageModel:
    """Rebuild the network of a bundle, in eval mode on the CPU.

    Raises BundleError if the bundle holds another kind of model.
    """
    config = bundle.require_kind("image")
    architecture = dict(config["architecture"])
    architecture.pop("embedding_dim")
    # Bundles written before layers were saved have none: their maps are refused, not guessed.
    layer = architecture.pop("gradcam_layer", None)
    model = build_model(ImageSpec(classes=config["classes"], **architecture), "none")
    model.gradcam_layer = MapLayer(**layer) if layer else None
    if maps := config.get(MAPS):
        model.map_method = MapMethod(**maps["method"])
    model.load_state_dict(load_file(bundle.path / WEIGHTS))
    return model.eval()
