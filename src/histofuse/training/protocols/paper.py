"""The paper's protocol: patches assigned to training and validation at random, 80 to 20.

Source: paper 3.1. Windows about neighbouring nuclei overlap, so pixels of most validation patches
are in training too; and epoch, calibration and thresholds are chosen on the rows that are reported
on.
"""

from contextlib import chdir
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from histofuse.core.artifacts import digest_text, to_json
from histofuse.core.bundle import MANIFEST
from histofuse.core.code import digest_code
from histofuse.core.tables import write_table
from histofuse.data.patches import load_index
from histofuse.data.splits import PATCH_SPLITS, split_patches
from histofuse.params.image import ImageParams, resolve_paths
from histofuse.params.splits import ImageSplitParams
from histofuse.training.image import load_patch_data, train_image
from histofuse.training.recorder import Recorder

SPLITS: Final = "patches.parquet"


def make_paper_params(folds: int) -> ImageSplitParams:
    """Make the split params under which one patch in `folds` is held out at random."""
    return ImageSplitParams(
        unit="patch",
        validation_unit="patch",
        folds=folds,
        test_fold=0,
        validation_fold=0,
        classes_required=[],
    )


def split_as_paper(index: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Split patches into training and validation at random; there is no test split."""
    splits = split_patches(index, make_paper_params(folds), seed)
    validation = (splits["split"] == "test").map({True: "validation", False: "train"})
    return splits.assign(split=validation.astype("str"))


def train_as_paper(honest: dict[str, Any], patches: Path, folds: int, work: Path) -> Path:
    """Retrain the network whose ``config.json`` is given under the paper's protocol.

    A run that was killed resumes; a complete one is not repeated. Returns the bundle's folder, next
    to the table of splits, below `work`.
    """
    params, seed = ImageParams.model_validate(honest["params"]).root, honest["seed"]
    parts = {"params": honest["params"], "seed": seed, "folds": folds, "inputs": honest["inputs"]}
    code = {"code": digest_code(__name__), "torch": torch.__version__}
    folder = (work / honest["name"] / digest_text(to_json({**parts, **code}))[:16]).resolve()
    path = folder / honest["name"]
    if not (path / MANIFEST).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        patches = patches.resolve()
        write_table(split_as_paper(load_index(patches), folds, seed), folder / SPLITS, PATCH_SPLITS)
        params = resolve_paths(params)
        # Checkpoints lie below the working directory: those of the honest model are left alone.
        with chdir(folder):
            data = load_patch_data(patches, folder / SPLITS)
            train_image(data, params, seed, Recorder(), path)
    return path
