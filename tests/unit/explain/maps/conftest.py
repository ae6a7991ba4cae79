"""Patches on disk with a network that explains them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from histofuse.core.artifacts import to_json
from histofuse.core.tables import write_table
from histofuse.data.patches import PATCH_INDEX
from histofuse.explain.maps.mappers import map_image_network
from histofuse.explain.maps.patches import Patches
from histofuse.models.backbones import ImageSpec, build_model
from histofuse.models.stages import MapLayer

CLASSES = ["mitosis", "tumour"]


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    """Six patches of two classes and a network of random weights."""
    folder, count = tmp_path / "patches", 6
    torch.manual_seed(0)
    model = build_model(ImageSpec("simple_cnn", CLASSES, 64, 64, 4, "unit", 0.0), "none")
    model.gradcam_layer = MapLayer("backbone.features.2", 8)
    rows = [(CLASSES[n % 2], CLASSES[n % 3 % 2], 0.5) for n in range(count)]
    predictions = pd.DataFrame(rows, columns=["label", "prediction", "probability_mitosis"])
    predictions["probability_tumour"] = 1 - predictions["probability_mitosis"]
    predictions["patch_id"] = [f"Case_1-01/{n:04d}" for n in range(count)]
    predictions["case_id"] = [f"Case_{n // 2}" for n in range(count)]
    index = predictions[["patch_id", "label", "case_id"]].assign(
        frame_id="Case_1-01", x_px=1.0, y_px=1.0, shard=0, row=range(count)
    )
    folder.mkdir(exist_ok=True)
    write_table(index, folder / "index.parquet", PATCH_INDEX)
    patches = np.random.default_rng(0).integers(0, 256, (count, 72, 72, 3), dtype=np.uint8)
    np.save(folder / "shard-00000.npy", patches)
    meta = {"patch_px": 64, "margin_px": 4, "stored_px": 72, "classes": CLASSES}
    meta |= {"source": "simulated", "stain_normalisation": "none"}
    (folder / "meta.json").write_text(to_json(meta))
    mapper = map_image_network("m", model)
    return Patches(mapper, "ab" * 32, folder, predictions, lambda z: softmax(z, axis=1))
