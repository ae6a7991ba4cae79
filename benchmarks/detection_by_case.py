"""Nuclei found on real frames, by case: detector against the haematoxylin baseline, and the chain.

A detector looks at each tested case that learnt from the other two, from ImageNet weights of
SqueezeNet. Its threshold is chosen on these, each looked at by a detector that learnt from the
other: on frames it has learnt from, a detector scores higher. One setting serves all cases.
With --chain, found nuclei are also classified by a probe of the same weights that learnt from the
dots of these frames (benchmarks/probe_by_case.py). Intervals resample the frames of a case.

    HISTOFUSE_REAL_DATA=<folder> python benchmarks/detection_by_case.py [--chain] [CASE ...]

With --ceiling it tells instead what these dots allow: the F1 at its best threshold of a detector
that learnt from the other cases and half of the tested one, on the other half, both ways.

With --speed it gives the seconds that a frame takes on two threads, also without AVX-512:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/detection_by_case.py --speed
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from histofuse.data.brecahad import read_brecahad
from histofuse.data.cutting import cut_windows
from histofuse.data.patches import PatchMeta
from histofuse.detection.evaluate import find_spots
from histofuse.detection.finder import NucleusFinder
from histofuse.detection.frames import FrameData
from histofuse.detection.network import build_detector
from histofuse.detection.scoring import (
    Detections,
    choose_threshold,
    compute_froc,
    match_frames,
    measure_detections,
)
from histofuse.detection.train import find_candidates, fit_detector, make_spec
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.models.backbones import ImageModel
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, FrameParams
from histofuse.params.detector import DetectorParams
from histofuse.params.image import ImageParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.decision import Decision, fit_decision
from histofuse.training.image import create_model
from histofuse.training.probe import fit_probe, put_head
from histofuse.training.recorder import Recorder
from probe_by_case import make_params as make_probe_params

TESTED = ("Case_10", "Case_12")
BAR = {"Case_10": 0.67, "Case_12": 0.75}
SEED, RADIUS_PX, PATCH_PX = 0, 15.0, 64
NUCLEI, RUNS = 200, 4  # to time
INTERVALS = IntervalParams(resamples=1000, confidence=0.95, method="percentile", fewest_groups=5)
CHANGES = {
    "backbone": "squeezenet1_0",
    "backbone_learning_rate": 2e-4,
    "reductions": [2, 3, 4],
    "crop_px": 256,
    "steps": 800,
    "sigma_px": 7.0,
    "smoothing_px": 7.0,
    # Fewer than one in 200 dots of any two of the cases lie closer.
    "border_px": 20.0,
    "views": 4,
}
SCALE = [0.4, 1.2]


def make_detector_params(data: Path) -> DetectorParams:
    values = load_section(DetectorParams, "detector").model_dump()
    weights = str(data / "weights" / "squeezenet1_0_imagenet.safetensors")
    augmentation = values["augmentation"] | {"scale": SCALE}
    changes = CHANGES | {"weights": weights, "augmentation": augmentation}
    return DetectorParams.model_validate(values | changes)


def load_real(data: Path) -> FrameData:
    folder, reading = data / "brecahad", load_section(FrameParams, "data.frames")
    classes = load_section(ClassesParams, "classes")
    read = read_brecahad(folder, classes, reading)
    frames = read.frames
    files = {f: folder / name for f, name in zip(frames["frame_id"], frames["file"], strict=True)}
    return FrameData(
        table=frames[["frame_id", "case_id"]].assign(split="test"),
        files=files,
        factors=dict.fromkeys(files, 1.0),
        dots=read.annotations.astype({"label": "str"}),
        classes=classes.names,
        source="brecahad",
        mpp=None,
        reading=reading,
    )


def list_by_case(data: FrameData, case: str) -> tuple[list[str], list[str]]:
    """List the frames of the other cases, and those of the case."""
    of_case = data.table["case_id"] == case
    ids = data.table["frame_id"]
    return ids[~of_case].tolist(), ids[of_case].tolist()


def judge(
    data: FrameData, frames: list[str], candidates: pd.DataFrame, threshold: float
) -> Detections:
    """Frames stand for cases, of which there is one."""
    table = pd.DataFrame({"frame_id": frames, "case_id": frames})
    mine = candidates[candidates["frame_id"].isin(frames)].reset_index(drop=True)
    dots = data.dots[data.dots["frame_id"].isin(frames)]
    return Detections(table, mine, dots, threshold, RADIUS_PX)


def show(case: str, name: str, detections: Detections, classes: Sequence[str]) -> list[dict]:
    measured = measure_detections(detections, classes, Bootstrap(INTERVALS, SEED))
    answers = dict.fromkeys(metric.partition("/")[2] for metric in measured)
    rows = []
    for answer in answers:
        row = {"case": case, "finder": name, "of": answer}
        for metric in ("f1", "precision", "recall", "ap", "froc"):
            i = measured[f"{metric}/{answer}"]
            ends = "" if i.low is None else f" ({i.low:.2f} to {i.high:.2f})"
            row[metric] = "–" if i.value is None else f"{i.value:.3f}{ends}"
        rows.append(row)
    return rows


def cut(data: FrameData, places: pd.DataFrame) -> np.ndarray:
    windows = np.empty((len(places), PATCH_PX, PATCH_PX, 3), np.uint8)
    for frame, rows in places.groupby("frame_id"):
        cuts = np.empty((len(rows), PATCH_PX, PATCH_PX, 3), np.uint8)
        cut_windows(data.read(str(frame)), rows["x_px"].to_numpy(), rows["y_px"].to_numpy(), cuts)
        windows[rows.index] = cuts
    return windows


@torch.inference_mode()
def embed(model: ImageModel, windows: np.ndarray) -> np.ndarray:
    parts = torch.from_numpy(windows).split(64)
    return torch.cat([model.embed(model.prepare(part)) for part in parts]).numpy()


def fit_classifier(data: FrameData, frames: list[str], root: Path) -> tuple[ImageModel, Decision]:
    """Fit the probe on the dots of some frames, one view a nucleus."""
    params = make_probe_params(root, rotations=1)
    dots = data.dots[data.dots["frame_id"].isin(frames)].reset_index(drop=True)
    dots = dots.assign(patch_id=dots.index.astype("str"))
    meta = PatchMeta(PATCH_PX, 0, PATCH_PX, data.classes, "brecahad", "none")
    model = create_model("probe", meta, params, SEED).eval()
    labels = dots["label"].map({name: n for n, name in enumerate(data.classes)}).to_numpy()
    probe = fit_probe(embed(model, cut(data, dots)), labels, dots, params, SEED)
    put_head(model, probe.head)
    groups = dots["frame_id"].to_numpy(dtype=object)
    rules = params.calibration, params.threshold
    return model, fit_decision(probe.held_out, labels, groups, *rules)


def classify(
    data: FrameData, candidates: pd.DataFrame, model: ImageModel, decision: Decision
) -> pd.DataFrame:
    with torch.inference_mode():
        features = torch.from_numpy(embed(model, cut(data, candidates)))
        probabilities, decided = decision.decide(model.head(features).numpy())
    columns = {f"p_{name}": probabilities[:, n] for n, name in enumerate(data.classes)}
    return candidates.assign(**columns, prediction=np.array(data.classes, object)[decided])


def fit_and_look(data: FrameData, learnt: list[str], seen: list[str], root: Path) -> pd.DataFrame:
    """Find the candidates of some frames by a detector that learns from others."""
    params = make_detector_params(root)
    frames, spec = data.reduce(learnt, params.reductions[0]), make_spec(params, data.classes, None)
    network, _ = fit_detector(frames, spec, params, SEED, Recorder())
    return find_candidates(NucleusFinder(network, 0.0), data, seen)


def test_case(data: FrameData, case: str, root: Path, *, chain: bool) -> list[dict]:
    learnt, tested = list_by_case(data, case)
    started = time.process_time()
    candidates = fit_and_look(data, learnt, tested, root)
    held_out = []
    for other in sorted(set(data.table["case_id"]) - {case}):
        held = list_by_case(data, other)[1]
        held_out.append(fit_and_look(data, [f for f in learnt if f not in held], held, root))
    seconds = time.process_time() - started
    matched = match_frames(pd.concat(held_out), data.dots, learnt, RADIUS_PX)
    threshold, f1 = choose_threshold(matched)
    print(f"{case}: {seconds:.0f} CPU-seconds, threshold {threshold:.2f}, F1 {f1:.3f} held out")
    best = choose_threshold(match_frames(candidates, data.dots, tested, RADIUS_PX))[1]
    print(f"{case}: F1 {best:.3f} if the threshold were chosen on the tested case itself")
    names = [f"p_{name}" for name in data.classes]
    decided = candidates[names].to_numpy().argmax(1)
    candidates["prediction"] = np.array(data.classes, object)[decided]
    own = judge(data, tested, candidates, threshold)
    spots = judge(data, tested, find_spots(data, tested), 0.0)
    rows = [*show(case, "dark spots", spots, []), *show(case, "detector", own, data.classes)]
    wide = Detections(own.frames, own.candidates, own.dots, threshold, 2 * RADIUS_PX)
    rows += show(case, "detector, 30 px", wide, [])[:1]
    print(f"{case}: FROC of mitoses, own classes {compute_froc(own, 'mitosis')}")
    if chain:
        model, decision = fit_classifier(data, learnt, root)
        likely = own.candidates[own.candidates["score"] >= threshold].reset_index(drop=True)
        both = judge(data, tested, classify(data, likely, model, decision), threshold)
        rows += show(case, "detector, then probe", both, data.classes)
        print(f"{case}: FROC of mitoses, chain {compute_froc(both, 'mitosis')}")
    return rows


def measure_ceiling(data: FrameData, case: str, root: Path) -> None:
    others, mine = list_by_case(data, case)
    halves = mine[::2], mine[1::2]
    looked = [
        fit_and_look(data, others + known, rest, root) for known, rest in (halves, halves[::-1])
    ]
    matched = match_frames(pd.concat(looked), data.dots, mine, RADIUS_PX)
    print(f"{case}: F1 {choose_threshold(matched)[1]:.3f} where half of its frames are learnt")


def measure_speed(data: FrameData) -> None:
    """Time the default detector and the default image model on a frame, two threads, fp32."""
    torch.set_num_threads(2)
    params = load_section(DetectorParams, "detector")
    network = build_detector(make_spec(params, data.classes, None), "none").eval()
    finder = NucleusFinder(network, 0.0)
    pixels = data.read(data.table["frame_id"].iloc[0])
    image = load_section(ImageParams, "image.resnet18").root
    meta = PatchMeta(PATCH_PX, 0, PATCH_PX, data.classes, "brecahad", "none")
    model = create_model("resnet18", meta, image, SEED).eval()
    places = np.random.default_rng(SEED).uniform(0, pixels.shape[1::-1], (NUCLEI, 2))
    windows = np.empty((NUCLEI, PATCH_PX, PATCH_PX, 3), np.uint8)
    for _ in range(RUNS):
        begun = time.perf_counter(), time.process_time()
        finder.find(pixels)
        found = time.perf_counter()
        cut_windows(pixels, *places.T, windows)
        with torch.inference_mode():
            model(model.prepare(torch.from_numpy(windows)))
        ended, cpu = time.perf_counter(), time.process_time() - begun[1]
        shown = f"{found - begun[0]:.2f} s to find, {ended - found:.2f} s to classify {NUCLEI}"
        print(f"{pixels.shape}, views {params.views}: {shown}; {cpu:.2f} CPU-s in all")


def main(arguments: list[str]) -> None:
    root = Path(os.environ["HISTOFUSE_REAL_DATA"]).resolve()
    data = load_real(root)
    if "--speed" in arguments:
        measure_speed(data)
        return
    tested = [a for a in arguments if not a.startswith("--")] or TESTED
    if "--ceiling" in arguments:
        for case in tested:
            measure_ceiling(data, case, root)
        return
    rows = []
    for case in tested:
        rows += test_case(data, case, root, chain="--chain" in arguments)
        print(f"bar of {case}: F1 of nuclei {BAR.get(case, 'none')}")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
