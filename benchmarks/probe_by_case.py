"""A probe of SqueezeNet's ImageNet weights on real frames, by case, and what each part brings.

Each case with mitoses is tested by a head that learnt from the other two. The penalty, calibration
and thresholds are chosen by cross-validation of those two alone. Intervals resample the frames of
the test cases. The recipe is "64 px"; rows before it lack a part, rows after it change one.

    HISTOFUSE_REAL_DATA=<folder> python benchmarks/probe_by_case.py [--recipe] [<further frames>]

With a folder of frames in the layout of BreCaHAD, their cases are tested by a head that learnt from
all frames of the first folder, less those of the same case. --recipe leaves the variants out, which
take most of the time.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor

from histofuse.data.brecahad import read_brecahad
from histofuse.data.cutting import cut_windows
from histofuse.data.images.slides import open_picture
from histofuse.data.patches import PatchMeta
from histofuse.features.augment import DRAWN, augment_patches
from histofuse.models.standardiser import Standardiser
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, FrameParams
from histofuse.params.image import AugmentationParams, ProbeParams
from histofuse.training.decision import fit_decision
from histofuse.training.fitting.losses import (
    Loss,
    adjust_logits,
    compute_cross_entropy,
    make_focal_loss,
)
from histofuse.training.fitting.recipe import compute_class_weights
from histofuse.training.image import create_model
from histofuse.training.probe import LinearHead, fit_probe

LEVELS = ["features.4", "features.8", "features.12"]
TESTED = ("Case_10", "Case_12")
METRICS = ["mitosis AUROC", "mitosis AP", "macro F1"]
PATCH_PX, WINDOW_PX, RESAMPLES, SEED = 64, 128, 1000, 0
STAINS = AugmentationParams(
    flips=False,
    rotation_degrees=0.0,
    scale=[1.0, 1.0],
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    stain_scale=0.1,
    stain_shift=0.02,
)
SECTION = {
    "strategy": "probe",
    "backbone": "torchvision/squeezenet1_0",
    "model_kwargs": {},
    "pooling": "encoder",
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
    windows = np.empty((len(table), WINDOW_PX, WINDOW_PX, 3), np.uint8)
    files = data.frames.set_index("frame_id")["file"]
    for frame, points in table.groupby("frame_id"):
        cut = np.empty((len(points), WINDOW_PX, WINDOW_PX, 3), np.uint8)
        with open_picture(folder / files[frame], reading) as picture:
            cut_windows(picture, points["x_px"].to_numpy(), points["y_px"].to_numpy(), cut)
        windows[points.index] = cut
    return table.assign(patch_id=table.index.astype("str")), windows


class Embedder:
    """Computes features of windows at a size of context."""

    def __init__(self, data: Path, windows: np.ndarray, names: list[str]) -> None:
        self._params, self._names = make_params(data, rotations=1), names
        self._windows = torch.from_numpy(windows)

    def embed_views(self, side_px: int, stains: int = 0) -> np.ndarray:
        """Compute features of four quarter turns, (4, n, width); `stains` seeds other stains."""
        meta = PatchMeta(side_px, 0, side_px, self._names, "brecahad", "none")
        model = create_model("probe", meta, self._params, SEED).eval()
        edge = (WINDOW_PX - side_px) // 2
        inside = slice(edge, edge + side_px)
        generator = torch.Generator().manual_seed(stains)

        def prepare(batch: Tensor) -> Tensor:
            if not stains:
                return model.prepare(batch)
            drawn = torch.rand(len(batch), DRAWN, generator=generator)
            scale = model.spec.normalisation
            return augment_patches(batch, model.spec.geometry, scale, STAINS, drawn)

        parts = []
        for batch in self._windows[:, inside, inside].split(64):
            with torch.inference_mode():
                images = prepare(batch)
                parts.append(torch.stack([model.embed(images.rot90(k, (2, 3))) for k in range(4)]))
        return torch.cat(parts, dim=1).numpy()

    def embed(self, side_px: int, stains: int = 0) -> np.ndarray:
        """Compute the means over the turns, (n, width)."""
        return self.embed_views(side_px, stains).mean(0)


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        features: Of all windows.
        copies: Of all windows with other stains, to train on as well.
        loss: Of a head solved by it; None: the product's own.
        weighted: Whether such a loss weights classes by inverse frequency.
        adjusted: Whether their log frequencies are added to its logits.
    """

    name: str
    features: np.ndarray
    copies: tuple[np.ndarray, ...] = ()
    loss: Loss | None = None
    weighted: bool = False
    adjusted: bool = False


def list_parts(embedder: Embedder) -> list[Variant]:
    """The recipe, part by part."""
    views, last = embedder.embed_views(PATCH_PX), 2 * 512
    return [
        Variant("last level", np.expm1(views[0][:, -last:])),
        Variant("three levels", np.expm1(views[0])),
        Variant("and logarithms", views[0]),
        Variant("and four rotations: 64 px", views.mean(0)),
    ]


def list_changes(embedder: Embedder, recipe: np.ndarray) -> Iterator[Variant]:
    """The recipe with one part changed, the quickest first."""
    plain, focal = compute_cross_entropy, make_focal_loss(2.0)
    yield Variant("no class weights", recipe, loss=plain)
    yield Variant("logit adjustment", recipe, loss=plain, adjusted=True)
    yield Variant("focal loss", recipe, loss=focal, weighted=True)
    yield Variant("stain augmentation", recipe, (embedder.embed(PATCH_PX, stains=1),))
    wide = embedder.embed(128)
    yield Variant("128 px", wide)
    yield Variant("64 and 128 px", np.hstack([recipe, wide]))
    yield Variant("96 px", embedder.embed(96))


def solve_heads(
    variant: Variant, features: np.ndarray, labels: np.ndarray, candidates: list[float]
) -> list[tuple[float, LinearHead]]:
    """Do as the product does, with the loss of a variant."""
    assert variant.loss
    scaler = Standardiser(features.shape[1])
    scaler.fit(torch.from_numpy(features))
    x, y = scaler(torch.from_numpy(features)).double(), torch.from_numpy(labels)
    counts = torch.bincount(y).double()
    loss = adjust_logits(variant.loss, counts / len(y)) if variant.adjusted else variant.loss
    rows = compute_class_weights(y, len(counts))[y] if variant.weighted else torch.ones(len(y))
    weight = torch.zeros(len(counts), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    heads = []
    for c in candidates:
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def close(optimiser=optimiser, c=c) -> Tensor:
            optimiser.zero_grad()
            value = (rows * loss(x @ weight.T + bias, y)).sum() + weight.square().sum() / (2 * c)
            value.backward()
            return value

        optimiser.step(close)
        values = (t.detach().float().numpy().copy() for t in (weight, bias))
        heads.append((c, LinearHead(scaler, *values)))
    return heads


def apply_probe(  # noqa: PLR0917
    variant: Variant,
    labels: np.ndarray,
    table: pd.DataFrame,
    train: np.ndarray,
    test: np.ndarray,
    params: ProbeParams,
) -> pd.DataFrame:
    """Fit on some rows; score others: their log-odds of a mitosis, and the class decided on."""
    parts = [part[train] for part in (variant.features, *variant.copies)]
    given = pd.concat([table[train]] * len(parts))
    if variant.loss:
        solver = partial(solve_heads, variant)
        with patch("histofuse.training.probe._fit_heads", solver):
            probe = fit_probe(parts[0], labels[train], given, params, SEED)
    else:
        known = np.tile(labels[train], len(parts))
        probe = fit_probe(np.concatenate(parts), known, given, params, SEED)
    frames = table.loc[train, "frame_id"].to_numpy(dtype=object)
    held_out = probe.held_out[: len(frames)]
    decision = fit_decision(held_out, labels[train], frames, params.calibration, params.threshold)
    probabilities, decided = decision.decide(probe.head.logits(variant.features[test]))
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


def main(further: Sequence[str], *, recipe_alone: bool) -> None:
    data = Path(os.environ["HISTOFUSE_REAL_DATA"]).resolve()
    classes, params = load_section(ClassesParams, "classes"), make_params(data)
    names = classes.names
    parts = [read_windows(Path(f), classes) for f in (data / "brecahad", *further)]
    table = pd.concat([part for part, _ in parts], ignore_index=True)
    unseen = np.repeat([n > 0 for n in range(len(parts))], [len(part) for part, _ in parts])
    labels = table["label"].map({name: n for n, name in enumerate(names)}).to_numpy()
    embedder = Embedder(data, np.concatenate([windows for _, windows in parts]), names)
    variants = list_parts(embedder)
    changes = () if recipe_alone else list_changes(embedder, variants[-1].features)
    tested = TESTED if not further else sorted(table.loc[unseen, "case_id"].unique())
    lines = []
    for variant in itertools.chain(variants, changes):
        rows = []
        for case in tested:
            test = (table["case_id"] == case).to_numpy() & (unseen == bool(further))
            train = ~unseen & (table["case_id"] != case).to_numpy()
            rows.append(apply_probe(variant, labels, table, train, test, params))
        lines += show(variant.name, pd.concat(rows))
        print(pd.DataFrame(lines[-1:]).to_string(index=False, header=False), flush=True)
    print(pd.DataFrame(lines).to_string(index=False))


if __name__ == "__main__":
    import sys

    words = [word for word in sys.argv[1:] if word != "--recipe"]
    main(words, recipe_alone="--recipe" in sys.argv)
