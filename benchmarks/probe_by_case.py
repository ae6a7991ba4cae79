"""A probe of SqueezeNet's ImageNet weights on real frames, by case, and what each part brings.

Each case with mitoses is tested by a bundle that `train_image`, the function of the stage, made of
the other two: penalty, calibration and thresholds come from those two alone. Intervals resample the
frames of the test cases. The recipe is "64 px"; rows before it lack a part, rows after it change
one.

    HISTOFUSE_REAL_DATA=<folder> python benchmarks/probe_by_case.py [--recipe] [<further frames>]

With a folder of frames in the layout of BreCaHAD, their cases are tested by a head that learnt from
all frames of the first folder, less those of the same case. --recipe leaves the variants out, which
take most of the time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, chdir
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import interpolate

from histofuse.core.bundle import open_bundle
from histofuse.core.tables import read_table, write_table
from histofuse.data.brecahad import read_brecahad
from histofuse.data.cutting import write_patches
from histofuse.data.patches import INDEX, PATCH_INDEX, PatchMeta, load_index, read_patches
from histofuse.data.splits import PATCH_SPLITS
from histofuse.features.augment import DRAWN, PatchGeometry, augment_patches
from histofuse.models.backbones import OWN, ImageModel, build_network
from histofuse.models.levels import PooledLevels
from histofuse.models.standardiser import Standardiser
from histofuse.params.base import load_section, load_seed
from histofuse.params.data import ClassesParams, FrameParams
from histofuse.params.image import AugmentationParams, ProbeParams
from histofuse.training import image
from histofuse.training.fitting.losses import (
    Loss,
    adjust_logits,
    compute_cross_entropy,
    make_focal_loss,
)
from histofuse.training.fitting.recipe import compute_class_weights
from histofuse.training.probe import LinearHead
from histofuse.training.recorder import Recorder

SQUEEZENET = "torchvision/squeezenet1_0"
LEVELS = ["features.4", "features.8", "features.12"]
TESTED = ("Case_10", "Case_12")
METRICS = ["mitosis AUROC", "mitosis AP", "macro F1"]
PATCH_PX, INPUT_PX, STAINED, RESAMPLES = 64, 160, "+stain", 1000
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
    "backbone": SQUEEZENET,
    "model_kwargs": {},
    "pooling": "encoder",
    "input_px": INPUT_PX,
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


def locate_weights(data: Path) -> str:
    return str(data / "weights" / "squeezenet1_0_imagenet.safetensors")


def make_params(data: Path, **changes: object) -> ProbeParams:
    return ProbeParams.model_validate({**SECTION, "weights": locate_weights(data), **changes})


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        side_px: Of the patches.
        changes: Of the params.
        stained: Whether copies with other stains are trained on as well.
        loss: Of a head solved by it; None: the product's own.
        weighted: Whether such a loss weights classes by inverse frequency.
        adjusted: Whether their log frequencies are added to its logits.
    """

    name: str
    side_px: int = PATCH_PX
    changes: dict[str, Any] = field(default_factory=dict)
    stained: bool = False
    loss: Loss | None = None
    weighted: bool = False
    adjusted: bool = False


# Networks that the product has no params for.
PLAIN = {"weights": "none", "levels": [], "minimum_map_px": 2}
PARTS = [
    Variant("last level", changes={**PLAIN, "backbone": "last_level", "rotations": 1}),
    Variant("three levels", changes={**PLAIN, "backbone": "three_levels", "rotations": 1}),
    Variant("and logarithms", changes={"rotations": 1}),
    Variant("and four rotations: 64 px"),
]
CHANGED = [
    Variant("no class weights", loss=compute_cross_entropy),
    Variant("logit adjustment", loss=compute_cross_entropy, adjusted=True),
    Variant("focal loss", loss=make_focal_loss(2.0), weighted=True),
    Variant("96 px", 96),
    Variant("128 px", 128),
    Variant("64 and 128 px", 128, {**PLAIN, "backbone": "two_sizes", "input_px": 2 * INPUT_PX}),
    Variant("stain augmentation", stained=True),
]


class Pooled(nn.Module):
    """SqueezeNet's levels, without their logarithms or at two sizes."""

    def __init__(self, _: int, weights: str, levels: list[str], *, two_sizes: bool) -> None:
        super().__init__()
        network = build_network(SQUEEZENET, INPUT_PX, {}, weights)
        self.pooled, self.two_sizes = PooledLevels(network, levels, INPUT_PX), two_sizes

    def forward(self, x: Tensor) -> Tensor:
        if not self.two_sizes:
            return self.pooled(x).expm1()
        whole = interpolate(x, size=INPUT_PX, mode="bicubic", antialias=True)
        edge = (x.shape[2] - INPUT_PX) // 2  # 64 px of 128
        inside = x[:, :, edge : edge + INPUT_PX, edge : edge + INPUT_PX]
        return torch.cat([self.pooled(inside), self.pooled(whole)], dim=1)


class Patches:
    """Patches of all frames in folders, one for each size, and outputs of networks for them."""

    def __init__(self, folders: Sequence[Path], root: Path, classes: ClassesParams) -> None:
        self._root, self._classes = root, classes
        self._reading = load_section(FrameParams, "data.frames")
        read = [read_brecahad(folder, classes, self._reading) for folder in folders]
        self._annotations = pd.concat([data.annotations for data in read], ignore_index=True)
        files = [
            data.frames.assign(file=[str(folder.resolve() / f) for f in data.frames["file"]])
            for data, folder in zip(read, folders, strict=True)
        ]
        self._frames = pd.concat(files, ignore_index=True)
        if self._frames["frame_id"].duplicated().any():
            raise ValueError("further frames need other names than the first")
        self.unseen = set() if len(read) == 1 else set(pd.concat(files[1:])["frame_id"])
        self._outputs: dict[tuple, image.Outputs] = {}

    def write(self, variant: Variant) -> Path:
        """Cut the patches that a variant takes, unless they are there."""
        side, folder = variant.side_px, self._root / f"{variant.side_px}-{variant.stained}"
        if folder.exists():
            return folder
        meta = PatchMeta(side, 0, side, self._classes.names, "brecahad", "none")
        write_patches(
            self._annotations,
            self._frames,
            self._root,
            folder,
            meta=meta,
            reading=self._reading,
            shard_patches=1_000_000,
        )
        if variant.stained:
            add_stained(folder)
        return folder

    def apply_network(self, model: ImageModel, folder: Path, table: pd.DataFrame) -> image.Outputs:
        """Do as `apply_network`, once a frozen network: the table is the same for all cases."""
        key = (folder, model.spec.backbone, *model.spec.levels, model.spec.rotations)
        if key not in self._outputs:
            self._outputs[key] = APPLY_NETWORK(model, folder, table)
        return self._outputs[key]


APPLY_NETWORK = image.apply_network


def add_stained(folder: Path) -> None:
    """Add a copy of each patch with other stains, of the same frame."""
    index = load_index(folder)
    patches = read_patches(folder, index)
    geometry, generator = PatchGeometry(PATCH_PX, 0, PATCH_PX), torch.Generator().manual_seed(1)
    drawn = torch.rand(len(patches), DRAWN, generator=generator)
    copies = augment_patches(torch.from_numpy(patches), geometry, "unit", STAINS, drawn)
    bytes_ = copies.permute(0, 2, 3, 1).mul(255).round().clamp(0, 255).to(torch.uint8)
    np.save(folder / "shard-00001.npy", bytes_.numpy())
    more = index.assign(patch_id=index["patch_id"] + STAINED, shard=1)
    write_table(pd.concat([index, more], ignore_index=True), folder / INDEX, PATCH_INDEX)


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


def split_by_case(index: pd.DataFrame, case: str, unseen: set[str]) -> pd.DataFrame:
    """Test a case, on unseen frames if there are any; every fifth frame of the rest validates.

    A probe learns from both, so it does not matter which.
    """
    is_case, is_unseen = index["case_id"] == case, index["frame_id"].isin(unseen)
    known = ~is_case & ~is_unseen
    validation = pd.factorize(index["frame_id"])[0] % 5 == 0
    split = np.where(known, np.where(validation, "validation", "train"), "test")
    table = index[["patch_id", "frame_id", "case_id", "label"]]
    return table.assign(split=pd.array(split, dtype="str"))


def test_case(
    variant: Variant, case: str, patches: Patches, params: ProbeParams, seed: int
) -> pd.DataFrame:
    """Train as the stage does; score the case: probability of a mitosis, and class decided on."""
    folder = patches.write(variant)
    with TemporaryDirectory() as work, chdir(work), ExitStack() as stack:
        splits = split_by_case(load_index(folder), case, patches.unseen)
        write_table(splits, Path("splits.parquet"), PATCH_SPLITS)
        data, path = image.load_patch_data(folder, Path("splits.parquet")), Path("models/probe")
        stack.enter_context(patch.object(image, "apply_network", patches.apply_network))
        if variant.loss:
            solver = partial(solve_heads, variant)
            stack.enter_context(patch("histofuse.training.probe._fit_heads", solver))
        image.train_image(data, params, seed, Recorder(), path)
        rows = read_table(path / image.PREDICTIONS, image.IMAGE_PREDICTIONS)
        c = open_bundle(path).config["probe"]["c"]
    tested = (rows["split"] == "test") & (rows["case_id"] == case)
    if patches.unseen:
        tested &= rows["frame_id"].isin(patches.unseen)
    return rows[tested & ~rows["patch_id"].str.endswith(STAINED)].assign(c=c)


def score(rows: pd.DataFrame) -> list[float]:
    mitosis = rows["label"] == "mitosis"
    if not mitosis.any():
        return [np.nan] * 3
    return [
        roc_auc_score(mitosis, rows["probability_mitosis"]),
        average_precision_score(mitosis, rows["probability_mitosis"]),
        f1_score(rows["label"], rows["prediction"], average="macro"),
    ]


def score_cases(rows: pd.DataFrame) -> np.ndarray:
    """Score each case, and the mean of the cases last."""
    scores = np.array([score(part) for _, part in rows.groupby("case_id")])
    return np.vstack([scores, np.nanmean(scores, axis=0)])


def resample(rows: pd.DataFrame) -> np.ndarray:
    """Scores of resampled frames, each case its own, (resamples, cases + 1, 3)."""
    rng = np.random.default_rng(0)
    frames = {case: list(part.groupby("frame_id")) for case, part in rows.groupby("case_id")}
    drawn = []
    for _ in range(RESAMPLES):
        parts = [
            part[n][1] for part in frames.values() for n in rng.integers(0, len(part), len(part))
        ]
        drawn.append(score_cases(pd.concat(parts)))
    return np.array(drawn)


def show(name: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
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
    for name, levels in (
        ("last_level", LEVELS[-1:]),
        ("three_levels", LEVELS),
        ("two_sizes", LEVELS),
    ):
        OWN[name] = partial(
            Pooled, weights=locate_weights(data), levels=levels, two_sizes=name == "two_sizes"
        )
    classes, seed, lines = load_section(ClassesParams, "classes"), load_seed(), []
    with TemporaryDirectory() as root:
        folders = [data / "brecahad", *map(Path, further)]
        patches = Patches(folders, Path(root), classes)
        index = load_index(patches.write(PARTS[-1]))
        unseen = index[index["frame_id"].isin(patches.unseen)]
        tested = sorted(unseen["case_id"].unique()) if further else TESTED
        for variant in PARTS[-1:] if recipe_alone else [*PARTS, *CHANGED]:
            params = make_params(data, **variant.changes)
            rows = [test_case(variant, case, patches, params, seed) for case in tested]
            lines += show(variant.name, pd.concat(rows))
            print(pd.DataFrame(lines[-1:]).to_string(index=False, header=False), flush=True)
    print(pd.DataFrame(lines).to_string(index=False))


if __name__ == "__main__":
    import sys

    words = [word for word in sys.argv[1:] if word != "--recipe"]
    main(words, recipe_alone="--recipe" in sys.argv)
