"""The whole chain on test frames: nuclei found, then classified, against the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, UInt8
from scipy.ndimage import gaussian_filter

from histofuse.core.artifacts import load_json, render, write_json
from histofuse.core.bundle import PREDICTIONS, open_bundle
from histofuse.core.errors import BundleError
from histofuse.core.progress import track
from histofuse.core.tables import read_table
from histofuse.data.cutting import cut_windows
from histofuse.detection.finder import THRESHOLD
from histofuse.detection.frames import FrameData
from histofuse.detection.peaks import find_peaks
from histofuse.detection.pictures import choose_frame, draw_matched
from histofuse.detection.scoring import (
    FROC_RATES,
    Detections,
    compute_froc,
    count_classes,
    measure_detections,
    measure_gain,
    split_hot_spots,
)
from histofuse.detection.train import CANDIDATES
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval
from histofuse.features.stain import REFERENCE, find_normaliser, measure_density
from histofuse.models.backbones import ImageModel, load_image_model
from histofuse.training.decision import choose_focus_class, load_decision

METRICS: Final = "metrics.json"
MATCHED: Final = "matched.parquet"
PICTURE: Final = "figures/detector/found_nuclei.png"
_PAIRS: Final = ("frame_id", "x_px", "y_px", "score", "label")
BASELINE: Final = "haematoxylin"
_BATCH: Final = 256
_HOT_SPOT: Final = 10.0  # reach, in radii of matching
# Of the baseline, dark spots of haematoxylin.
_SMOOTHING_PX: Final = 10.0
_SPACING_PX: Final = 12.0
_QUANTILE: Final = 0.8


def evaluate_detector(
    data: FrameData, bundle: Path, image: Path, radius: float, bootstrap: Bootstrap
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Evaluate on the test frames.

    `image` is the model of patches that classifies what is found, `radius` that of matching, in
    pixels. Returns what `METRICS` holds, and the pairs of the whole chain. Raises BundleError if a
    bundle is altered, or the model of patches is of another resolution.
    """
    opened = open_bundle(bundle)
    frames = data.table[data.table["split"] == "test"]
    candidates = read_table(bundle / PREDICTIONS, CANDIDATES)
    candidates = candidates[candidates["split"] == "test"].reset_index(drop=True)
    names = [f"p_{name}" for name in data.classes]
    decided = candidates[names].to_numpy().argmax(1)
    candidates["prediction"] = np.array(data.classes, dtype=object)[decided]
    own = Detections(
        frames,
        candidates,
        data.dots[data.dots["frame_id"].isin(frames["frame_id"])],
        load_json(bundle / THRESHOLD)["score"],
        radius,
    )
    chain = replace(own, candidates=classify_candidates(data, candidates, image))
    spots = replace(own, candidates=find_spots(data, frames["frame_id"].tolist()), threshold=0.0)
    focus = choose_focus_class(data.classes, data.dots["label"])
    measured = {
        "chain": measure_detections(chain, data.classes, bootstrap),
        "own_classes": measure_detections(own, data.classes, bootstrap),
        BASELINE: measure_detections(spots, data.classes, bootstrap),
    }
    named = {"detector": opened.digest, "image_model": image.name, "focus_class": focus}
    return {
        **_tell_models(bundle.name, opened.digest, measured["chain"]),
        **named,
        "source": data.source,
        "cases": int(frames["case_id"].nunique()),
        "frames": len(frames),
        "dots": len(own.dots),
        "radius_px": own.radius_px,
        "mpp": data.mpp,
        "threshold": own.threshold,
        "gain": render(measure_gain(chain, spots, bootstrap)),
        "arms": render(measured),
        "froc": {
            "false_per_frame": FROC_RATES,
            "chain": compute_froc(chain, focus),
            "own_classes": compute_froc(own, focus),
        },
        "counts": count_classes(chain.matched, frames, focus),
        "regions": split_hot_spots(chain.matched, focus, _HOT_SPOT * own.radius_px),
    }, chain.matched


def _tell_models(name: str, digest: str, intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Tell the metrics of the registered model, as those of other models are told."""
    defined = {f"test/{m}": i for m, i in intervals.items() if i.value is not None}
    return {
        "declared": {name: {"digest": digest}},
        "models": {name: {metric: i.value for metric, i in defined.items()}},
        "intervals": {"models": {name: render(defined)}},
    }


def find_spots(data: FrameData, frames: Sequence[str]) -> pd.DataFrame:
    """Find the nuclei of frames by the baseline."""
    parts = [find_dark_spots(data.read(frame)).assign(frame_id=frame) for frame in frames]
    return pd.concat(parts, ignore_index=True)


def classify_candidates(data: FrameData, candidates: pd.DataFrame, image: Path) -> pd.DataFrame:
    """Classify candidates by a model of patches, which replaces the detector's own classes.

    Raises BundleError if the model is of patches of another resolution.
    """
    bundle = open_bundle(image, row_level=False)
    model, decision = load_image_model(bundle), load_decision(image)
    mpp, spec = data.mpp, model.spec
    if mpp is not None and spec.mpp is not None and abs(spec.mpp / mpp - 1) > 0.01:
        raise BundleError(
            f"{image}: was trained at {spec.mpp:g} µm per pixel, expected {mpp:g} as of the frames "
            "that nuclei are found in. Run dvc repro."
        )
    normalise = find_normaliser(bundle.config["stain_normalisation"])
    side = spec.patch_px + 2 * spec.margin_px
    parts = []
    grouped = candidates.groupby("frame_id", sort=False)
    for frame, rows in track(grouped, "classifying nuclei", total=len(grouped)):
        pixels = data.read(str(frame))
        pixels = pixels if normalise is None else normalise(pixels)
        windows = np.empty((len(rows), side, side, 3), np.uint8)
        cut_windows(pixels, rows["x_px"].to_numpy(), rows["y_px"].to_numpy(), windows)
        probabilities, decided = decision.decide(_compute_logits(model, windows))
        columns = {f"p_{name}": probabilities[:, n] for n, name in enumerate(spec.classes)}
        answer = np.array(spec.classes, dtype=object)[decided]
        parts.append(rows.assign(**columns, prediction=answer))
    return pd.concat(parts) if parts else candidates


@torch.inference_mode()
def _compute_logits(
    model: ImageModel, windows: UInt8[np.ndarray, "n side side 3"]
) -> Float32[np.ndarray, "n classes"]:
    parts = torch.from_numpy(windows).split(_BATCH)
    return torch.cat([model(model.prepare(part)) for part in parts]).numpy()


def write_evaluation(
    metrics: Mapping[str, Any], matched: pd.DataFrame, data: FrameData, folder: Path
) -> None:
    """Write the metrics, the pairs, and a picture of the frame with most of the class in focus."""
    write_json(metrics, folder / METRICS)
    kept = [c for c in (*_PAIRS, "prediction") if c in matched]
    matched[kept].to_parquet(folder / MATCHED)
    (folder / PICTURE).parent.mkdir(parents=True)
    frame = choose_frame(matched, metrics["focus_class"])
    draw_matched(data.read(frame), matched[matched["frame_id"] == frame], folder / PICTURE)


def find_dark_spots(pixels: UInt8[np.ndarray, "height width 3"]) -> pd.DataFrame:
    """Find local maxima of smoothed haematoxylin above the 0.8 quantile of the image.

    Returns ``x_px``, ``y_px`` and ``score``, the rank of a spot's darkness.
    """
    amounts = np.linalg.pinv(REFERENCE.stains)[:, 0].astype(np.float32)
    haematoxylin = gaussian_filter(measure_density(pixels) @ amounts, _SMOOTHING_PX)
    peaks = find_peaks(haematoxylin, _SPACING_PX, float(np.quantile(haematoxylin, _QUANTILE)))
    darkness = haematoxylin[peaks.rows, peaks.columns]
    rank = darkness.argsort().argsort() / max(1, len(darkness))
    return pd.DataFrame({"x_px": peaks.x, "y_px": peaks.y, "score": rank}).astype("float64")
