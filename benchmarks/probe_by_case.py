"""A probe of SqueezeNet's ImageNet weights on real frames, by case, and what each part brings.

Each case with mitoses is tested by a head that learnt from the other two. The penalty, calibration
and thresholds are chosen by cross-validation of those two alone. Intervals resample the frames of
the test cases.

    HISTOFUSE_REAL_DATA=<folder> python benchmarks/probe_by_case.py [<folder of further frames>]

With a folder of frames in the layout of BreCaHAD, their cases are tested by a head that learnt from
all frames of the first folder, less those of the same case.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from histofuse.data.brecahad import read_brecahad
from histofuse.data.cutting import cut_windows
from histofuse.data.patches import PatchMeta
from histofuse.data.slides import open_picture
from histofuse.models.backbones import ImageModel
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, FrameParams
from histofuse.params.image import ProbeParams
from histofuse.training.decision import fit_decision
from histofuse.training.image import create_model
from histofuse.training.probe import fit_probe

LEVELS = ["features.4", "features.8", "features.12"]
TESTED = ("Case_10", "Case_12")
METRICS = ["mitosis AUROC", "mitosis AP", "macro F1"]
PATCH_PX, RESAMPLES, SEED = 64, 1000, 0
SECTION = {
    "strategy": "probe",
    "backbone": "torchvision/squeezenet1_0",
    "input_px": 160,
    "levels": LEVELS,
    "rotations": 4,
    "c": [0.001, 0.003, 0.01, 0.03],
    "folds": 5,
    "normalisation": "imagenet",
    "minimum_map_px": 7,
    "calibration": "temperature_bias",
    "threshold": "max_f1",
    "study": "none",
}


def make_params(data: Path, **changes: object) -> ProbeParams:
    weights = str(data / "weights" / "squeezenet1_0_imagenet.safetensors")
    return ProbeParams.model_validate({**SECTION, "weights": weights, **changes})


def read_windows(folder: Path, classes: ClassesParams) -> tuple[pd.DataFrame, np.ndarray]:
    reading = load_section(FrameParams, "data.frames")
    data = read_brecahad(folder, classes, reading)
    table = data.annotations.reset_index(drop=True)
    windows = np.empty((len(table), PATCH_PX, PATCH_PX, 3), np.uint8)
    files = data.frames.set_index("frame_id")["file"]
    for frame, points in table.groupby("frame_id"):
        cut = np.empty((len(points), PATCH_PX, PATCH_PX, 3), np.uint8)
        with open_picture(folder / files[frame], reading) as picture:
            cut_windows(picture, points["x_px"].to_numpy(), points["y_px"].to_numpy(), cut)
        windows[points.index] = cut
    return table.assign(patch_id=table.index.astype("str")), windows


@torch.inference_mode()
def embed_views(model: ImageModel, windows: np.ndarray) -> np.ndarray:
    """Compute the features of four quarter turns, (4, n, width)."""
    return np.stack(
        [
            torch.cat(
                [
                    model.embed(model.prepare(batch.rot90(turn, (1, 2))))
                    for batch in torch.from_numpy(windows).split(64)
                ]
            ).numpy()
            for turn in range(4)
        ]
    )


def list_variants(views: np.ndarray, last_level: int) -> dict[str, np.ndarray]:
    one = views[0]
    return {
        "last level": np.expm1(one[:, -last_level:]),
        "three levels": np.expm1(one),
        "three levels, log": one,
        "three levels, log, four rotations": views.mean(0),
    }


def apply_probe(  # noqa: PLR0917
    features: np.ndarray,
    labels: np.ndarray,
    table: pd.DataFrame,
    train: np.ndarray,
    test: np.ndarray,
    params: ProbeParams,
) -> pd.DataFrame:
    """Fit on some rows; score others: their log-odds of a mitosis, and the class decided on."""
    probe = fit_probe(features[train], labels[train], table[train], params, SEED)
    frames = table.loc[train, "frame_id"].to_numpy(dtype=object)
    decision = fit_decision(
        probe.held_out, labels[train], frames, params.calibration, params.threshold
    )
    probabilities, decided = decision.decide(probe.head.logits(features[test]))
    rows = table.loc[test, ["case_id", "frame_id"]]
    return rows.assign(label=labels[test], p=probabilities[:, 0], decided=decided, c=probe.c)


def score(rows: pd.DataFrame) -> list[float]:
    mitosis = rows["label"] == 0
    if not mitosis.any():
        return [np.nan] * 3
    return [
        roc_auc_score(mitosis, rows["p"]),
        average_precision_score(mitosis, rows["p"]),
        f1_score(rows["label"], rows["decided"], average="macro"),
    ]


def score_cases(rows: pd.DataFrame) -> np.ndarray:
    """Score each case, and the mean of the cases last."""
    scores = np.array([score(part) for _, part in rows.groupby("case_id")])
    return np.vstack([scores, np.nanmean(scores, axis=0)])


def resample(rows: pd.DataFrame) -> np.ndarray:
    """Scores of resampled frames, each case its own, (resamples, cases + 1, 3)."""
    rng = np.random.default_rng(SEED)
    frames = {case: list(part.groupby("frame_id")) for case, part in rows.groupby("case_id")}
    drawn = []
    for _ in range(RESAMPLES):
        parts = [
            part[n][1] for part in frames.values() for n in rng.integers(0, len(part), len(part))
        ]
        drawn.append(score_cases(pd.concat(parts)))
    return np.array(drawn)


def show(name: str, rows: pd.DataFrame) -> list[dict[str, object]]:
    cases, values = [*sorted(rows["case_id"].unique()), "mean"], score_cases(rows)
    low, high = np.nanquantile(resample(rows), (0.025, 0.975), axis=0)
    chosen = rows.groupby("case_id")["c"].first()
    return [
        {"probe": name, "case": case, "C": chosen.get(case, "")}
        | {
            metric: f"{values[n, k]:.3f} ({low[n, k]:.3f} to {high[n, k]:.3f})"
            for k, metric in enumerate(METRICS)
        }
        for n, case in enumerate(cases)
    ]


def main(further: Sequence[str]) -> None:
    data = Path(os.environ["HISTOFUSE_REAL_DATA"]).resolve()
    classes, params = load_section(ClassesParams, "classes"), make_params(data)
    names = classes.names
    parts = [read_windows(Path(f), classes) for f in (data / "brecahad", *further)]
    table = pd.concat([part for part, _ in parts], ignore_index=True)
    unseen = np.repeat([n > 0 for n in range(len(parts))], [len(part) for part, _ in parts])
    labels = table["label"].map({name: n for n, name in enumerate(names)}).to_numpy()
    meta = PatchMeta(PATCH_PX, 0, PATCH_PX, names, "brecahad", "none")
    model = create_model("probe", meta, make_params(data, rotations=1), SEED).eval()
    views = embed_views(model, np.concatenate([windows for _, windows in parts]))
    tested = TESTED if not further else sorted(table.loc[unseen, "case_id"].unique())
    lines = []
    for name, features in list_variants(views, 2 * 512).items():
        rows = []
        for case in tested:
            test = (table["case_id"] == case).to_numpy() & (unseen == bool(further))
            train = ~unseen & (table["case_id"] != case).to_numpy()
            rows.append(apply_probe(features, labels, table, train, test, params))
        lines += show(name, pd.concat(rows))
    print(pd.DataFrame(lines).to_string(index=False))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
