"""Networks that are explained by maps: an image network alone, or followed by a fusion head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from histofuse.core.errors import Fault, InputError
from histofuse.core.seeding import derive_seed
from histofuse.explain.maps.gradcam import compute_maps
from histofuse.models.backbones import ImageModel, build_model
from histofuse.models.stages import list_stages

_ROWS_AT_ONCE = 256


class ImageSide(nn.Module):
    """Patches and their patients' embeddings -> fused logits."""

    def __init__(self, image: ImageModel, head: nn.Module) -> None:
        super().__init__()
        self.image, self.head = image, head

    def forward(self, images: Tensor, patient_embeddings: Tensor) -> Tensor:
        """Compute the fused logits."""
        return self.head(self.image.embed(images), patient_embeddings)


@dataclass(frozen=True)
class Inputs:
    """Patches, the patients' embeddings if the network takes them, and the class to explain."""

    images: Float[Tensor, "n 3 side side"]
    others: tuple[Float[Tensor, "n width"], ...]
    targets: Int[Tensor, " n"]


@dataclass(frozen=True)
class Mapper:
    """A network and the layer that its maps are computed at.

    Attributes:
        name: The model's name.
        image: The image network, or the one in front of the fusion head.
        network: Called with images and the other inputs; in eval mode.
        layer: Dotted name of a module of the network.
        parts: From the head to the first layers: the name of a part, and prefixes of the names of
            its parameters.
    """

    name: str
    image: ImageModel
    network: nn.Module
    layer: str
    parts: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def layer_name(self) -> str:
        """The layer's name within the backbone."""
        return self.layer.rpartition("backbone.")[2]

    def compute_maps(
        self, inputs: Inputs, network: nn.Module | None = None
    ) -> Float32[np.ndarray, "n height width"]:
        """Compute a map for each patch, scaled to a maximum of 1; see `gradcam.compute_maps`.

        `network` replaces the mapper's own.
        """
        network = network or self.network
        layer = network.get_submodule(self.layer)
        return compute_maps(network, layer, inputs.images, inputs.targets, inputs.others)

    @torch.inference_mode()
    def compute_logits(
        self, images: Float[Tensor, "n 3 side side"], others: tuple[Tensor, ...]
    ) -> Float32[np.ndarray, "n classes"]:
        """Compute raw logits."""
        parts = [
            self.network(*batch)
            for batch in zip(*(p.split(_ROWS_AT_ONCE) for p in (images, *others)), strict=True)
        ]
        return torch.cat(parts).float().numpy()

    def randomise(
        self, inputs: Inputs, seed: int
    ) -> Iterator[tuple[str, Float32[np.ndarray, "n height width"]]]:
        """Randomise the weights layer by layer, from the head, and map the same classes each time.

        Each part gets the weights of an untrained network.

        Yields:
            The part that was randomised last, and the maps.

        Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (cascading
        randomisation).
        """
        network = copy.deepcopy(self.network)
        untrained = self._build_untrained(seed).state_dict()
        state = network.state_dict()
        for part, prefixes in self.parts:
            state |= {name: untrained[name] for name in state if name.startswith(prefixes)}
            network.load_state_dict(state)
            yield part, self.compute_maps(inputs, network.eval())

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


def map_image_network(name: str, model: ImageModel) -> Mapper:
    """Map an image network at the layer that its bundle names.

    Raises:
        InputError: If it names none.
    """
    parts = (("head", ("head.",)), *_list_parts(model, ""))
    return Mapper(name, model, model.eval(), _get_layer(name, model), parts)


def map_through_fusion(name: str, image: ImageModel, head: nn.Module) -> Mapper:
    """Map an image network at the layer that its bundle names, through a fusion head.

    Raises:
        InputError: If it names none.
    """
    network = ImageSide(image, head).eval()
    parts = (("fusion head", ("head.",)), *_list_parts(image, "image."))
    return Mapper(name, image, network, f"image.{_get_layer(name, image)}", parts)


def _get_layer(name: str, model: ImageModel) -> str:
    if model.gradcam_layer:
        return model.gradcam_layer.name
    expected = "a layer with a feature map fine enough to locate something"
    remedy = "Lower minimum_map_px or raise input_px in params.yaml, and train again."
    where = f"Grad-CAM of {name}, a {model.spec.backbone}"
    raise InputError([Fault(where, "no gradcam_layer in its bundle", expected, remedy)])


def _list_parts(model: ImageModel, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    names = {id(module): name for name, module in model.named_modules()}
    for stage in reversed(list_stages(model.backbone)):
        yield stage.name, tuple(f"{prefix}{names[id(m)]}." for m in stage.modules)
