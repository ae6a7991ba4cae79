"""Nuclei of frames by a detector, where no points are given, and its measured errors."""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import collect_faults
from histofuse.core.progress import report, track
from histofuse.data.images.pixels import require_light
from histofuse.data.images.resolution import resample
from histofuse.data.images.tiff import read_rgb
from histofuse.evaluation.mitotic_counts import MitosisErrors
from histofuse.serving.pictures.frames import FrameSource

DETECTION_METRICS: Final = Path("reports/detection/metrics.json")


def find_points(frames: FrameSource, finder: Any) -> pd.DataFrame:
    """Find the nuclei of frames with a `NucleusFinder`; frames without any are reported.

    Returns ``case_id, frame_id, x_px, y_px, score``, in pixels of the frame. Raises InputError with
    the frames that cannot be read or are black.
    """
    parts = [pd.DataFrame({"frame_id": [], "x_px": [], "y_px": [], "score": []})]
    with collect_faults() as faults:
        for frame, path in track(frames.files.items(), "finding nuclei", total=len(frames.files)):
            with faults.catching():
                pixels = read_rgb(path, frames.reading, look=False).rgb
                shown = require_light(pixels, path)
                slide = resample(pixels, frames.factors[frame])
                whole = slide.read_region(0, 0, *slide.shapes[0])
                found = finder.find(whole) if shown else parts[0]
                if found.empty:
                    why = "no nuclei found" if shown else "no tissue, so no nuclei"
                    report(f"{path.name}: {why}")
                found = found[["x_px", "y_px", "score"]]
                found[["x_px", "y_px"]] /= frames.factors[frame]
                parts.append(found.assign(frame_id=frame))
    table = pd.concat([part for part in parts if len(part)] or parts)
    table["case_id"] = [frames.cases[frame] for frame in table["frame_id"]]
    return table[["case_id", "frame_id", "x_px", "y_px", "score"]].reset_index(drop=True)


def load_errors(
    detector: Path, image: str, metrics: Path = DETECTION_METRICS
) -> MitosisErrors | None:
    """Load a detector's errors on mitoses of all test frames, as ``evaluate_detector`` counted.

    None if that stage has not run, or not with this detector and the image model of this name.
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
