"""Patches a second of ``histofuse predict``'s engine, against a plain torch loop.

The peer is the limit: the same fusion model over the same patches, already cut and in memory, with
its patients' embeddings, in batches of the same size, without decoding, cutting,
joining or writing anything. Both must give the same probabilities.
Run: python benchmarks/predict_throughput.py [rounds], in a project that has run.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from histofuse.data.cutting import cut_windows
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.images.tiff import read_rgb
from histofuse.data.points import read_points
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams
from histofuse.serving.pictures.frames import (
    FrameModel,
    FrameSource,
    embed_records,
    predict_frames,
)
from histofuse.serving.predict import open_predictor

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
FRAMES = Path("data/simulated/brecahad")
MODEL = Path("models/fusion_label_blind")
BATCH = 256


def cut_all(points: pd.DataFrame, files: dict[str, Path], side: int) -> np.ndarray:
    parts = []
    for frame, rows in points.groupby("frame_id", sort=False):
        patches = np.empty((len(rows), side, side, 3), np.uint8)
        pixels = read_rgb(files[str(frame)], UNKNOWN).rgb
        cut_windows(pixels, rows["x_px"].to_numpy(), rows["y_px"].to_numpy(), patches)
        parts.append(patches)
    return np.concatenate(parts)


@torch.inference_mode()
def run_loop(model: FrameModel, stored: np.ndarray, patients: np.ndarray) -> np.ndarray:
    predictor, network = model.predictor, model.image.model
    parts = []
    for start in range(0, len(stored), BATCH):
        batch = torch.from_numpy(stored[start : start + BATCH])
        embedded = network.embed(network.prepare(batch)).numpy()
        logits = predictor.model.logits(embedded, patients[start : start + BATCH])
        parts.append(predictor.decision.calibrator.probabilities(logits))
    return np.concatenate(parts)


def main() -> None:
    predictor = open_predictor(MODEL)
    points = read_points(FRAMES, None, load_section(ClassesParams, "classes"), UNKNOWN)
    cases = sorted(set(points.table["case_id"]))
    records = pd.read_parquet("data/ehr/features.parquet").head(len(cases))
    records.index = pd.Index(cases)
    model = FrameModel(predictor, embed_records(predictor, records))
    frames = FrameSource(points.files, UNKNOWN, dict.fromkeys(points.files, 1.0))
    stored = cut_all(points.table, points.files, model.stored_px)
    patients = np.stack([model.embeddings[case] for case in points.table["case_id"]])

    ours, peer = [], []
    for _ in range(ROUNDS + 1):  # the first is a warm-up
        start = time.perf_counter()
        expected = run_loop(model, stored, patients)
        peer.append(time.perf_counter() - start)
        start = time.perf_counter()
        table = pd.concat(predict_frames(model, points.table, frames, BATCH))
        ours.append(time.perf_counter() - start)
    columns = [c for c in table.columns if c.startswith("probability_")]
    np.testing.assert_allclose(table[columns].to_numpy(), expected, atol=1e-6)
    rate, limit = (len(stored) / min(seconds[1:]) for seconds in (ours, peer))
    print(
        f"{len(stored):,} patches of {len(points.files)} frames, {torch.get_num_threads()} threads"
    )
    print(f"plain torch loop: {limit:8,.0f} patches/s")
    print(f"predict:          {rate:8,.0f} patches/s, {rate / limit:.2f} of it; same answers")


if __name__ == "__main__":
    main()
