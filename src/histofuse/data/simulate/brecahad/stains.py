"""How a case looks: its stains, its scanner, and how its nuclei vary from other cases'."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from histofuse.data.simulate.brecahad.noise import Field, smooth_noise

# Optical density (base 10) of the dyes in red, green and blue, at unit amount.
# Source: read off dark nuclei and collagen of BreCaHAD frames.
HAEMATOXYLIN = np.array([0.60, 0.73, 0.30])
EOSIN = np.array([0.17, 0.90, 0.34])


@dataclass(frozen=True)
class CaseLook:
    """One case's stain, scanner and nuclei."""

    # (2, 3) optical density in RGB of haematoxylin and eosin at unit amount
    stains: NDArray[np.float64]
    amounts: NDArray[np.float64]  # (2,) how heavily the slide took each dye; 1 is usual
    white: NDArray[np.float64]  # (3,) intensity of the empty slide, of 255
    blur_px: float  # standard deviation of the optical blur
    noise: float  # standard deviation of the camera's noise, of 255
    nuclear_scale: float  # size of nuclei against the usual
    # spread of tumour nuclei in size and outline, as a coefficient of variation
    pleomorphism: float
    vesicular: float  # share of tumour nuclei that are open, with rim and nucleoli
    condensed: float  # share of tumour nuclei that are dark and shrunken, and so resemble mitoses
    contrast: float  # how much darker than the usual tumour nucleus condensed chromatin is
    fat: float  # mean number of fat cells in a frame
    lumens: float  # mean number of lumens in a frame


def draw_case_look(rng: Generator) -> CaseLook:
    """Draw the look of one case."""
    tilt = rng.normal(0, 0.045, (2, 3))
    return CaseLook(
        stains=_unit_rows(np.stack((HAEMATOXYLIN, EOSIN)) + tilt),
        amounts=np.exp(rng.normal([0.0, -0.15], [0.16, 0.22])),
        white=np.clip(rng.normal(245, 3.5) + rng.normal(0, 3.0, 3), 228, 254),
        blur_px=rng.uniform(0.7, 1.5),
        noise=rng.uniform(0.8, 2.6),
        nuclear_scale=float(np.exp(rng.normal(0, 0.12))),
        pleomorphism=rng.uniform(0.10, 0.28),
        vesicular=rng.beta(3, 3),
        condensed=rng.uniform(0.08, 0.20),
        contrast=rng.uniform(0.85, 1.15),
        fat=rng.gamma(0.8, 2.0),
        lumens=rng.gamma(1.2, 1.2),
    )


def soften_look(look: CaseLook, variation: float) -> CaseLook:
    """Move a look towards the mean look; of its difference a share of `variation` is left."""
    mean = _find_mean_look()
    return CaseLook(**{
        name: (1 - variation) * mean[name] + variation * value for name, value in vars(look).items()
    })  # fmt: skip


@cache
def _find_mean_look() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    looks = [vars(draw_case_look(rng)) for _ in range(1000)]
    return {name: np.mean([look[name] for look in looks], axis=0) for name in looks[0]}


def develop(haematoxylin: Field, eosin: Field, look: CaseLook, rng: Generator) -> NDArray[np.uint8]:
    """Turn (height, width) amounts of dye into the frame, (height, width, 3) RGB, of a scanner.

    Beer and Lambert: each dye takes away its share of the light; then come uneven illumination, the
    optics' blur and the camera's noise.
    """
    shape = haematoxylin.shape
    dyes = [
        gaussian_filter(field * np.float32(amount), look.blur_px, truncate=3.0)
        for field, amount in zip((haematoxylin, eosin), look.amounts, strict=True)
    ]
    light = 1 + np.float32(0.015) * smooth_noise(rng, shape, max(shape) / 2)
    frame = np.empty((*shape, 3), np.uint8)
    for channel in range(3):
        density = sum(
            np.float32(np.log(10) * stain[channel]) * dye
            for stain, dye in zip(look.stains, dyes, strict=True)
        )
        value = np.exp(-density) * light * np.float32(look.white[channel])
        value += np.float32(look.noise) * rng.standard_normal(shape, dtype=np.float32)
        frame[..., channel] = np.clip(value + 0.5, 0, 255)
    return frame


def _unit_rows(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.maximum(matrix, 0.02)
    return positive / np.linalg.norm(positive, axis=1, keepdims=True)
