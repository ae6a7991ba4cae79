"""Mitoses of a slide: hot spot, interval from measured errors, and Nottingham's score."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float

_GRID_UM: Final = 50.0
_DRAWS: Final = 20_000
_FIELDS: Final = 10
_LEAST_FIELDS: Final = 5  # of tissue, for a score
# Source: Elston and Ellis, Histopathology 1991: 10 and 20 mitoses in ten fields of 0.59 mm, which
# they give as 0.274 mm²; the protocol of the College of American Pathologists scales by the area.
_FIELD_MM2: Final = 0.274
_LIMITS: Final = (10, 20)


@dataclass(frozen=True)
class MitosisErrors:
    """Errors on mitoses of unannotated test images: nuclei found, then classified."""

    found: int  # mitoses that were answered as such
    missed: int  # others
    false: int  # answers without a mitosis


@dataclass(frozen=True)
class HotSpot:
    """The circle with most mitoses."""

    x_um: float
    y_um: float
    radius_um: float
    mitoses: int  # found in it
    tissue_mm2: float  # area of the tissue in it

    @property
    def per_mm2(self) -> float:
        """Mitoses per square millimetre of its tissue."""
        return self.mitoses / self.tissue_mm2 if self.tissue_mm2 else 0.0


def find_hot_spot(
    places_um: Float[np.ndarray, "n 2"],
    tissue: Bool[np.ndarray, "rows columns"],
    mpp: float,
    area_mm2: float,
) -> HotSpot | None:
    """Find the circle, on a grid of 50 µm, with most mitoses, then most tissue; None without it."""
    from scipy.signal import fftconvolve
    from scipy.spatial import KDTree

    if not tissue.any():
        return None
    radius = math.sqrt(area_mm2 * 1e6 / math.pi)
    shape = [math.ceil(side * mpp / _GRID_UM) for side in tissue.shape]
    edges = [np.arange(side + 1) * _GRID_UM for side in shape]
    rows, columns = np.nonzero(tissue)
    covered, _, _ = np.histogram2d((rows + 0.5) * mpp, (columns + 0.5) * mpp, edges)
    reach = math.ceil(radius / _GRID_UM)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = (np.hypot(x, y) * _GRID_UM <= radius).astype(float)
    ground = fftconvolve(covered, disc, mode="same")
    y_um, x_um = ((np.arange(side) + 0.5) * _GRID_UM for side in shape)
    centres = np.stack(np.meshgrid(x_um, y_um), axis=-1)
    counts = KDTree(places_um).query_ball_point(centres, radius, return_length=True)
    best = np.unravel_index((counts + ground / (ground.max() + 1) / 2).argmax(), shape)
    centre = centres[best]
    pixels = np.hypot((columns + 0.5) * mpp - centre[0], (rows + 0.5) * mpp - centre[1]) <= radius
    area = min(area_mm2, float(pixels.sum()) * mpp**2 / 1e6)
    return HotSpot(float(centre[0]), float(centre[1]), radius, int(counts[best]), area)


def estimate_count(
    answered: int, errors: MitosisErrors, confidence: float, seed: int
) -> tuple[float, float, float]:
    """Estimate how many mitoses there are where some were answered.

    Precision and recall are drawn from what their counts on test images leave possible (Jeffreys'
    prior), then how many answers are right, and how many mitoses were missed. Returns the median,
    and the two ends of the interval.
    """
    rng = np.random.default_rng(seed)
    precision = rng.beta(errors.found + 0.5, errors.false + 0.5, _DRAWS)
    recall = rng.beta(errors.found + 0.5, errors.missed + 0.5, _DRAWS)
    right = rng.binomial(answered, precision)
    mitoses = right + rng.negative_binomial(right + 0.5, np.clip(recall, 1e-3, 1))
    low, middle, high = np.quantile(mitoses, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
    return float(middle), float(low), float(high)


def score_mitoses(
    per_mm2: float, field_diameter_mm: float, tissue_mm2: float = math.inf
) -> Literal[1, 2, 3] | None:
    """Give Nottingham's mitotic score; None with less than half the tissue of ten fields."""
    if tissue_mm2 < _LEAST_FIELDS * math.pi * (field_diameter_mm / 2) ** 2:
        return None
    in_fields = count_in_fields(per_mm2, field_diameter_mm)
    scale = math.pi * (field_diameter_mm / 2) ** 2 / _FIELD_MM2
    middle, high = (math.ceil(limit * scale) for limit in _LIMITS)
    if in_fields >= high:
        return 3
    return 2 if in_fields >= middle else 1


def count_in_fields(per_mm2: float, field_diameter_mm: float) -> int:
    """Bring a density to mitoses in ten fields, rounded."""
    return round(per_mm2 * _FIELDS * math.pi * (field_diameter_mm / 2) ** 2)


def describe_hot_spot(
    spot: HotSpot,
    errors: MitosisErrors | None,
    field_diameter_mm: float,
    *,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Describe a hot spot, ready for JSON; without measured errors there is no interval."""
    described = asdict(spot) | {
        "mitoses_per_mm2": spot.per_mm2,
        "in_ten_fields": count_in_fields(spot.per_mm2, field_diameter_mm),
        "field_diameter_mm": field_diameter_mm,
        "mitotic_score": score_mitoses(spot.per_mm2, field_diameter_mm, spot.tissue_mm2),
        "interval": None,
    }
    if errors is None or not spot.tissue_mm2:
        return described
    middle, *ends = (
        count / spot.tissue_mm2 for count in estimate_count(spot.mitoses, errors, confidence, seed)
    )
    described["interval"] = {
        "confidence": confidence,
        "estimate_per_mm2": middle,
        "mitoses_per_mm2": ends,
        "mitotic_score": [score_mitoses(end, field_diameter_mm, spot.tissue_mm2) for end in ends],
        "errors": asdict(errors),
    }
    return described
