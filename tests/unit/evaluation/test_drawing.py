"""Text that comes from data: names of frames, categories, units."""

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from histofuse.data.images.pixels import UNKNOWN
from histofuse.explain.shap_values.figures import draw_importance
from histofuse.serving.pictures.frames import FrameSource
from histofuse.serving.pictures.overlay import draw_overlays

NAME = r"Case_1-$\frac{$"  # would be a formula, and a wrong one


def test_the_name_of_a_frame_is_drawn_as_it_is(tmp_path):
    frame = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    tifffile.imwrite(tmp_path / f"{NAME}.tif", frame, photometric="rgb")
    answered = pd.DataFrame({"frame_id": [NAME], "x_px": [9.0], "y_px": [9.0], "prediction": ["a"]})
    frames = FrameSource({NAME: tmp_path / f"{NAME}.tif"}, UNKNOWN, {})
    draw_overlays(answered, frames, classes=["a"], footer="model", folder=tmp_path / "o")
    assert Image.open(tmp_path / "o" / f"{NAME}.png").size == (60, 104)


def test_a_category_is_drawn_as_it_is(tmp_path):
    row = {"meaning": f"insurance: {NAME}", "unit": "", "group": "laboratory", "mean_abs_shap": 1.0}
    draw_importance(pd.DataFrame([row]), "mlp", tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
