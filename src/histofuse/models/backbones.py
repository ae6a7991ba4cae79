"""Image networks: a backbone by name, an embedding, and a new head.

``simple_cnn`` is the paper's baseline; ``torchvision/<name>`` and ``timm/<name>`` are what those
libraries call so, and a bare name is looked up in torchvision first. Both libraries take seconds to
import, so neither is unless a model needs it.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from histofuse.core.bundle import Bundle
from histofuse.core.errors import BundleError, Fault, InputError
from histofuse.features.augment import PatchGeometry, Stored, prepare_patches
from histofuse.models.simple_cnn import SimpleCnnBackbone
from histofuse.models.weights import State, download_state, load_state, load_weights
from histofuse.params.image import SIMPLE_CNN, Normalisation

WEIGHTS = "weights.safetensors"

# Where torchvision's models keep their classifier.
_HEADS = ("fc", "classifier", "heads", "head")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True)
class ImageSpec:
    """All that rebuilds an image network, beside its weights.

    Attributes:
        backbone: As in params.
        classes: Names, in the order of the logits.
        input_px: Side of the input.
        patch_px: Side of the patch that is resized to it.
        margin_px: Context around it in a stored patch.
        normalisation: Of the input.
        dropout: Before the last layer.
    """

    backbone: str
    classes: list[str]
    input_px: int
    patch_px: int
    margin_px: int
    normalisation: Normalisation
    dropout: float

    @property
    def geometry(self) -> PatchGeometry:
        """Its sides alone."""
        return PatchGeometry(self.patch_px, self.margin_px, self.input_px)


@dataclass(frozen=True)
class Stage:
    """Modules of a backbone that are unfrozen together.

    Attributes:
        name: Dotted name of its last module.
        modules: In the order of computation.
    """

    name: str
    modules: tuple[nn.Module, ...]


class ImageModel(nn.Module):
    """Patches -> embedding -> logits.

    Attributes:
        spec: What rebuilds it.
        backbone: Images -> embedding.
        head: Dropout and the last linear layer.
        embedding_dim: Width of the embedding.
    """

    def __init__(self, spec: ImageSpec, backbone: nn.Module, embedding_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.embedding_dim = embedding_dim
        last = nn.Linear(embedding_dim, len(spec.classes))
        # Source: paper 3.1, He initialisation of the new head.
        nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Dropout(spec.dropout), last)

    def embed(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch width"]:
        """Compute the penultimate activations of prepared images."""
        return self.backbone(images)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch classes"]:
        """Compute logits of prepared images."""
        return self.head(self.embed(images))

    def prepare(self, stored: Stored) -> Float[Tensor, "batch 3 side side"]:
        """Bring stored uint8 patches (batch, stored_px, stored_px, 3) to the network's input."""
        return prepare_patches(stored, self.spec.geometry, self.spec.normalisation)


def build_model(spec: ImageSpec, weights: str) -> ImageModel:
    """Build a network from random numbers of torch's global generator and the weights named.

    Args:
        spec: What to build.
        weights: ``none``, ``imagenet``, or the path of a safetensors file.

    Raises:
        InputError: If there is no such backbone, it does not take such images, or the weights
            cannot be had or do not fit.
    """
    backbone, library, dropped = _build_backbone(spec)
    if weights == "imagenet":
        state = download_state(lambda: _fetch_imagenet(spec, library), spec.backbone)
        load_weights(backbone, state, dropped, f"ImageNet weights of {spec.backbone}")
    elif weights != "none":
        load_weights(backbone, load_state(Path(weights)), dropped, weights)
    model = ImageModel(spec, backbone, _probe_width(backbone, spec))
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


# --- by library ---------------------------------------------------------------------------------


def _build_backbone(spec: ImageSpec) -> tuple[nn.Module, str, tuple[str, ...]]:
    """Build a backbone without head; name its library and the keys it does without."""
    library, name = _find_library(spec.backbone)
    if library == SIMPLE_CNN:
        return SimpleCnnBackbone(spec.input_px), library, ("head.",)
    if library == "timm":
        return _build_timm(name, spec.input_px)
    return _build_torchvision(name)


def _find_library(backbone: str) -> tuple[str, str]:
    """Say which library has a backbone, and its name there.

    Raises:
        InputError: If none has; names what is near.
    """
    if backbone == SIMPLE_CNN:
        return SIMPLE_CNN, backbone
    library, _, name = backbone.rpartition("/")
    from torchvision import models

    known = models.list_models(module=models)
    if library in ("", "torchvision") and name in known:
        return "torchvision", name
    if library in ("", "timm"):
        import timm

        if timm.is_model(name):
            return "timm", name
        known = [*known, *timm.list_models()] if not library else timm.list_models()
    near = difflib.get_close_matches(name, known, n=5) or ["resnet18", "resnet34", "resnet50"]
    expected = "simple_cnn, or a name of torchvision or timm such as " + ", ".join(near)
    raise InputError([Fault("params.yaml, backbone", f"is {backbone!r}", expected)])


def _build_torchvision(name: str) -> tuple[nn.Module, str, tuple[str, ...]]:
    from torchvision import models

    # These two would else spend a minute on drawing random numbers, and return tuples.
    options = {"aux_logits": False, "init_weights": False}
    network = models.get_model(
        name, weights=None, **(options if name in ("inception_v3", "googlenet") else {})
    )
    path = _cut_head(network)
    return network, "torchvision", (f"{path}.", *_AUXILIARY)


def _cut_head(network: nn.Module) -> str:
    """Replace the last layer, so that the network ends in its embedding; return the layer's path.

    Of a head of several layers those before the last stay. SqueezeNet classifies by a convolution
    and then pools: its embedding is the mean over the positions of its last features.
    """
    head = next(name for name in _HEADS if hasattr(network, name))
    layers = [
        (n, m)
        for n, m in getattr(network, head).named_modules()
        if next(m.parameters(recurse=False), None) is not None
    ]
    name, last = layers[-1]
    path = f"{head}.{name}".rstrip(".")
    if isinstance(last, nn.Conv2d):
        setattr(network, head, nn.AdaptiveAvgPool2d(1))
        return path
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return path


def _build_timm(name: str, input_px: int) -> tuple[nn.Module, str, tuple[str, ...]]:
    import timm

    return timm.create_model(name, num_classes=0, **_timm_size(name, input_px)), "timm", ()


def _timm_size(name: str, input_px: int) -> dict[str, Any]:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return {"img_size": input_px} if known and known.fixed_input_size else {}


def _fetch_imagenet(spec: ImageSpec, library: str) -> State:
    name = spec.backbone.rpartition("/")[2]
    if library == "timm":
        import timm

        size = _timm_size(name, spec.input_px)
        return timm.create_model(name, pretrained=True, num_classes=0, **size).state_dict()
    from torchvision import models

    return models.get_model_weights(name)["DEFAULT"].get_state_dict(progress=False, check_hash=True)


def _probe_width(backbone: nn.Module, spec: ImageSpec) -> int:
    """Measure the embedding by sending one black image through.

    Raises:
        InputError: If the backbone does not take images of this size.
    """
    where = f"params.yaml, backbone {spec.backbone} at input_px {spec.input_px}"
    backbone.eval()
    try:
        with torch.inference_mode():
            found = backbone(torch.zeros(1, 3, spec.input_px, spec.input_px))
    except (RuntimeError, AssertionError, ValueError) as error:
        problem = f"does not take such images ({str(error).splitlines()[0]})"
        expected = "a size the backbone takes, often 224"
        raise InputError([Fault(where, problem, expected)]) from None
    if not isinstance(found, Tensor) or found.ndim != 2:
        fault = Fault(where, "gives no embedding", "a classification network, (batch, width)")
        raise InputError([fault])
    return found.shape[1]


# --- stages -------------------------------------------------------------------------------------

_LEAST_STAGES = 3


def list_stages(backbone: nn.Module) -> list[Stage]:
    """List the stages of a backbone from shallow to deep; together they hold all parameters.

    Children of the backbone are stages, but layers that stand alone join up to the next pooling
    (ResNet's stem; VGG's blocks), and where that gives fewer than three, the largest container is
    opened.
    """
    stages = _group(backbone, "")
    while len(stages) < _LEAST_STAGES:
        openable = [s for s in stages if _is_openable(s)]
        if not openable:
            break
        largest = max(openable, key=lambda s: _count_parameters(s.modules))
        at = stages.index(largest)
        stages[at : at + 1] = _group(largest.modules[0], f"{largest.name}.")
    return stages


def _is_openable(stage: Stage) -> bool:
    return len(stage.modules) == 1 and len(_group(stage.modules[0], "")) > 1


def _group(module: nn.Module, prefix: str) -> list[Stage]:
    stages: list[Stage] = []
    layers: list[tuple[str, nn.Module]] = []

    def close() -> None:
        if any(_count_parameters([m]) for _, m in layers):
            stages.append(Stage(prefix + layers[-1][0], tuple(m for _, m in layers)))
            layers.clear()

    for name, child in module.named_children():
        if any(True for _ in child.children()):
            close()
            layers.append((name, child))
            close()
            continue
        layers.append((name, child))
        if "Pool" in type(child).__name__:
            close()
    close()
    return stages


def _count_parameters(modules: Any) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def freeze_backbone(model: ImageModel, unfrozen: int) -> None:
    """Set the whole network to train but the stages of its backbone above the deepest `unfrozen`.

    A frozen stage has no gradients, and its batch norms keep their running statistics.
    """
    stages = list_stages(model.backbone)
    first = max(0, len(stages) - unfrozen)
    # What belongs to no stage, such as a class token, thaws last.
    model.backbone.requires_grad_(first == 0)
    model.train()
    for number, stage in enumerate(stages):
        for module in stage.modules:
            module.requires_grad_(number >= first).train(number >= first)


def count_unfrozen(epoch: int, frozen_epochs: int, every_epochs: int) -> int:
    """Count the stages that learn in an epoch (from 0): none, then the deepest, one more at a time.

    Source: paper 3.1 (two epochs of head alone, then from deeper to shallower blocks).
    """
    if epoch < frozen_epochs:
        return 0
    return 1 + (epoch - frozen_epochs) // every_epochs


# --- bundles ------------------------------------------------------------------------------------


def save_weights(model: ImageModel, path: Path) -> None:
    """Write all weights as safetensors."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(state))


def describe_model(model: ImageModel) -> dict[str, Any]:
    """Give what ``config.json`` keeps as ``architecture``."""
    facts = {key: value for key, value in asdict(model.spec).items() if key != "classes"}
    return {**facts, "embedding_dim": model.embedding_dim}


def load_image_model(bundle: Bundle) -> ImageModel:
    """Rebuild the network of a bundle, in eval mode on the CPU.

    Raises:
        BundleError: If the bundle holds another kind of model.
    """
    config = bundle.config
    if config.get("kind") != "image":
        kind = config.get("kind")
        raise BundleError(f"{bundle.path}: holds a model of kind {kind!r}, expected image")
    facts = dict(config["architecture"])
    facts.pop("embedding_dim")
    model = build_model(ImageSpec(classes=config["classes"], **facts), "none")
    model.load_state_dict(load_file(bundle.path / WEIGHTS))
    return model.eval()
