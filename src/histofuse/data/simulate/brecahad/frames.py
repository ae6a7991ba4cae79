"""Simulated BreCaHAD: frames and annotations in the published format, from a seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import gammaincinv

from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.privacy import SIMULATED_MARKER
from histofuse.core.progress import track
from histofuse.core.seeding import make_rng
from histofuse.data.simulate.brecahad.blobs import Textures, draw_blob
from histofuse.data.simulate.brecahad.noise import smooth_noise
from histofuse.data.simulate.brecahad.nuclei import (
    SAMPLERS,
    Place,
    Sampler,
    sample_ghost,
    sample_red_cell,
)
from histofuse.data.simulate.brecahad.stains import CaseLook, develop, draw_case_look
from histofuse.data.simulate.brecahad.tissue import (
    Layout,
    Points,
    draw_layout,
    place_points,
    stain_tissue,
)
from histofuse.params.simulation import HistologySimulationParams

NOTICE = "Simulated by histofuse. No tissue, no patient."

_STREAM = "simulate_brecahad"
_APOPTOSIS_FRACTION = 0.02
# Shape of the gamma distribution of mitoses over cases: 0.4 leaves 3 to 4 cases of 10 without any.
_MITOTIC_SHAPE = 0.4
_MOST_MITOTIC = 0.5  # of the nuclei of a frame
_NEST_AREA_PX2 = 6200  # of nest for each nucleus in it, at usual size
_JITTER_PX = (2.0, 5.0)  # how far an annotator's dot lies from the nucleus' centre
_KEYS = ("mitosis", "non_mitosis", "apoptosis", "tumor", "non_tumor", "lumen", "non_lumen")


@dataclass(frozen=True)
class FramePlan:
    """What one frame shall hold."""

    frame_id: str  # such as ``Case_3-02``
    case: int
    counts: Mapping[str, int]  # BreCaHAD key to number of nuclei


def simulate_brecahad(params: HistologySimulationParams, seed: int, folder: Path) -> dict[str, int]:
    """Write a simulated BreCaHAD in the place of `folder`; count the annotations of each key."""
    plans = plan_frames(params, seed)
    with replacing_folder(folder) as temporary:
        (temporary / "images").mkdir()
        (temporary / "groundTruth").mkdir()
        frames = track(plans, "simulating frames")
        counts = [write_frame(plan, params, seed, temporary) for plan in frames]
        origin = {"source": "simulated", "notice": NOTICE, "seed": seed}
        write_json({**origin, "params": params.model_dump()}, temporary / SIMULATED_MARKER)
    return {key: sum(c[key] for c in counts) for key in _KEYS}


def plan_frames(params: HistologySimulationParams, seed: int) -> list[FramePlan]:
    """Share out nuclei over cases and frames.

    Mitoses are uneven over cases, as in BreCaHAD, where 7 of 17 have none and one has 42 %: a
    case's share is a quantile of a gamma distribution. The quantiles are evenly spaced and dealt
    out at random, so every seed has the same number of cases with many.
    """
    rng = make_rng(seed, _STREAM, "plan")
    density = rng.uniform(0.75, 1.25, params.cases)
    density /= density.mean()
    mitoses = rng.permutation(_count_mitoses(params))
    plans = []
    for case in range(1, params.cases + 1):
        nuclei = params.nuclei_per_frame * density[case - 1]
        even = np.full(params.frames_per_case, 1 / params.frames_per_case)
        for frame, planned in enumerate(rng.multinomial(mitoses[case - 1], even), start=1):
            mitosis = min(planned, int(nuclei * _MOST_MITOTIC))
            non_tumour = rng.poisson(nuclei * params.non_tumour_fraction)
            tumour = max(0, rng.poisson(nuclei) - mitosis - non_tumour)
            apoptosis = rng.poisson(nuclei * _APOPTOSIS_FRACTION)
            drawn = {"mitosis": mitosis, "apoptosis": apoptosis, "tumor": tumour}
            counts = {key: int(n) for key, n in {**drawn, "non_tumor": non_tumour}.items()}
            plans.append(FramePlan(f"Case_{case}-{frame:02d}", case, counts))
    return plans


def _count_mitoses(params: HistologySimulationParams) -> NDArray[np.int64]:
    middles = (np.arange(params.cases) + 0.5) / params.cases
    shares = gammaincinv(_MITOTIC_SHAPE, middles)
    nuclei = params.cases * params.frames_per_case * params.nuclei_per_frame
    total = nuclei * params.mitosis_fraction
    return np.round(total * shares / shares.sum()).astype(np.int64)


def write_frame(
    plan: FramePlan, params: HistologySimulationParams, seed: int, folder: Path
) -> dict[str, int]:
    """Render a frame and write its TIFF and JSON; return the number of annotations a key."""
    import tifffile

    look = draw_case_look(make_rng(seed, _STREAM, "look", plan.case))
    rng = make_rng(seed, _STREAM, "frame", plan.frame_id)
    shape = params.height_px, params.width_px
    frame, centres = render_frame(plan, look, shape, rng)
    path = folder / "images" / f"{plan.frame_id}.tif"
    tifffile.imwrite(
        path, frame, photometric="rgb", description=NOTICE, metadata=None, software="histofuse"
    )
    annotation = _annotate(centres, shape, rng)
    write_json(annotation, folder / "groundTruth" / f"{plan.frame_id}.json")
    return {key: len(points) for key, points in annotation.items()}


def render_frame(
    plan: FramePlan, look: CaseLook, shape: tuple[int, int], rng: Generator
) -> tuple[NDArray[np.uint8], dict[str, Points]]:
    """Render one frame, (height, width, 3) RGB, and each key's true centres, (n, 2) pixels."""
    cells = plan.counts["tumor"] + plan.counts["mitosis"] + plan.counts["apoptosis"]
    area = cells * _NEST_AREA_PX2 * look.nuclear_scale**2
    share = float(np.clip(area / (shape[0] * shape[1]), 0.12, 0.8))
    layout = draw_layout(rng, shape, share, look)
    centres = _place_cells(plan, look, layout, rng)
    in_nests = np.concatenate([centres[key] for key in ("tumor", "mitosis", "apoptosis")])
    nest, spacing = (layout.depth_px > 8) & (layout.hole_px < -10), 30 * look.nuclear_scale
    count = len(in_nests) // 2
    ghosts = place_points(rng, layout, nest, count, spacing_px=spacing, taken=in_nests)

    textures = Textures(smooth_noise(rng, shape, 1.8), smooth_noise(rng, shape, 4.2))
    dyes = stain_tissue(rng, layout, np.concatenate((in_nests, ghosts)), textures.fine)

    def draw(points: Points, sampler: Sampler) -> None:
        for (x, y), direction in zip(points, layout.fibre_direction(points), strict=True):
            for blob in sampler(rng, look, Place(x, y, direction)):
                draw_blob(blob, dyes, textures, rng)

    draw(_place_red_cells(layout, rng), sample_red_cell)
    draw(ghosts, sample_ghost)
    for key in ("non_tumor", "tumor", "apoptosis", "mitosis"):
        draw(centres[key], SAMPLERS[key])
    return develop(dyes[0], dyes[1], look, rng), {**centres, "lumen": layout.lumens}


def _place_cells(
    plan: FramePlan, look: CaseLook, layout: Layout, rng: Generator
) -> dict[str, Points]:
    """Put dividing, dying and tumour cells into the nests and the others into the stroma."""
    tissue = layout.hole_px < -10
    nest = (layout.depth_px > 8) & tissue
    # A few lymphocytes have entered the nests.
    elsewhere = np.where(rng.random() < 0.5, layout.depth_px < -10, layout.depth_px < 25) & tissue
    where = {"mitosis": (nest, 62), "apoptosis": (nest, 48), "tumor": (nest, 48)}
    where["non_tumor"] = (elsewhere, 28)
    centres: dict[str, Points] = {}
    taken = np.zeros((0, 2))
    for key, (allowed, spacing) in where.items():
        gap, count = spacing * look.nuclear_scale, plan.counts[key]
        centres[key] = place_points(rng, layout, allowed, count, spacing_px=gap, taken=taken)
        taken = np.concatenate((taken, centres[key]))
    return centres


def _place_red_cells(layout: Layout, rng: Generator) -> Points:
    stroma, none = (layout.depth_px < -15) & (layout.hole_px < 0), np.zeros((0, 2))
    clusters = int(rng.poisson(1.2))
    centres = place_points(rng, layout, stroma, clusters, spacing_px=100.0, taken=none)
    cells = [centre + rng.normal(0, 16, (rng.integers(2, 9), 2)) for centre in centres]
    return np.concatenate([none, *cells])


def _annotate(
    centres: Mapping[str, Points], shape: tuple[int, int], rng: Generator
) -> dict[str, list[dict[str, float]]]:
    """Dots as an annotator sets them: near the centres, as fractions of width and height."""
    annotation: dict[str, list[dict[str, float]]] = {key: [] for key in _KEYS}
    for key, points in centres.items():
        fractions = np.clip(place_dots(points, rng) / (shape[1], shape[0]), 0, 1).round(6)
        annotation[key] = [{"x": x, "y": y} for x, y in fractions.tolist()]
    return annotation


def place_dots(centres: Points, rng: Generator) -> Points:
    """Place an annotator's dots, a few pixels from the centres of nuclei."""
    distance = rng.uniform(*_JITTER_PX, len(centres))
    angle = rng.uniform(0, 2 * np.pi, len(centres))
    return centres + distance[:, None] * np.column_stack((np.cos(angle), np.sin(angle)))
