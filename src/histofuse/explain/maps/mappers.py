"""Networks that are explained by maps: an image network alone, or followed by a fusion head."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from histofuse.core.errors import InputError
from histofuse.core.naming import name_map_method
from histofuse.core.seeding import derive_seed
from histofuse.explain.maps.methods import compute_maps
from histofuse.models.backbones import ImageModel, build_model
from histofuse.models.stages import MapLayer, MapMethod, list_stages

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
    """A network, in eval mode, and the layer that its maps are computed at.

    `image` is the network or the one in front of the fusion head; `parts` are names of parts, from
    the head to the first layers, each with prefixes of the names of its parameters.
    """

    name: str
    image: ImageModel
    network: nn.Module
    layer: MapLayer
    method: MapMethod
    parts: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def layer_name(self) -> str:
        """The layer's name within the backbone."""
        return self.layer.name.rpartition("backbone.")[2]

    @property
    def title(self) -> str:
        """The method's name, as it is shown."""
        return name_map_method(self.method.name)

    def compute_maps(
        self, inputs: Inputs, network: nn.Module | None = None
    ) -> Float32[np.ndarray, "n height width"]:
        """Compute a map for each patch, scaled to a maximum of 1, of this or another network."""
        return compute_maps(
            network or self.network,
            *(inputs.images, inputs.targets, inputs.others),
            layer=self.layer,
            method=self.method,
        )

    @torch.inference_mode()
    def compute_logits(
        self, images: Float[Tensor, "n 3 side side"], others: tuple[Tensor, ...]
    ) -> Float32[np.ndarray, "n classes"]:
        """Compute raw logits, on the network's device."""
        device = next(self.image.parameters()).device
        parts = [
            self.network(*(part.to(device) for part in batch)).cpu()
            for batch in zip(*(p.split(_ROWS_AT_ONCE) for p in (images, *others)), strict=True)
        ]
        return torch.cat(parts).float().numpy()

    def randomise(
        self, inputs: Inputs, seed: int
    ) -> Iterator[tuple[str, Float32[np.ndarray, "n height width"]]]:
        """Randomise the weights layer by layer, from the head, and map the same classes each time.

        Yields the part that was randomised last, and the maps.

        Source: Adebayo et al., NeurIPS 2018 (cascading randomisation).
        """
        network, untrained = copy.deepcopy(self.network), self._build_untrained(seed).state_dict()
        state = network.state_dict()
        for part, prefixes in self.parts:
            state |= {name: untrained[name] for name in state if name.startswith(prefixes)}
            network.load_state_dict(state)
            yield part, self.compute_maps(inputs, network.eval())

    def randomise_head(
        self, inputs: Inputs, seed: int, count: int
    ) -> Iterator[Float32[np.ndarray, "n height width"]]:
        """Randomise the weights of the head alone, `count` times, and map the same classes.

        Each head is followed by its negative: by chance a head points the same way as the trained
        one.
        """
        network = copy.deepcopy(self.network)
        head = network.get_submodule("head")
        for number in range(count):
            last = _reset_linear(head, derive_seed(seed, "explain", f"head {number}"))
            yield self.compute_maps(inputs, network)
            for parameter in last.parameters():
                parameter.data.neg_()
            yield self.compute_maps(inputs, network)

    def _build_untrained(self, seed: int) -> nn.Module:
        seed = derive_seed(seed, "explain", "untrained")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image = build_model(self.image.spec, "none")
        if not isinstance(self.network, ImageSide):
            return image
        head = copy.deepcopy(self.network.head)
        _reset_linear(head, seed)
        return ImageSide(image, head)


def _reset_linear(head: nn.Module, seed: int) -> nn.Linear:
    """Give the linear layers of a head random weights, and return the last of them."""
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            layer.reset_parameters()
    return layers[-1]


def map_image_network(name: str, model: ImageModel) -> Mapper:
    """Map an image network at the layer that its bundle names; an `InputError` if none."""
    parts = (("head", ("head.",)), *_list_parts(model, ""))
    return Mapper(name, model, model.eval(), _get_layer(name, model), model.map_method, parts)


def map_through_fusion(name: str, image: ImageModel, head: nn.Module) -> Mapper:
    """Map an image network at the layer that its bundle names, through a fusion head."""
    network, layer = ImageSide(image, head).eval(), _get_layer(name, image)
    layer = replace(layer, name=f"image.{layer.name}")
    parts = (("fusion head", ("head.",)), *_list_parts(image, "image."))
    return Mapper(name, image, network, layer, image.map_method, parts)


def _get_layer(name: str, model: ImageModel) -> MapLayer:
    if model.gradcam_layer:
        return model.gradcam_layer
    expected = "one chosen in training: the bundle is from before layers were saved"
    where = f"maps of {name}, a {model.spec.backbone}"
    raise InputError.of(where, "no gradcam_layer in its bundle", expected, "Train it again.")


def _list_parts(model: ImageModel, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    names = {id(module): name for name, module in model.named_modules()}
    owned: set[str] = set()
    for stage in reversed(list_stages(model.backbone)):
        prefixes = tuple(f"{names[id(m)]}." for m in stage.modules)
        owned |= {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
        yield stage.name, tuple(prefix + name for name in prefixes)
    backbone = (n for n, _ in model.named_parameters() if n.startswith("backbone."))
    if rest := tuple(prefix + name for name in backbone if name not in owned):
        yield "tokens", rest
