"""Networks whose evidence is mapped: an image network by itself, or through a fusion head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from histofuse.core.seeding import derive_seed
from histofuse.explain.maps.gradcam import choose_layer, compute_maps
from histofuse.models.backbones import ImageModel, build_model
from histofuse.models.stages import list_stages

_ROWS_AT_ONCE = 256


class ImageSide(nn.Module):
    """Patches, and their patients' embeddings -> fused logits."""

    def __init__(self, image: ImageModel, head: nn.Module) -> None:
        super().__init__()
        self.image, self.head = image, head

    def forward(self, images: Tensor, patient_embeddings: Tensor) -> Tensor:
        """Compute the fused logits."""
        return self.head(self.image.embed(images), patient_embeddings)


@dataclass(frozen=True)
class Inputs:
    """Patches as a network takes them.

    Attributes:
        images: Prepared.
        beside: Of each patch, what stands beside it: nothing, or its patient's embedding.
        targets: The class each map explains.
    """

    images: Float[Tensor, "n 3 side side"]
    beside: tuple[Float[Tensor, "n width"], ...]
    targets: Int[Tensor, " n"]


@dataclass(frozen=True)
class Mapper:
    """A network, and the layer whose maps are made.

    Attributes:
        name: The model's name.
        image: The image network, or the one in front of the fusion head.
        network: Called with images, and what stands beside them; in eval mode.
        layer: Dotted name of a module of it.
        map_px: Side of a map.
        parts: The network from its head down: what a part is called, and how the names of its
            parameters begin.
    """

    name: str
    image: ImageModel
    network: nn.Module
    layer: str
    map_px: int
    parts: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def layer_name(self) -> str:
        """The layer, as it is called within the backbone."""
        return self.layer.rpartition("backbone.")[2]

    def compute_maps(self, inputs: Inputs) -> Float32[np.ndarray, "n height width"]:
        """Compute a map for each patch, scaled to a maximum of 1; see `gradcam.compute_maps`."""
        return _map(self.network, self.layer, inputs)

    @torch.inference_mode()
    def compute_logits(
        self, images: Float[Tensor, "n 3 side side"], beside: tuple[Tensor, ...]
    ) -> Float32[np.ndarray, "n classes"]:
        """Compute raw logits."""
        parts = [
            self.network(*batch)
            for batch in zip(*(p.split(_ROWS_AT_ONCE) for p in (images, *beside)), strict=True)
        ]
        return torch.cat(parts).float().numpy()

    def randomise(
        self, inputs: Inputs, seed: int
    ) -> Iterator[tuple[str, Float32[np.ndarray, "n height width"]]]:
        """Unlearn the network from its head down, and map the same classes after each part.

        A part gets the weights of a network that was never trained.

        Yields:
            The part that was unlearnt last, and the maps.

        Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (cascading
        randomisation).
        """
        network = copy.deepcopy(self.network)
        fresh = self._build_untrained(seed).state_dict()
        state = network.state_dict()
        for part, prefixes in self.parts:
            state |= {name: fresh[name] for name in state if name.startswith(prefixes)}
            network.load_state_dict(state)
            yield part, _map(network.eval(), self.layer, inputs)

    def _build_untrained(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "explain", "untrained"))
            image = build_model(self.image.spec, "none")
            if not isinstance(self.network, ImageSide):
                return image
            head = copy.deepcopy(self.network.head)
            for module in head.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
            return ImageSide(image, head)


def map_image_network(name: str, model: ImageModel, minimum_map_px: int) -> Mapper:
    """Map an image network by itself.

    Raises:
        InputError: If no block gives a map fine enough.
    """
    layer, map_px = choose_layer(model, model.spec.input_px, minimum_map_px)
    parts = (("head", ("head.",)), *_list_parts(model, ""))
    return Mapper(name, model, model.eval(), layer, map_px, parts)


def map_through_fusion(
    name: str, image: ImageModel, head: nn.Module, minimum_map_px: int
) -> Mapper:
    """Map an image network through the fusion head that stands on its embedding.

    Raises:
        InputError: If no block gives a map fine enough.
    """
    layer, map_px = choose_layer(image, image.spec.input_px, minimum_map_px)
    network = ImageSide(image, head).eval()
    parts = (("fusion head", ("head.",)), *_list_parts(image, "image."))
    return Mapper(name, image, network, f"image.{layer}", map_px, parts)


def _list_parts(model: ImageModel, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    names = {id(module): name for name, module in model.named_modules()}
    for stage in reversed(list_stages(model.backbone)):
        yield stage.name, tuple(f"{prefix}{names[id(m)]}." for m in stage.modules)


def _map(network: nn.Module, layer: str, inputs: Inputs) -> Float32[np.ndarray, "n height width"]:
    module = network.get_submodule(layer)
    return compute_maps(network, module, inputs.images, inputs.targets, inputs.beside)
