"""A fully convolutional network: a frame -> how likely a nucleus lies at each place, and its class.

A feature pyramid over the stages of any backbone whose maps are square grids.
Source: Lin et al., CVPR 2017 (feature pyramid); Zhou et al. 2019 (a heat map of centres); Shi et
al., CVPR 2016 (the map is twice as fine as the finest stage, by rearranging channels).
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from histofuse.core.bundle import WEIGHTS, Bundle
from histofuse.core.errors import InputError
from histofuse.features.augment import PixelScale
from histofuse.models.backbones import build_network
from histofuse.models.levels import cut_network
from histofuse.models.stages import find_map_layers, list_stages

KIND: Final = "detector"
_COARSEST: Final = 16  # stride of the deepest stage in use
_PROBE_PX: Final = 256  # side of the image on which stages are measured
_FINER: Final = 2  # the map against the finest stage
_LEAST_CHANCE: Final = -4.0  # log-odds of a nucleus at the start: most places show none


@dataclass(frozen=True)
class DetectorSpec:
    """All that rebuilds a detector, except its weights."""

    backbone: str
    classes: list[str]  # in the order of the class maps
    normalisation: PixelScale
    width: int  # channels of the pyramid
    # Pixels of a frame, along a side, that become one of the network's: of the maps averaged
    reductions: list[int]
    smoothing_px: float  # SD of the Gaussian that smooths the map of nuclei, in pixels of a frame
    spacing_px: float  # least distance of two nuclei, likewise
    views: int  # mirrored and turned images whose maps are averaged: 1, 4 or 8
    mpp: float | None  # micrometres per pixel of the frames it was trained on; None if unknown
    # Least distance of a nucleus from the border of the image, in pixels; older bundles say none
    border_px: float = 0.0


class HeatNetwork(nn.Module):
    """Images -> maps of log-odds of a nucleus and of logits of its class.

    Attributes:
        spec: Rebuilds it.
        stride: Pixels of its input that one place of a map spans.
        multiple: Sides of its input are multiples of this.
    """

    def __init__(self, spec: DetectorSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        _centre_strides(backbone)
        levels = _choose_levels(backbone, spec.backbone)
        stages = [stage.name for stage in list_stages(backbone)]
        self.encoder = cut_network(backbone, list(levels.values()), stages)
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, spec.width, 1) for channels in _measure_channels(self.encoder)
        )
        self.merged = nn.Sequential(
            nn.Conv2d(spec.width, spec.width, 3, padding=1),
            nn.BatchNorm2d(spec.width),
            nn.ReLU(),
            nn.Conv2d(spec.width, spec.width, 3, padding=1),
            nn.BatchNorm2d(spec.width),
            nn.ReLU(),
        )
        maps = 1 + len(spec.classes)
        self.head = nn.Conv2d(spec.width, maps * _FINER**2, 1)
        with torch.no_grad():
            bias = torch.zeros(maps * _FINER**2)
            bias[: _FINER**2] = _LEAST_CHANCE
            self.head.bias = nn.Parameter(bias)
        self.stride = min(levels) // _FINER
        self.multiple = max(levels)

    def average_views(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch maps rows columns"]:
        """Average the maps of the images turned, and mirrored where there are eight views."""
        total = self._sum_turns(images)
        if self.spec.views == 8:
            total = total + self._sum_turns(images.flip(3)).flip(3)
        return total / self.spec.views

    def _sum_turns(self, images: Tensor) -> Tensor:
        turns = range(min(self.spec.views, 4))
        return torch.stack(
            [self(images.rot90(turn, (2, 3))).rot90(-turn, (2, 3)) for turn in turns]
        ).sum(0)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch maps rows columns"]:
        """Compute the maps: first nuclei, then classes."""
        features = [
            lateral(maps) for lateral, maps in zip(self.laterals, self.encoder(images), strict=True)
        ]
        merged = features.pop()
        while features:
            finer = features.pop()
            merged = finer + interpolate(merged, size=finer.shape[2:], mode="nearest")
        return nn.functional.pixel_shuffle(self.head(self.merged(merged)), _FINER)


def _centre_strides(network: nn.Module) -> None:
    """Pad each layer that shrinks without padding, so that maps do not slip against the image."""
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d) or layer.padding not in (0, (0, 0)):
            continue
        (kernel, _), (stride, _) = (_pair(layer.kernel_size), _pair(layer.stride))
        if stride > 1 and kernel > 1:
            halves = (kernel // 2,) * 2
            setattr(layer, "padding", halves if isinstance(layer, nn.Conv2d) else halves[0])  # noqa: B010
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = False


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _choose_levels(backbone: nn.Module, name: str) -> dict[int, str]:
    """Choose the deepest stage of each stride up to the coarsest, by stride.

    Raises InputError if the backbone has no two such stages, or a stride is left out.
    """
    layers = find_map_layers(backbone.eval(), _PROBE_PX)
    maps = {_PROBE_PX // x.map_px: x.name for x in layers if x.layout == "channels_first"}
    levels = {stride: maps[stride] for stride in sorted(maps) if 1 < stride <= _COARSEST}
    if len(levels) < 2 or any(coarse != 2 * fine for fine, coarse in pairwise(levels)):
        problem = "has no stages with feature maps that halve step by step"
        expected = "a convolutional network such as resnet18 or squeezenet1_0"
        raise InputError.of(f"params.yaml, backbone {name}", problem, expected)
    return levels


@torch.inference_mode()
def _measure_channels(encoder: nn.Module) -> list[int]:
    return [maps.shape[1] for maps in encoder.eval()(torch.zeros(1, 3, _PROBE_PX, _PROBE_PX))]


def build_detector(spec: DetectorSpec, weights: str) -> HeatNetwork:
    """Build a network from random numbers of torch's global generator and the weights named.

    `weights` are as of `models.backbones.build_model`. Raises InputError if there is no such
    backbone, it has no maps, or the weights do not fit.
    """
    network = HeatNetwork(spec, build_network(spec.backbone, _PROBE_PX, {}, weights))
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def describe_detector(network: HeatNetwork) -> dict[str, Any]:
    """Describe a network as ``architecture`` of its ``config.json``."""
    return asdict(network.spec)


def load_detector(bundle: Bundle) -> HeatNetwork:
    """Rebuild the network of a bundle, in eval mode on the CPU.

    Raises BundleError if the bundle holds another kind of model.
    """
    config = bundle.require_kind(KIND)
    network = build_detector(DetectorSpec(**config["architecture"]), "none")
    network.load_state_dict(load_file(bundle.path / WEIGHTS))
    return network.eval()
