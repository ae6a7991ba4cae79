"""Stage ``train_detector``: frames, dots and splits -> the bundle of the detector of nuclei."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.detection.frames import load_frames
from histofuse.detection.train import train_detector
from histofuse.params.base import load_section, load_seed
from histofuse.params.data import DataParams
from histofuse.params.detector import DetectorParams
from histofuse.params.patches import PatchParams
from histofuse.tracking.recorder import open_recorder

TABLES = Path("data/annotations")
SPLITS = Path("data/splits/patches.parquet")
OUT = Path("models/detector")


def main() -> None:
    params = load_section(DetectorParams, "detector")
    mpp = load_section(PatchParams, "patches").mpp
    data = load_frames(TABLES, SPLITS, load_section(DataParams, "data"), mpp)
    counts = data.table["split"].value_counts()
    report(f"read {show_count(data.table, 'frames')}, {counts['train']} of them to train on")

    with open_recorder(run_name=OUT.name) as recorder:
        finder = train_detector(data, params, load_seed(), recorder, OUT)
    report(f"wrote {OUT}: nuclei score {finder.threshold:.2f} or more")


if __name__ == "__main__":
    run_stage(main)
