from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from ruamel.yaml import YAML

from histofuse.core.bundle import PREDICTIONS, open_bundle
from histofuse.core.tables import read_table
from histofuse.detection.finder import NucleusFinder
from histofuse.detection.frames import FrameData
from histofuse.detection.train import CANDIDATES, train_detector
from histofuse.params.data import FrameParams
from histofuse.params.detector import DetectorParams
from histofuse.training.recorder import Recorder

CLASSES = ["mitosis", "tumour"]
PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture
def data(tmp_path: Path) -> FrameData:
    """Three frames of pink tissue with dark discs, each with its dot."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:256, :256]
    files, dots = {}, []
    for number in range(3):
        frame = f"case_{number}-01"
        pixels = np.full((256, 256, 3), (225, 190, 210), np.uint8)
        for index in range(12):
            row, column = np.array(divmod(index, 4)) * 62 + rng.uniform(20, 40, 2)
            pixels[(y - row) ** 2 + (x - column) ** 2 < 100] = (90, 60, 140)
            dots.append((frame, f"case_{number}", column, row, CLASSES[index % 2]))
        files[frame] = tmp_path / f"{frame}.tif"
        tifffile.imwrite(files[frame], pixels, photometric="rgb")
    splits = ("train", "validation", "test")
    rows = [(f, f.split("-")[0], s) for f, s in zip(files, splits, strict=True)]
    return FrameData(
        table=pd.DataFrame(rows, columns=["frame_id", "case_id", "split"]),
        files=files,
        factors=dict.fromkeys(files, 1.0),
        dots=pd.DataFrame(dots, columns=["frame_id", "case_id", "x_px", "y_px", "label"]),
        classes=CLASSES,
        source="simulated",
        mpp=0.25,
        reading=FrameParams.model_validate(YAML(typ="safe").load(PARAMS)["data"]["frames"]),
    )


@pytest.fixture
def params() -> DetectorParams:
    values = YAML(typ="safe").load(PARAMS)["detector"]
    small = {"steps": 40, "batch_size": 4, "crop_px": 64, "width": 16, "views": 1}
    return DetectorParams.model_validate(values | small | {"precision": "fp32"})


def test_discs_are_learnt_and_found_again_from_the_bundle(data, params, tmp_path):
    finder = train_detector(data, params, 1, Recorder(), tmp_path / "detector")
    loaded = NucleusFinder.load(tmp_path / "detector")
    assert (loaded.threshold, loaded.mpp) == (finder.threshold, 0.25)
    found = loaded.find(data.read("case_2-01"))
    truth = data.dots.loc[data.dots["frame_id"] == "case_2-01", ["x_px", "y_px"]].to_numpy()
    distances = np.linalg.norm(found[["x_px", "y_px"]].to_numpy()[:, None] - truth, axis=2)
    assert (distances.min(axis=0) < 15).mean() > 0.8
    assert open_bundle(tmp_path / "detector").config["kind"] == "detector"
    kept = read_table(tmp_path / "detector" / PREDICTIONS, CANDIDATES)
    assert set(kept["split"]) == {"validation", "test"}


def test_the_same_seed_gives_the_same_bytes(data, params, tmp_path):
    short = params.model_copy(update={"steps": 3})
    digests = set()
    for name in ("a", "b"):
        train_detector(data, short, 1, Recorder(), tmp_path / name / "detector")
        digests.add(open_bundle(tmp_path / name / "detector").digest)
    assert len(digests) == 1
