"""Soft-edged bodies of dye, which simulated cells are made of."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.data.simulate.brecahad.noise import Field

_HARMONICS = np.arange(2, 6, dtype=np.float32)  # of the outline; the first would only shift it


@dataclass(frozen=True)
class Blob:
    """A soft-edged, roughly elliptic body."""

    x: float  # x and y of the centre, in pixels
    y: float
    a: float  # a and b, semi-axes in pixels
    b: float
    angle: float  # of the first axis, in radians
    haematoxylin: float  # amount of each dye inside
    eosin: float
    opacity: float = 1.0  # how much of what lies beneath is covered; 1 covers all
    edge_px: float = 2.0  # width of the edge; large when out of focus
    wobble: float = 0.0  # spread of the outline against the ellipse
    roughness_px: float = 0.0  # how far fine irregularities push the outline
    clumps: float = 0.0  # how much coarse chromatin varies the dye, as a share of it
    grain: float = 0.0  # how much fine chromatin varies the dye, as a share of it
    rim: float = 0.0  # extra haematoxylin along the membrane
    nucleoli: int = 0


@dataclass(frozen=True)
class Textures:
    """Noise fields of the whole frame, from which blobs cut their chromatin."""

    fine: Field  # (height, width), about 2 px wide
    coarse: Field  # (height, width), about 5 px wide


def draw_blob(blob: Blob, dyes: NDArray[np.float32], textures: Textures, rng: Generator) -> None:
    """Draw a blob, which may lie partly outside, over (2, height, width) dyes, in place."""
    # Drawn before the box is known, so that a blob outside takes as many numbers as one inside.
    harmonics = rng.normal(0, blob.wobble / _HARMONICS), rng.uniform(0, 2 * np.pi, len(_HARMONICS))
    nucleoli = rng.uniform(-0.5, 0.5, (blob.nucleoli, 2))
    corner = rng.random(2)
    box = _box_around(blob, dyes.shape[1:])
    if box is None:
        return
    u, v = _local_axes(blob, box)
    top, left = (corner * (np.array(textures.fine.shape) - u.shape)).astype(int)
    cut = slice(top, top + u.shape[0]), slice(left, left + u.shape[1])
    fine, coarse = textures.fine[cut], textures.coarse[cut]
    inside_px = _distance_inside(blob, u, v, harmonics)
    inside_px += np.float32(blob.roughness_px) * (coarse + np.float32(0.5) * fine)

    filling = _fill(blob, inside_px, fine, coarse)
    for x, y in nucleoli:
        squared = np.square(u - np.float32(x * blob.a)) + np.square(v - np.float32(y * blob.b))
        spot = np.exp(-np.square(squared) / np.float32(90))
        filling[0] += np.float32(0.30) * spot
        filling[1] += np.float32(0.16) * spot
    alpha = np.clip(inside_px / np.float32(blob.edge_px) + np.float32(0.5), 0, 1)
    alpha *= np.float32(blob.opacity)
    view = dyes[:, box[0], box[1]]
    view += alpha * (filling - view)


def _box_around(blob: Blob, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    reach = max(blob.a, blob.b) * (1 + 1.5 * blob.wobble) + 2 * blob.roughness_px + blob.edge_px + 2
    top, bottom = max(0, int(blob.y - reach)), min(shape[0], int(blob.y + reach) + 1)
    left, right = max(0, int(blob.x - reach)), min(shape[1], int(blob.x + reach) + 1)
    return None if top >= bottom or left >= right else (slice(top, bottom), slice(left, right))


def _local_axes(blob: Blob, box: tuple[slice, slice]) -> tuple[Field, Field]:
    dy = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] - np.float32(blob.y)
    dx = np.arange(box[1].start, box[1].stop, dtype=np.float32)[None, :] - np.float32(blob.x)
    cos, sin = np.float32(np.cos(blob.angle)), np.float32(np.sin(blob.angle))
    return dx * cos + dy * sin, dy * cos - dx * sin


def _distance_inside(
    blob: Blob, u: Field, v: Field, harmonics: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> Field:
    """How far inside the wavy outline each pixel lies, in pixels; negative outside."""
    outline = np.ones_like(u)
    if blob.wobble:
        theta = np.arctan2(v * np.float32(blob.a / blob.b), u)
        for amplitude, phase, harmonic in zip(*harmonics, _HARMONICS, strict=True):
            outline += np.float32(amplitude) * np.cos(harmonic * theta + np.float32(phase))
    reach = np.hypot(u / np.float32(blob.a), v / np.float32(blob.b))
    return (outline - reach) * np.float32(min(blob.a, blob.b))


def _fill(blob: Blob, inside_px: Field, fine: Field, coarse: Field) -> NDArray[np.float32]:
    clumps = np.float32(blob.clumps) * np.clip(coarse, -1.5, 2)
    chromatin = np.maximum(1 + clumps + np.float32(blob.grain) * fine, np.float32(0.1))
    filling = np.empty((2, *inside_px.shape), np.float32)
    filling[0] = np.float32(blob.haematoxylin) * chromatin
    filling[1] = blob.eosin
    if blob.rim:
        filling[0] += np.float32(blob.rim) * np.exp(-np.square((inside_px - 1.5) / 1.8))
    return filling
