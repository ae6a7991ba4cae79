"""Exporting patches as class folders of PNG files."""

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile

from histofuse.core.errors import InputError
from histofuse.data.brecahad import ANNOTATIONS, FRAMES
from histofuse.data.cutting import write_patches
from histofuse.data.imagefolder import export_imagefolder
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.patches import PatchMeta, crop_margin, load_index, read_patches


@pytest.fixture
def patches(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "Case_1-01.tif", rgb, photometric="rgb")
    frames = [("Case_1-01", "Case_1", "images/Case_1-01.tif", 50, 50, "0")]
    points = [
        ("Case_1-01", "Case_1", 20.0, 20.0, "mitosis", "mitosis"),
        ("Case_1-01", "Case_1", 30.0, 20.0, "tumour", "tumor"),
        ("Case_1-01", "Case_1", 20.0, 30.0, "tumour", "tumor"),
    ]
    meta = PatchMeta(8, 2, 12, ["mitosis", "tumour"], "simulated", "none")
    folder = tmp_path / "patches"
    annotations = pd.DataFrame(points, columns=list(ANNOTATIONS.columns))
    table = pd.DataFrame(frames, columns=list(FRAMES.columns))
    write_patches(annotations, table, tmp_path, folder, meta=meta, reading=UNKNOWN, shard_patches=2)
    return folder


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_split_and_class_name_the_folders(patches, tmp_path):
    index = load_index(patches)
    splits = index.assign(split=["train", "test", "train"]).iloc[::-1]
    out = tmp_path / "export"

    assert export_imagefolder(patches, splits, out) == 3
    assert files_in(out) == [
        "test/tumour/Case_1-01_0001.png",
        "train/mitosis/Case_1-01_0000.png",
        "train/tumour/Case_1-01_0002.png",
    ]
    stored = crop_margin(read_patches(patches, index), 2)
    png = imagecodecs.png_decode((out / "test/tumour/Case_1-01_0001.png").read_bytes())
    np.testing.assert_array_equal(png, stored[1])


def test_without_splits_the_classes_lie_directly_in_the_folder(patches, tmp_path):
    export_imagefolder(patches, None, tmp_path / "export")
    assert files_in(tmp_path / "export")[0] == "mitosis/Case_1-01_0000.png"


def test_a_folder_with_files_is_left_alone(patches, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty"):
        export_imagefolder(patches, None, out)
    assert files_in(out) == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_left_alone(patches, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out: is a file; expected a new folder"):
        export_imagefolder(patches, None, tmp_path / "out")


def test_splits_of_other_patches_are_refused_and_nothing_is_written(patches, tmp_path):
    splits = load_index(patches).assign(split="train").iloc[:2]
    with pytest.raises(InputError, match="1 patch without a split"):
        export_imagefolder(patches, splits, tmp_path / "export")
    assert not (tmp_path / "export").exists()
