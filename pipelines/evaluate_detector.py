"""Stage ``evaluate_detector``: nuclei of test frames found, classified, and held against dots."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder
from histofuse.core.progress import report
from histofuse.detection.evaluate import BASELINE, evaluate_detector, write_evaluation
from histofuse.detection.frames import load_frames
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.data import DataParams
from histofuse.params.detector import DetectorParams, find_radius
from histofuse.params.fusion import EncodersParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.patches import PatchParams

TABLES = Path("data/annotations")
SPLITS = Path("data/splits/patches.parquet")
MODELS = Path("models")
OUT = Path("reports/detection")


def main() -> None:
    radius_px = load_value(DetectorParams, "detector.radius_px")
    radius_um = load_value(DetectorParams, "detector.radius_um")
    mpp = load_section(PatchParams, "patches").mpp
    data = load_frames(TABLES, SPLITS, load_section(DataParams, "data"), mpp)
    image = MODELS / load_section(EncodersParams, "encoders").image
    radius = find_radius(radius_px, radius_um, data.mpp)
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    metrics, matched = evaluate_detector(data, MODELS / "detector", image, radius, bootstrap)
    with replacing_folder(OUT) as folder:
        write_evaluation(metrics, matched, data, folder)
    f1 = metrics["arms"]["chain"]["f1/nuclei"]["value"]
    baseline = metrics["arms"][BASELINE]["f1/nuclei"]["value"]
    report(f"wrote {OUT}: F1 of nuclei {f1:.3f}, of dark spots {baseline:.3f}")


if __name__ == "__main__":
    run_stage(main)
