"""Tests of maps: do they show what the network uses?

An empty map, on which nothing supports the class, counts in every mean as what it is:

- **Mass inside**: the share of a map's mass on the annotated nucleus, less the share of the patch
  that the nucleus covers; 0 for a uniform map, and for an empty one. BreCaHAD annotates a dot, not
  an outline: a disc around the centre of the patch stands for the nucleus.
- **Deletion and insertion**: the cells of a patch are blurred one after another, or restored in the
  blurred patch, in the order of the map. The area under the class's probability is compared with
  that of a random order, which an empty map is given too, and of one from the centre outwards.
- **Randomisation**: rank correlation of a map with that of the same network after its weights were
  randomised, those of the head alone, and layer by layer from the head on. A map that does not
  change shows the patch, not the network. Of a uniform map: 1 if it stays uniform, else 0.

Sources: Petsiuk et al., RISE, BMVC 2018 (deletion, insertion); Adebayo et al., Sanity Checks for
Saliency Maps, NeurIPS 2018 (cascading randomisation).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn.functional import interpolate

from histofuse.core.seeding import make_rng
from histofuse.explain.estimates import Measure, correlate_ranks, load_measures
from histofuse.explain.maps.mappers import Inputs, Mapper
from histofuse.explain.maps.methods import blur, enlarge
from histofuse.models.backbones import ImageSpec
from histofuse.params.explain import ExplainParams, MapParams

Maps = Float32[np.ndarray, "n height width"]
Orders = Int[np.ndarray, "n cells"]
Areas = dict[str, Float[np.ndarray, " n"]]
ToProbabilities = Callable[[Float[np.ndarray, "n k"]], Float[np.ndarray, "n k"]]

ALIKE: Final = "randomisation_rank_correlation"
PEERS: Final = ("random", "centre")
WAYS: Final = ("deletion", "insertion")


def define_measures(params: MapParams) -> dict[str, Measure]:
    """Define the tests of maps, with the limits that are params."""
    measures = load_measures(Path(__file__).with_name("measures.json"))
    limits = {"empty_share": params.most_empty, ALIKE: params.most_alike}
    limits[f"head_{ALIKE}"] = params.most_alike
    limits |= {f"{way}_gain_over_centre": -params.centre_margin for way in WAYS}
    return measures | {name: replace(measures[name], limit=n) for name, n in limits.items()}


def score_maps(
    mapper: Mapper,
    inputs: Inputs,
    to_probabilities: ToProbabilities,
    params: ExplainParams,
    seed: int,
) -> Areas:
    """Test the maps of some patches.

    Returns name, as in `define_measures`, to the score of each patch. Those after each randomised
    part are called ``randomisation_rank_correlation/<part>``.
    """
    maps = mapper.compute_maps(inputs)
    curves = make_curves(mapper, inputs, to_probabilities, params.maps)
    nucleus = draw_disc(mapper.image.spec.patch_px, params.nucleus_radius_px)
    areas = measure_baselines(curves, maps, seed)
    return {
        "cam_mass_inside": measure_mass_inside(maps, nucleus),
        **areas,
        **measure_gains(curves, maps, areas, seed),
        f"head_{ALIKE}": compare_heads(mapper, inputs, maps, params.maps, seed),
        **_compare_with_randomised(mapper, inputs, maps, seed),
    }


def draw_disc(side_px: int, radius_px: float) -> Bool[np.ndarray, "side side"]:
    """Mark the pixels whose centres lie within a radius of the middle of a square."""
    offset = np.arange(side_px) - (side_px - 1) / 2
    return offset[:, None] ** 2 + offset**2 <= radius_px**2


def measure_mass_inside(
    maps: Maps, nucleus: Bool[np.ndarray, "side side"]
) -> Float[np.ndarray, " n"]:
    """Measure the share of each map's mass inside less the share of the area; 0 if empty."""
    pixels = enlarge(maps, len(nucleus)).astype(np.float64)
    mass, within = pixels.sum(axis=(1, 2)), pixels[:, nucleus].sum(axis=1)
    share = np.divide(within, mass, out=np.zeros(len(maps)), where=mass > 0)
    return np.where(mass > 0, share - nucleus.mean(), 0.0)


def measure_baselines(curves: "Curves", maps: Maps, seed: int) -> Areas:
    """Measure deletion and insertion in random order, and from the centre outwards."""
    orders = {"random": order_randomly(maps, seed), "centre": order_from_centre(maps)}
    return {
        f"{way}_auc_{peer}": curves.measure_area(orders[peer], inserting=way == "insertion")
        for peer in PEERS
        for way in WAYS
    }


def measure_gains(curves: "Curves", maps: Maps, baselines: Areas, seed: int) -> Areas:
    """Measure deletion and insertion in the order of maps, and their gains over the baselines."""
    order = order_by_map(maps, order_randomly(maps, seed))
    deletion, insertion = (curves.measure_area(order, inserting=way) for way in (False, True))
    scores = {"deletion_auc": deletion, "insertion_auc": insertion}
    for peer in PEERS:
        lower, higher = (baselines[f"{way}_auc_{peer}"] for way in WAYS)
        scores[f"deletion_gain_over_{peer}"] = lower - deletion
        scores[f"insertion_gain_over_{peer}"] = insertion - higher
    return scores


def make_curves(
    mapper: Mapper, inputs: Inputs, to_probabilities: ToProbabilities, params: MapParams
) -> "Curves":
    """Blur patches, from which their curves are computed."""
    blurred = blur(inputs.images, scale_blur(mapper.image.spec, params))
    return Curves(mapper, inputs, blurred, to_probabilities, params.steps)


def scale_blur(spec: ImageSpec, params: MapParams) -> float:
    """Compute the standard deviation of the blur in pixels of a network's input."""
    return params.blur_px * spec.input_px / spec.patch_px


def order_randomly(maps: Maps, seed: int) -> Orders:
    """Put the cells of each map in random order."""
    cells = np.tile(np.arange(maps[0].size), (len(maps), 1))
    return make_rng(seed, "explain", "order").permuted(cells, axis=1)


def order_by_map(maps: Maps, chance: Orders) -> Orders:
    """Put the cells of each map in order, strongest first; ties are broken at random."""
    shuffled = np.take_along_axis(maps.reshape(len(maps), -1), chance, axis=1)
    return np.take_along_axis(chance, np.argsort(-shuffled, axis=1, kind="stable"), axis=1)


def order_from_centre(maps: Maps) -> Orders:
    """Put the cells of each map in order from the centre outwards."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in maps.shape[1:])
    distance = (rows[:, None] ** 2 + columns**2).ravel()
    return np.tile(np.argsort(distance, kind="stable"), (len(maps), 1))


@dataclass(frozen=True)
class Curves:
    """Probability curves of patches whose cells are blurred or restored in a number of steps."""

    mapper: Mapper
    inputs: Inputs
    blurred: Float[Tensor, "n 3 side side"]
    to_probabilities: ToProbabilities
    steps: int

    def measure_area(self, order: Orders, *, inserting: bool) -> Float[np.ndarray, " n"]:
        """Compute the area under the class's probability over the share of changed cells."""
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
        return self._predict(self.inputs.images), self._predict(self.blurred)

    def _predict(self, images: Float[Tensor, "n 3 side side"]) -> Float[np.ndarray, " n"]:
        images = images.contiguous(memory_format=torch.channels_last)
        logits = self.mapper.compute_logits(images, self.inputs.others)
        rows = np.arange(len(logits))
        return self.to_probabilities(logits)[rows, self.inputs.targets.numpy()]


def _compare_with_randomised(mapper: Mapper, inputs: Inputs, maps: Maps, seed: int) -> Areas:
    """Correlate maps with those of the cascade, but for the first: one random head is chance."""
    scores = {
        f"{ALIKE}/{part}": correlate_maps(maps, others)
        for part, others in islice(mapper.randomise(inputs, seed), 1, None)
    }
    return {ALIKE: list(scores.values())[-1], **scores}


def compare_heads(
    mapper: Mapper, inputs: Inputs, maps: Maps, params: MapParams, seed: int
) -> Float[np.ndarray, " n"]:
    """Correlate maps with those of heads with random weights: the mean over these."""
    heads = mapper.randomise_head(inputs, seed, params.random_heads)
    return np.mean([correlate_maps(maps, others) for others in heads], axis=0)


def correlate_maps(maps: Maps, others: Maps) -> Float[np.ndarray, " n"]:
    """Correlate ranks map by map; where one has none: 1 if the other has none either, else 0."""
    flat = [m.reshape(len(m), -1) for m in (maps, others)]
    uniform = [(m == m[:, :1]).all(axis=1) for m in flat]
    correlation = correlate_ranks(*flat)
    return np.where(uniform[0] | uniform[1], 1.0 * (uniform[0] & uniform[1]), correlation)
