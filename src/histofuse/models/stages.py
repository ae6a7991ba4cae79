"""Stages of a backbone, from shallow to deep: what is unfrozen together, and what is explained."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from histofuse.core.errors import InputError

if TYPE_CHECKING:
    from histofuse.models.backbones import ImageModel

Layout = Literal["channels_first", "channels_last", "tokens"]

# Where networks without timm's `feature_info` keep their stages side by side.
_TRUNKS: Final = frozenset({"features", "trunk_output", "layers", "blocks", "stages", "encoder"})
# Networks whose maps are not (n, channels, rows, columns), and their tokens before the grid.
_TORCHVISION_LAYOUTS: Final[Mapping[str, tuple[Layout, int]]] = {
    "torchvision.models.swin_transformer.SwinTransformer": ("channels_last", 0),
    "torchvision.models.vision_transformer.VisionTransformer": ("tokens", 1),
}
_SEED: Final = 1


@dataclass(frozen=True)
class MapLayer:
    """A layer with square feature maps."""

    name: str  # dotted name of a module
    map_px: int
    # of its output: ``channels_first`` is (n, channels, rows, columns), ``channels_last`` (n, rows,
    # columns, channels), ``tokens`` (n, tokens, channels) with the grid row by row
    layout: Layout = "channels_first"
    prefix_tokens: int = 0  # tokens before the grid, such as a class token

    def arrange(self, output: Tensor) -> Float[Tensor, "n channels rows columns"]:
        """Arrange the layer's output, or its gradient, as maps."""
        if self.layout == "channels_first":
            return output
        if self.layout == "tokens":
            output = output[:, self.prefix_tokens :].unflatten(1, (self.map_px, self.map_px))
        return output.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class MapMethod:
    """How maps are computed at a layer (`explain.maps.methods`); the rest is of Score-CAM alone.

    `blur_px` is the SD of the blur that hides a place, in pixels of the network's input.
    """

    name: str
    blur_px: float
    masks: int


@dataclass(frozen=True)
class Stage:
    """Modules of a backbone that are unfrozen together; the one named ends the stage."""

    name: str
    modules: tuple[nn.Module, ...]


def list_stages(backbone: nn.Module) -> list[Stage]:
    """List the stages of a backbone from shallow to deep.

    Together they hold all parameters but those that no layer owns, such as a class token. timm's
    networks name the ends of their stages in `feature_info`, and others may in an attribute
    ``stage_names``. Of the rest the children are stages, those of a trunk one by one; single layers
    join up to the next pooling (ResNet's stem; VGG's blocks).
    """
    ends = _name_ends(backbone)
    stages: list[Stage] = []
    group: list[nn.Module] = []
    for name, module in _walk(backbone, ends):
        group.append(module)
        if name in ends and _has_weights(group):
            stages.append(Stage(name, tuple(group)))
            group = []
    # What follows the last end, such as a norm, learns with the last stage.
    if group and stages:
        stages[-1] = Stage(stages[-1].name, (*stages[-1].modules, *group))
    return stages or [Stage(name, (module,)) for name, module in backbone.named_children()]


def _name_ends(backbone: nn.Module) -> frozenset[str]:
    if names := getattr(backbone, "stage_names", None):
        return frozenset(names)
    features = getattr(backbone, "feature_info", None) or []
    modules = dict(backbone.named_modules())
    # Some of timm's networks name modules that they no longer have.
    named = frozenset(f["module"] for f in features if f["module"] in modules)
    return named or frozenset(_find_ends(backbone, ""))


def _find_ends(module: nn.Module, prefix: str) -> Iterator[str]:
    owners = [c for c in module.children() if next(c.parameters(), None) is not None]
    for name, child in module.named_children():
        is_container = any(True for _ in child.children())
        is_opened = is_container and (name in _TRUNKS or owners == [child])
        inside = list(_find_ends(child, f"{prefix}{name}.")) if is_opened else []
        if inside:
            yield from inside
        elif is_container or "Pool" in type(child).__name__:
            yield prefix + name


def _walk(
    module: nn.Module, ends: frozenset[str], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """List the modules in order, opening what has an end inside."""
    for name, child in module.named_children():
        path = prefix + name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _walk(child, ends, f"{path}.")
        else:
            yield path, child


def _has_weights(modules: list[nn.Module]) -> bool:
    """Tell whether modules hold more than the scales and shifts of norms."""
    return any(p.ndim > 1 for m in modules for p in m.parameters())


def freeze_backbone(model: "ImageModel", unfrozen: int) -> None:
    """Train the head and the deepest `unfrozen` stages of the backbone; freeze the others.

    A frozen stage has no gradients, and its batch norms keep their running statistics.
    """
    stages = list_stages(model.backbone)
    first = max(0, len(stages) - unfrozen)
    # What belongs to no stage, such as a class token, is unfrozen last.
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


@contextmanager
def recording_outputs(network: nn.Module, names: list[str]) -> Iterator[dict[str, Any]]:
    """Record the outputs of modules by name while the network computes."""
    outputs: dict[str, Any] = {}
    with ExitStack() as hooks:
        for name in names:
            # An entry that is there already is replaced; what is returned would replace the output.
            hook = network.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: outputs.update({name: output})
            )
            hooks.callback(hook.remove)
        yield outputs


def choose_gradcam_layer(model: "ImageModel", minimum_map_px: int) -> MapLayer:
    """Choose the deepest stage whose maps are fine enough to locate something; sets eval mode.

    At small inputs the last stage is too coarse: ResNet-18 at 64 px ends in 2 x 2. The last block
    of a transformer that reads its class token alone is passed over: its other tokens are not used.
    Raises InputError if no stage gives maps that fine.
    """
    layers = measure_maps(model)
    if fine := [layer for layer in layers if layer.map_px >= minimum_map_px]:
        return fine[-1]
    spec = model.spec
    where = f"params.yaml, backbone {spec.backbone} at input_px {spec.input_px}"
    if not (finest := max((layer.map_px for layer in layers), default=0)):
        problem = "has no stage with feature maps of a known layout, so that it cannot be explained"
        raise InputError.of(where, problem, "another backbone, such as resnet18")
    problem = f"its finest feature maps are {finest} x {finest}, too coarse to be explained"
    expected = f"{minimum_map_px} x {minimum_map_px} or finer (minimum_map_px)"
    enough = math.ceil(spec.input_px * minimum_map_px / finest)
    lower = f"Lower minimum_map_px to {finest}, or raise" if finest > 1 else "Raise"
    remedy = f"{lower} input_px to {enough}."
    raise InputError.of(where, problem, expected, remedy)


def measure_maps(model: "ImageModel") -> list[MapLayer]:
    """Measure the maps of the stages, from shallow to deep, that the embedding depends on."""
    backbone, side = model.eval().backbone, model.spec.input_px
    layers, image = find_map_layers(backbone, side), _make_image(backbone, side)
    if not layers:
        return []
    with torch.enable_grad(), recording_outputs(backbone, [x.name for x in layers]) as outputs:
        embedding = model.embed(image.requires_grad_())
    # Not the sum: that of a layer norm's output is constant.
    weights = torch.linspace(-1, 1, embedding.numel(), device=embedding.device)
    score = (embedding.flatten() * weights).sum()
    gradients = torch.autograd.grad(score, [outputs[x.name] for x in layers], allow_unused=True)
    return [
        replace(layer, name=f"backbone.{layer.name}")
        for layer, gradient in zip(layers, gradients, strict=True)
        if gradient is not None and layer.arrange(gradient).any()
    ]


def _make_image(backbone: nn.Module, side: int) -> Float[Tensor, "1 3 side side"]:
    generator = torch.Generator().manual_seed(_SEED)
    image = torch.rand(1, 3, side, side, generator=generator)
    return image.to(next(backbone.parameters()).device)


def find_map_layers(backbone: nn.Module, input_px: int) -> list[MapLayer]:
    """Find the stages of a network in eval mode that give square maps, and how they lay them out.

    timm's networks also return their maps in a uniform layout, with which a stage must agree.
    Others are in `_TORCHVISION_LAYOUTS` or convolutional, with channels first.
    """
    if known := getattr(backbone, "map_layers", None):
        return list(known)
    names, image = [s.name for s in list_stages(backbone)], _make_image(backbone, input_px)
    compute_maps: Any = getattr(backbone, "forward_intermediates", None)
    with torch.no_grad(), recording_outputs(backbone, names) as outputs:
        backbone(image)
        options = {"intermediates_only": True, "output_fmt": "NCHW"}
        references = compute_maps(image, **options) if compute_maps else None
    layers = (_describe(backbone, n, outputs[n], references) for n in names if n in outputs)
    return [layer for layer in layers if layer is not None]


def _describe(
    backbone: nn.Module, name: str, output: object, references: list[Tensor] | None
) -> MapLayer | None:
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return None
    if references is not None:
        layers = (_match(name, output, maps) for maps in references)
        return next((layer for layer in layers if layer), None)
    kind = f"{type(backbone).__module__}.{type(backbone).__qualname__}"
    layout, prefix = _TORCHVISION_LAYOUTS.get(kind, ("channels_first", 0))
    if (output.ndim == 3) != (layout == "tokens"):
        return None
    rows, columns = output.shape[1:3] if layout == "channels_last" else output.shape[-2:]
    if layout == "tokens":
        rows = columns = math.isqrt(output.shape[1] - prefix)
    return MapLayer(name, rows, layout, prefix) if rows == columns else None


def _match(name: str, output: Tensor, maps: Tensor) -> MapLayer | None:
    rows, columns = maps.shape[2:]
    tokens = output.ndim == 3
    prefix = output.shape[1] - rows * columns if tokens else 0
    if rows != columns or prefix < 0:
        return None
    layouts: tuple[Layout, ...] = ("tokens",) if tokens else ("channels_first", "channels_last")
    for layout in layouts:
        layer = MapLayer(name, rows, layout, prefix)
        arranged = layer.arrange(output)
        if arranged.shape == maps.shape and torch.allclose(arranged, maps, atol=1e-5):
            return layer
    return None
