"""Frames with dots and splits, at the resolution of patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from histofuse.core.artifacts import load_json
from histofuse.core.errors import InputError
from histofuse.core.progress import track
from histofuse.core.tables import read_table
from histofuse.data.brecahad import ANNOTATIONS, FRAMES
from histofuse.data.images.resolution import find_factors, resample
from histofuse.data.images.tiff import read_rgb
from histofuse.data.splits import PATCH_SPLITS
from histofuse.detection.crops import DottedFrame
from histofuse.detection.finder import reduce_pixels
from histofuse.params.data import DataParams, FrameParams


@dataclass(frozen=True)
class FrameData:
    """Annotated frames."""

    table: pd.DataFrame  # ``frame_id``, ``case_id``, ``split``, by frame
    files: Mapping[str, Path]  # frame to its TIFF file
    factors: Mapping[str, float]  # frame to how many times as many pixels a side it gets
    # ``frame_id``, ``case_id``, ``x_px``, ``y_px``, ``label``; in pixels of these
    dots: pd.DataFrame
    classes: list[str]  # in order
    source: str  # ``simulated`` or the data set
    mpp: float | None  # micrometres per pixel, the factors applied; None if unknown
    reading: FrameParams

    def list_frames(self, *splits: str) -> list[str]:
        """List the frames of some splits."""
        return self.table.loc[self.table["split"].isin(splits), "frame_id"].tolist()

    def read(self, frame: str) -> UInt8[np.ndarray, "height width 3"]:
        """Read a frame; one without tissue is read like others.

        Raises InputError if it cannot be decoded.
        """
        pixels = read_rgb(self.files[frame], self.reading, look=False).rgb
        slide = resample(pixels, self.factors[frame])
        return slide.read_region(0, 0, *slide.shapes[0])

    def reduce(self, frames: Sequence[str], factor: int) -> list[DottedFrame]:
        """Read frames, reduced, with their dots."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        reduced = []
        for frame in track(frames, "reading frames", total=len(frames)):
            dots = self.dots[self.dots["frame_id"] == frame]
            places = dots[["x_px", "y_px"]].to_numpy(np.float32) / np.float32(factor)
            labels = dots["label"].map(numbers).to_numpy(np.int64)
            reduced.append(DottedFrame(reduce_pixels(self.read(frame), factor), places, labels))
        return reduced


def load_frames(tables: Path, splits: Path, data: DataParams, mpp: float | None) -> FrameData:
    """Load annotated frames.

    A frame is of the split of its patches; where these are of several, of that of most of them. One
    without patches is of the split of its case, and of none where its case has none.

    `tables` is the folder of annotations, `splits` a `data.splits.PATCH_SPLITS` table, `mpp` the
    resolution of patches, None if pixels are taken as they are. Raises InputError if a file is
    missing or breaks its contract, a split has no frames, or the resolution of a frame is not known
    but needed.
    """
    frames = read_table(tables / "frames.parquet", FRAMES)
    dots = read_table(tables / "annotations.parquet", ANNOTATIONS)
    meta = load_json(tables / "meta.json")
    patches = read_table(splits, PATCH_SPLITS)
    table = frames[["frame_id", "case_id"]].assign(split=_find_splits(frames, patches))
    if missing := sorted({"train", "validation", "test"} - set(table["split"])):
        raise InputError.of(splits, f"no frame is in {', '.join(missing)}", "frames in each split")
    declared = None if data.mpp == "none" else data.mpp
    files = {
        str(frame): Path(data.brecahad) / file
        for frame, file in frames[["frame_id", "file"]].itertuples(index=False)
    }
    factors = find_factors(files, mpp, declared)
    scale = dots["frame_id"].map(factors)
    dots = dots.assign(x_px=dots["x_px"] * scale, y_px=dots["y_px"] * scale)
    return FrameData(
        table=table,
        files=files,
        factors=factors,
        dots=dots[["frame_id", "case_id", "x_px", "y_px", "label"]],
        classes=meta["classes"],
        source=meta["source"],
        mpp=declared if mpp is None else mpp,
        reading=data.frames,
    )


def _find_splits(frames: pd.DataFrame, patches: pd.DataFrame) -> pd.Series:
    most = {
        key: patches.groupby(key)["split"].agg(lambda splits: splits.mode().iloc[0])
        for key in ("frame_id", "case_id")
    }
    of_case = frames["case_id"].map(most["case_id"])
    return frames["frame_id"].map(most["frame_id"]).fillna(of_case).fillna("none")
