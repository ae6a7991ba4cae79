"""Simulated tissue: tumour nests in fibrous stroma, with fat, lumens and retraction clefts."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import KDTree

from histofuse.data.simulate.brecahad.noise import Field, enlarge, smooth_noise, wavy_profile
from histofuse.data.simulate.brecahad.stains import CaseLook

COARSE = 4  # the layout is drawn at a quarter of the resolution
_REACH_PX = 60.0  # distances to a border are not followed further
_PROFILE = 1 << 14

Points = NDArray[np.float64]  # (n, 2) x and y in pixels


@dataclass(frozen=True)
class Layout:
    """Where things lie, on the coarse grid (every fourth pixel)."""

    shape: tuple[int, int]  # height and width of the frame in pixels
    depth_px: Field  # distance to the border of the nests, positive inside them
    # smooth field whose level lines the fibres follow; it rises by about 1 for each pixel across
    # them
    fibre_phase: Field
    hole_px: Field  # distance to the border of the nearest fat cell or lumen, positive inside it
    lumens: Points

    def at(self, field: Field, points: Points) -> NDArray[np.float32]:
        """Read a coarse field at points given in pixels."""
        column, row = (points // COARSE).astype(int).T
        return field[np.minimum(row, field.shape[0] - 1), np.minimum(column, field.shape[1] - 1)]

    def fibre_direction(self, points: Points) -> NDArray[np.float64]:
        """Direction of the fibres at points, in radians."""
        down = np.gradient(self.fibre_phase, axis=0)
        right = np.gradient(self.fibre_phase, axis=1)
        across = np.arctan2(self.at(down, points), self.at(right, points))
        return across.astype(np.float64) + np.pi / 2


def draw_layout(
    rng: Generator, shape: tuple[int, int], nest_share: float, look: CaseLook
) -> Layout:
    """Lay out nests that cover about `nest_share` of the frame, and holes."""
    coarse = (-(-shape[0] // COARSE), -(-shape[1] // COARSE))
    potential = sum(
        np.float32(weight) * smooth_noise(rng, coarse, cell_px / COARSE)
        for cell_px, weight in ((240, 1.0), (110, 0.5), (45, 0.12))
    )
    assert isinstance(potential, np.ndarray)
    level = np.quantile(potential, 1 - nest_share)
    slope = np.hypot(np.gradient(potential, axis=0), np.gradient(potential, axis=1)) / COARSE
    depth = np.clip((potential - level) / (slope + 0.004), -_REACH_PX, _REACH_PX)
    fat = _pick_points(rng, depth < -20, int(rng.poisson(look.fat)))
    lumens = _pick_points(rng, depth > 25, int(rng.poisson(look.lumens)))
    radii = np.concatenate((rng.uniform(45, 120, len(fat)), rng.uniform(16, 45, len(lumens))))
    hole = _distance_into_discs(rng, coarse, np.concatenate((fat, lumens)), radii)
    return Layout(shape, depth.astype(np.float32), _lay_fibres(rng, potential), hole, lumens)


def place_points(
    rng: Generator,
    layout: Layout,
    allowed: NDArray[np.bool_],
    count: int,
    *,
    spacing_px: float,
    taken: Points,
) -> Points:
    """Place (count, 2) points at random, at a distance from each other and from those taken.

    They lie where `allowed`, on the coarse grid; anywhere if nowhere is. `spacing_px` gives way
    where the room is short.
    """
    room = allowed if allowed.any() else np.ones_like(allowed)
    last = np.array([layout.shape[1] - 1.0, layout.shape[0] - 1.0])
    points = list(taken)
    while len(points) < count + len(taken):
        for candidate in np.minimum(_pick_points(rng, room, 8 * count), last):
            if len(points) == count + len(taken):
                break
            gaps = np.square(np.asarray(points) - candidate).sum(axis=1) if points else np.inf
            if np.min(gaps) >= spacing_px**2:
                points.append(candidate)
        spacing_px *= 0.85
    return np.array(points[len(taken) :]).reshape(-1, 2)


def stain_tissue(rng: Generator, layout: Layout, cells: Points, fine: Field) -> NDArray[np.float32]:
    """Stain all but the nuclei: (2, height, width) amounts of haematoxylin and eosin.

    Membranes run between `cells`, the centres of those of the nests; `fine` is noise about 2 px
    wide.
    """
    shape = layout.shape
    depth = enlarge(layout.depth_px, shape, COARSE)
    nest = np.clip(depth / 6 + 0.5, 0, 1)
    uneven = smooth_noise(rng, shape, 14.0)
    broad = smooth_noise(rng, shape, 120.0)
    fibres = _draw_fibres(rng, layout, uneven)
    membranes = enlarge(_draw_membranes(cells, layout.depth_px.shape), shape, COARSE)

    granular = np.float32(0.05) * uneven + np.float32(0.035) * fine
    dyes = np.empty((2, *shape), np.float32)
    dyes[0] = nest * (0.13 + 0.035 * broad) + (1 - nest) * 0.05 + 0.35 * granular
    dyes[1] = nest * (0.15 + 0.12 * membranes + 0.03 * broad) + (1 - nest) * (
        0.22 + 0.10 * fibres + 0.06 * broad
    )
    dyes[1] += granular
    dyes *= _clearance(rng, layout, depth, fibres, broad)
    return np.maximum(dyes, 0, out=dyes)


def _lay_fibres(rng: Generator, potential: Field) -> Field:
    """Let fibres bend around the nests, but run in one direction where none is near."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[: potential.shape[0], : potential.shape[1]].astype(np.float32) * COARSE
    ramp = np.float32(np.cos(angle)) * columns + np.float32(np.sin(angle)) * rows
    waves = smooth_noise(rng, potential.shape, 70 / COARSE)
    return np.float32(95) * potential + np.float32(0.55) * ramp + np.float32(9) * waves


def _draw_fibres(rng: Generator, layout: Layout, uneven: Field) -> Field:
    """Bundles and the fibres in them, in about [-1, 1]."""
    phase = enlarge(layout.fibre_phase, layout.shape, COARSE) + np.float32(1.5) * uneven
    profile = wavy_profile(rng, _PROFILE)
    bundles = _look_up(profile, np.float32(3) * phase)
    return np.float32(0.65) * bundles + np.float32(0.45) * _look_up(profile, np.float32(9) * phase)


def _look_up(profile: NDArray[np.float32], phase: Field) -> Field:
    return np.take(profile, phase.astype(np.int32) & (_PROFILE - 1))


def _draw_membranes(cells: Points, coarse: tuple[int, ...]) -> Field:
    """Membranes half way between neighbouring cells, in [0, 1]."""
    if len(cells) < 2:
        return np.zeros(coarse, np.float32)
    rows, columns = np.mgrid[: coarse[0], : coarse[1]] * COARSE
    near, _ = KDTree(cells).query(np.column_stack((columns.ravel(), rows.ravel())), k=2)
    gap = (near[:, 1] - near[:, 0]).reshape(coarse)
    return np.exp(-np.square(gap / 6)).astype(np.float32)


def _clearance(rng: Generator, layout: Layout, depth: Field, fibres: Field, broad: Field) -> Field:
    """Share of the dye left: none in holes, little in clefts around nests and between fibres."""
    patchy = smooth_noise(rng, layout.shape, 45.0)
    cleft = np.exp(-np.square((depth + 6) / 4.5)) * np.clip(patchy + broad - 0.2, 0, 1)
    loose = np.clip(1.2 * patchy - 1.6 * fibres - 1.3, 0, 1) * (depth < -8)
    hole = np.clip(enlarge(layout.hole_px, layout.shape, COARSE) / 4 + 0.5, 0, 1)
    return (1 - 0.9 * cleft) * (1 - 0.75 * loose) * (1 - 0.985 * hole)


def _pick_points(rng: Generator, allowed: NDArray[np.bool_], count: int) -> Points:
    """Draw points from the allowed places of the coarse grid; none if there is no such place."""
    rows, columns = np.nonzero(allowed)
    if not len(rows) or not count:
        return np.zeros((0, 2))
    chosen = rng.integers(0, len(rows), count)
    return (np.column_stack((columns, rows))[chosen] + rng.random((count, 2))) * COARSE


def _distance_into_discs(
    rng: Generator, coarse: tuple[int, int], centres: Points, radii: NDArray[np.float64]
) -> Field:
    """How deep each place lies inside the nearest disc with a wavy outline, in pixels."""
    depth = np.full(coarse, -_REACH_PX, np.float32)
    rows, columns = np.mgrid[: coarse[0], : coarse[1]].astype(np.float32) * COARSE
    waves = 7 * smooth_noise(rng, coarse, 40 / COARSE)
    for (x, y), radius in zip(centres, radii, strict=True):
        stretch = np.float32(rng.uniform(0.85, 1.18))
        away = np.hypot((columns - np.float32(x)) * stretch, (rows - np.float32(y)) / stretch)
        np.maximum(depth, np.float32(radius) + waves * np.float32(radius / 80) - away, out=depth)
    return np.maximum(depth, -_REACH_PX)
