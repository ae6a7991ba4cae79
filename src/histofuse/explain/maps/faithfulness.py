"""Whether maps say what the network looks at: four tests of each, on the patches themselves.

- **Mass inside**: the share of a map's mass that lies on the annotated nucleus, less the share of
  the patch that the nucleus covers. A map of no preference has 0. BreCaHAD annotates a dot in the
  nucleus and no outline, and patches are centred on the dot: a disc about the centre stands for the
  nucleus.
- **Deletion and insertion**: the cells of a patch are blurred one after another, or brought back
  into the blurred patch, in the order of the map. The area under the curve of the class's
  probability is held against the same cells in random order and from the centre outwards. An empty
  map has no order and takes the random one.
- **Unlearning**: rank correlation of a map with that of the same network whose weights were
  replaced, from the head down, by those of an untrained one. A map that stays the same shows the
  patch, not the network.

Sources: Petsiuk et al., RISE, BMVC 2018 (deletion, insertion); Adebayo et al., Sanity Checks for
Saliency Maps, NeurIPS 2018 (cascading randomisation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from histofuse.core.seeding import make_rng
from histofuse.explain.estimates import Measure
from histofuse.explain.maps.mappers import Inputs, Mapper

Maps = Float32[np.ndarray, "n height width"]
Orders = Int[np.ndarray, "n cells"]
ToProbabilities = Callable[[Float[np.ndarray, "n k"]], Float[np.ndarray, "n k"]]

_AREA = "Mean probability of the decided class while cells of the patch are"
MEASURES: Final = MappingProxyType(
    {
        "empty_share": Measure(
            "Share of empty maps: nothing in the patch speaks for the decided class",
            "lower",
            0.5,
            "most maps show nothing",
        ),
        "cam_mass_inside": Measure(
            "Share of the map's mass on the annotated nucleus (a disc about the dot) less the share"
            " of the patch that it covers",
            "higher",
            0.0,
            "the network looks beside the nucleus",
        ),
        "deletion_auc": Measure(f"{_AREA} blurred in the order of the map", "lower"),
        "deletion_auc_random": Measure(f"{_AREA} blurred in random order"),
        "deletion_auc_centre": Measure(f"{_AREA} blurred from the centre outwards"),
        "deletion_gain_over_random": Measure(
            "How much lower the deletion area is in the map's order than in random order",
            "higher",
            0.0,
            "taking away what the map points at harms no more than chance",
        ),
        "deletion_gain_over_centre": Measure(
            "How much lower the deletion area is in the map's order than from the centre out",
            "higher",
        ),
        "insertion_auc": Measure(f"{_AREA} brought back in the order of the map", "higher"),
        "insertion_auc_random": Measure(f"{_AREA} brought back in random order"),
        "insertion_auc_centre": Measure(f"{_AREA} brought back from the centre outwards"),
        "insertion_gain_over_random": Measure(
            "How much higher the insertion area is in the map's order than in random order",
            "higher",
            0.0,
            "bringing back what the map points at helps no more than chance",
        ),
        "insertion_gain_over_centre": Measure(
            "How much higher the insertion area is in the map's order than from the centre out",
            "higher",
        ),
        "randomisation_rank_correlation": Measure(
            "Rank correlation of the map with that of the network with all weights unlearnt; after"
            " a slash the part down to which they were",
            "lower",
            0.5,
            "an untrained network gives nearly the same map",
        ),
    }
)


@runtime_checkable
class ScoreSizes(Protocol):
    """What the tests take from section ``explain``."""

    @property
    def faithfulness_steps(self) -> int:
        """Steps in which a patch is taken away."""
        ...

    @property
    def nucleus_radius_px(self) -> float:
        """Of the disc that stands for the nucleus, in pixels of the patch."""
        ...

    @property
    def blur_px(self) -> float:
        """Of the blur that stands for "taken away", in pixels of the patch."""
        ...


def score_maps(
    mapper: Mapper, inputs: Inputs, to_probabilities: ToProbabilities, sizes: ScoreSizes, seed: int
) -> dict[str, Float[np.ndarray, " n"]]:
    """Test the maps of some patches.

    Args:
        mapper: The network.
        inputs: Patches, and the classes decided.
        to_probabilities: Raw logits to calibrated probabilities.
        sizes: Section ``explain``.
        seed: The run's, for random orders and weights.

    Returns:
        Name, as in `MEASURES`, to the score of each patch; NaN where it is not defined. Parts of
        the unlearning are called ``randomisation_rank_correlation/<part>``.
    """
    maps = mapper.compute_maps(inputs)
    spec = mapper.image.spec
    inside = measure_mass_inside(maps, draw_disc(spec.patch_px, sizes.nucleus_radius_px))
    return {
        "cam_mass_inside": inside,
        **_take_away(
            Curves(
                mapper,
                inputs,
                blur(inputs.images, sizes.blur_px * spec.input_px / spec.patch_px),
                to_probabilities,
                sizes.faithfulness_steps,
            ),
            maps,
            seed,
        ),
        **_unlearn(mapper, inputs, maps, seed),
    }


# --- mass inside --------------------------------------------------------------------------------


def draw_disc(side_px: int, radius_px: float) -> Bool[np.ndarray, "side side"]:
    """Mark the pixels whose centres lie within a radius of the middle of a square."""
    offset = np.arange(side_px) - (side_px - 1) / 2
    return offset[:, None] ** 2 + offset**2 <= radius_px**2


def measure_mass_inside(
    maps: Maps, nucleus: Bool[np.ndarray, "side side"]
) -> Float[np.ndarray, " n"]:
    """Measure the share of each map's mass inside less the share of the area; NaN if empty."""
    size = nucleus.shape
    large = interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)
    pixels = large[:, 0].double().numpy()
    mass, within = pixels.sum(axis=(1, 2)), pixels[:, nucleus].sum(axis=1)
    share = np.divide(within, mass, out=np.full(len(maps), np.nan), where=mass > 0)
    return share - nucleus.mean()


# --- deletion and insertion ---------------------------------------------------------------------


def _take_away(curves: Curves, maps: Maps, seed: int) -> dict[str, Float[np.ndarray, " n"]]:
    chance = order_randomly(maps, seed)
    orders = {"": order_by_map(maps, chance), "_random": chance, "_centre": order_from_centre(maps)}
    areas: dict[str, Float[np.ndarray, " n"]] = {}
    for name, order in orders.items():
        for way in ("deletion", "insertion"):
            areas[f"{way}_auc{name}"] = curves.measure_area(order, inserting=way == "insertion")
    for peer in ("random", "centre"):
        lower, higher = (areas[f"{way}_auc_{peer}"] for way in ("deletion", "insertion"))
        areas[f"deletion_gain_over_{peer}"] = lower - areas["deletion_auc"]
        areas[f"insertion_gain_over_{peer}"] = areas["insertion_auc"] - higher
    return areas


def blur(images: Float[Tensor, "n 3 side side"], sigma_px: float) -> Float[Tensor, "n 3 side side"]:
    """Blur with a Gaussian, mirrored at the edges."""
    reach = min(int(np.ceil(3 * sigma_px)), images.shape[-1] - 1)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_px) ** 2)
    bell = (bell / bell.sum()).expand(3, 1, 1, -1)
    rows = conv2d(pad(images, (reach, reach, 0, 0), mode="reflect"), bell, groups=3)
    columns = pad(rows, (0, 0, reach, reach), mode="reflect")
    return conv2d(columns, bell.transpose(2, 3), groups=3)


def order_randomly(maps: Maps, seed: int) -> Orders:
    """Put the cells of each map into an order by chance, first to last."""
    cells = np.tile(np.arange(maps[0].size), (len(maps), 1))
    return make_rng(seed, "explain", "order").permuted(cells, axis=1)


def order_by_map(maps: Maps, chance: Orders) -> Orders:
    """Put the cells of each map in order, the strongest first; equal ones by chance."""
    shuffled = np.take_along_axis(maps.reshape(len(maps), -1), chance, axis=1)
    return np.take_along_axis(chance, np.argsort(-shuffled, axis=1, kind="stable"), axis=1)


def order_from_centre(maps: Maps) -> Orders:
    """Put the cells of each map in order from the centre outwards."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in maps.shape[1:])
    distance = (rows[:, None] ** 2 + columns**2).ravel()
    return np.tile(np.argsort(distance, kind="stable"), (len(maps), 1))


@dataclass(frozen=True)
class Curves:
    """Patches that are taken away and brought back.

    Attributes:
        mapper: The network.
        inputs: Whole patches.
        blurred: The same, nothing left of them.
        to_probabilities: Logits to probabilities.
        steps: Between the whole and the blurred patch.
    """

    mapper: Mapper
    inputs: Inputs
    blurred: Float[Tensor, "n 3 side side"]
    to_probabilities: ToProbabilities
    steps: int

    def measure_area(self, order: Orders, *, inserting: bool) -> Float[np.ndarray, " n"]:
        """Measure the area under the class's probability over the share of cells done."""
        cells = order.shape[1]
        done = np.round(np.linspace(0, cells, self.steps + 1)).astype(int)
        place = np.argsort(order, axis=1)
        curve = [self._read(place < count, inserting=inserting) for count in done[1:-1]]
        whole, nothing = self._ends
        curve = [nothing, *curve, whole] if inserting else [whole, *curve, nothing]
        return np.trapezoid(np.column_stack(curve), done / cells, axis=1)

    def _read(self, touched: Bool[np.ndarray, "n cells"], *, inserting: bool) -> np.ndarray:
        images = self.inputs.images
        side = int(np.sqrt(touched.shape[1]))
        grid = torch.from_numpy(touched).float().view(-1, 1, side, side)
        mask = interpolate(grid, images.shape[2:], mode="nearest")
        return self._predict(torch.where((mask > 0) == inserting, images, self.blurred))

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Predict the whole patches, and the blurred ones: every curve runs between them."""
        return self._predict(self.inputs.images), self._predict(self.blurred)

    def _predict(self, images: Float[Tensor, "n 3 side side"]) -> Float[np.ndarray, " n"]:
        images = images.contiguous(memory_format=torch.channels_last)
        logits = self.mapper.compute_logits(images, self.inputs.others)
        rows = np.arange(len(logits))
        return self.to_probabilities(logits)[rows, self.inputs.targets.numpy()]


# --- unlearning ---------------------------------------------------------------------------------


def _unlearn(
    mapper: Mapper, inputs: Inputs, maps: Maps, seed: int
) -> dict[str, Float[np.ndarray, " n"]]:
    name = "randomisation_rank_correlation"
    found = {
        f"{name}/{part}": correlate_maps(maps, others)
        for part, others in mapper.randomise(inputs, seed)
    }
    return {name: list(found.values())[-1], **found}


def correlate_maps(maps: Maps, others: Maps) -> Float[np.ndarray, " n"]:
    """Compute Spearman's rank correlation of each pair of maps; NaN where one is constant."""
    ranks = [rankdata(m.reshape(len(m), -1), axis=1) for m in (maps, others)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    joint = (a * b).sum(axis=1)
    return np.divide(joint, spread, out=np.full(len(maps), np.nan), where=spread > 0)
