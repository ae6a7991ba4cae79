"""SqueezeNet from ImageNet weights on real frames, three folds by case, against a yardstick.

The yardstick: frozen features of the same weights (mean and max pooled, the 64-px window enlarged
to 160 px) under a balanced logistic regression, trained on the other cases. It is computed here, in
the same run, on the same splits.

    HISTOFUSE_REAL_DATA=<folder> python benchmarks/squeezenet_by_case.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import interpolate
from torchvision.models import squeezenet1_0

from histofuse.core.tables import read_table
from histofuse.data.patches import load_index, load_meta, read_patches
from histofuse.data.splits import PATCH_SPLITS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))
from project import Project, copy_sources

CLASSES = ["mitosis", "tumour", "non_tumour"]
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
SD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def set_up(root: Path, data: Path) -> Project:
    project = copy_sources(root)
    section = dict(project.get_param("image.resnet18"))
    section |= {
        "backbone": "torchvision/squeezenet1_0",
        "weights": str(data / "weights" / "squeezenet1_0_imagenet.safetensors"),
        "input_px": 96,
        "epochs": 30,
        "batch_size": 32,
        "head_learning_rate": 1e-3,
        # SqueezeNet has no batch norm: unfrozen early, or at a higher rate, it comes apart.
        "backbone_learning_rate": 2e-5,
        "frozen_epochs": 24,
        "unfreeze_every_epochs": 2,
        "weight_decay": 0.0,
        "dropout": 0.5,
        "schedule": "cosine",
        "patience": 30,
        "monitor": "macro_f1",
    }
    project.set_image_model("squeezenet", section)
    project.set_params(
        {
            "data.brecahad": str(data / "brecahad"),
            "splits.images.folds": 3,
            # A validation split of whole cases would leave training without mitoses.
            "splits.images.validation_unit": "frame",
            # Case 11 has no mitosis.
            "splits.images.classes_required": ["tumour"],
        }
    )
    return project


def score(labels: pd.Series, probabilities: np.ndarray, predictions: np.ndarray) -> dict:
    mitosis = (labels == "mitosis").to_numpy()
    found = {"macro_f1": f1_score(labels, predictions, average="macro")}
    if mitosis.any():
        found["mitosis_auroc"] = roc_auc_score(mitosis, probabilities[:, 0])
        found["mitosis_ap"] = average_precision_score(mitosis, probabilities[:, 0])
    return found


def score_model(project: Project) -> dict:
    table = pd.read_parquet(project.root / "models/squeezenet/predictions.parquet")
    table = table[table["split"] == "test"]
    probabilities = table[[f"probability_{c}" for c in CLASSES]].to_numpy()
    return score(table["label"], probabilities, table["prediction"].to_numpy())


@torch.inference_mode()
def embed(patches: np.ndarray, margin: int, weights: Path) -> np.ndarray:
    network = squeezenet1_0()
    network.load_state_dict(load_file(weights))
    network.eval()
    parts = []
    for batch in torch.from_numpy(patches).split(64):
        window = batch[:, margin:-margin, margin:-margin].permute(0, 3, 1, 2).float() / 255
        large = interpolate(window, size=160, mode="bicubic", antialias=True).clamp(0, 1)
        maps = network.features((large - MEAN) / SD)
        parts.append(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
    return torch.cat(parts).numpy()


def score_yardstick(features: np.ndarray, splits: pd.DataFrame) -> dict:
    test = (splits["split"] == "test").to_numpy()
    regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    model = make_pipeline(StandardScaler(), regression)
    model.fit(features[~test], splits["label"][~test])
    order = [list(model.classes_).index(name) for name in CLASSES]
    probabilities = model.predict_proba(features[test])[:, order]
    return score(splits["label"][test], probabilities, model.predict(features[test]))


def read_windows(project: Project, patch_ids: pd.Series) -> tuple[np.ndarray, int]:
    folder = project.root / "data/patches"
    index = load_index(folder).set_index("patch_id").loc[patch_ids].reset_index()
    return read_patches(folder, index), load_meta(folder).margin_px


def main() -> None:
    data = Path(os.environ["HISTOFUSE_REAL_DATA"]).resolve()
    weights = data / "weights" / "squeezenet1_0_imagenet.safetensors"
    rows, features = [], None
    with tempfile.TemporaryDirectory() as folder:
        project = set_up(Path(folder), data)
        for fold in range(3):
            project.set_params({"splits.images.test_fold": fold})
            project.repro("train_image@squeezenet")
            splits = read_table(project.root / "data/splits/patches.parquet", PATCH_SPLITS)
            if features is None:
                features = embed(*read_windows(project, splits["patch_id"]), weights)
            case = splits.loc[splits["split"] == "test", "case_id"].unique().item()
            yardstick = score_yardstick(features, splits)
            rows += [
                {"test case": case, "model": "fine-tuned SqueezeNet", **score_model(project)},
                {"test case": case, "model": "frozen features, yardstick", **yardstick},
            ]
    print(pd.DataFrame(rows).sort_values(["test case", "model"]).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
