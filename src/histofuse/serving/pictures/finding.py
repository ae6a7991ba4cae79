"""The detector that finds nuclei where no points are given, and its measured errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError, collect_faults
from histofuse.core.progress import report, track
from histofuse.data.images.pixels import require_light
from histofuse.data.images.resolution import resample
from histofuse.data.images.tiff import read_rgb
from histofuse.data.points import Points, name_cases
from histofuse.evaluation.mitotic_counts import MitosisErrors
from histofuse.params.data import FrameParams
from histofuse.serving.pictures.slides import Finder

DETECTION_METRICS: Final = Path("reports/detection/metrics.json")


def load_finder(bundle: Path) -> Finder:
    """Load a detector.

    Raises:
        BundleError: If it is altered, or another kind of model.
    """
    from histofuse.detection.finder import NucleusFinder

    return NucleusFinder.load(bundle)


def find_points(
    files: Mapping[str, Path], factors: Mapping[str, float], finder: Finder, reading: FrameParams
) -> Points:
    """Find the nuclei of frames; those without any are named.

    Args:
        files: Frame to its TIFF file.
        factors: Frame to how many times as many pixels a side it has at the detector's resolution.
        finder: The detector.
        reading: How frames are understood.

    Returns:
        The nuclei, with their ``score``; all the files.

    Raises:
        InputError: With the frames that cannot be read or are black.
    """
    parts = [pd.DataFrame({"frame_id": [], "x_px": [], "y_px": [], "score": []})]
    with collect_faults() as faults:
        for frame, path in track(files.items(), "finding nuclei", total=len(files)):
            try:
                pixels = read_rgb(path, reading, look=False).rgb
                shown = require_light(pixels, path)
            except InputError as error:
                faults.faults += error.faults
                continue
            slide = resample(pixels, factors[frame])
            found = finder.find(slide.read_region(0, 0, *slide.shapes[0])) if shown else parts[0]
            if found.empty:
                why = "no nuclei found" if shown else "no tissue, so no nuclei"
                report(f"{path.name}: {why}")
            found = found[["x_px", "y_px", "score"]]
            found[["x_px", "y_px"]] /= factors[frame]
            parts.append(found.assign(frame_id=frame))
    table = name_cases(pd.concat([part for part in parts if len(part)] or parts))
    columns = ["case_id", "frame_id", "x_px", "y_px", "score"]
    return Points(table[columns].reset_index(drop=True), dict(files))


def load_errors(
    detector: Path, image: str, metrics: Path = DETECTION_METRICS
) -> MitosisErrors | None:
    """Load the errors on mitoses of test frames, as stage ``evaluate_detector`` counted them.

    Args:
        detector: Bundle.
        image: Name of the model that classified what was found.
        metrics: What the stage wrote.

    Returns:
        The counts over all test frames; None if they are of other models, or not there.
    """
    if not metrics.is_file():
        return None
    measured = load_json(metrics)
    if (measured["detector"], measured["image_model"]) != (open_bundle(detector).digest, image):
        return None
    regions = measured["regions"].values()
    return MitosisErrors(
        *(sum(region[key] for region in regions) for key in ("found", "missed", "false"))
    )
