"""How far do test scores of ResNet-18 move with the seed? The default recipe against a plain one.

Run in a project in which `dvc repro split_patches` ran. Each recipe is trained once a seed, some
70 CPU-seconds at the default size:

    python benchmarks/training_seeds.py --seeds 12

The plain recipe keeps the weights of the epoch with the best macro-F1, and halves the rate every
three epochs. The recipe of params.yaml keeps an average of weights, chosen by the loss.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score

from histofuse.core.progress import track
from histofuse.params.base import load_section
from histofuse.params.image import AllImageParams, FinetuneParams
from histofuse.training.fitting.fit import fit
from histofuse.training.image import (
    PatchData,
    apply_network,
    create_model,
    load_patch_data,
    make_recipe,
)
from histofuse.training.recorder import Recorder

PLAIN = {
    "weight_averaging": 0.0,
    "monitor": "macro_f1",
    "schedule": "step",
    "step_epochs": 3,
    "step_factor": 0.5,
}


def score(name: str, data: PatchData, params: FinetuneParams, seed: int) -> dict[str, float]:
    model = create_model(name, data.meta, params, seed)
    train, validation = data.load_rows("train"), data.load_rows("validation")
    recipe = make_recipe(name, model, train, params, seed)
    with tempfile.TemporaryDirectory() as checkpoints:
        result = fit(model, train, validation, recipe, Path(checkpoints), Recorder())
    test = data.select("test")
    logits, labels = apply_network(model, data.folder, test).logits, data.number_labels(test)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    mitosis = data.meta.classes.index("mitosis")
    share = odds[:, mitosis] / odds.sum(axis=1)
    return {
        "mitosis_auprc": float(average_precision_score(labels == mitosis, share)),
        "macro_f1": float(f1_score(labels, logits.argmax(axis=1), average="macro")),
        "epoch": result.best_epoch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--model", default="resnet18", help="a section of image in params.yaml")
    options = parser.parse_args()
    params = load_section(AllImageParams, "image").root[options.model]
    data = load_patch_data(Path("data/patches"), Path("data/splits/patches.parquet"))
    recipes = {"plain": params.model_copy(update=PLAIN), "params.yaml": params}
    rows = [
        {"recipe": recipe, "seed": seed, **score(options.model, data, chosen, seed)}
        for seed in track(range(1, options.seeds + 1), "seeds", total=options.seeds)
        for recipe, chosen in recipes.items()
    ]
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    summary = table.groupby("recipe")[["mitosis_auprc", "macro_f1"]].agg(["mean", "std", "min"])
    print(summary.round(3).to_string())
    spread = summary["mitosis_auprc", "std"]
    print(f"standard deviation of mitosis AUPRC: {spread['params.yaml'] / spread['plain']:.2f} x")


if __name__ == "__main__":
    main()
