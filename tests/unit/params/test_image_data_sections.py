"""Sections `data`, `classes`, `patches` and `simulation.brecahad`."""

from pathlib import Path

import pytest

from histofuse.core.errors import InputError
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, DataParams
from histofuse.params.patches import PatchParams
from histofuse.params.simulation import HistologySimulationParams

ROOT = Path(__file__).parents[3]


def load(model, name: str, text: str, folder: Path):
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_section(model, name, path)


def test_the_shipped_file_fits_each_section():
    params = ROOT / "params.yaml"
    assert load_section(DataParams, "data", params).brecahad
    assert load_section(ClassesParams, "classes", params).names == [
        "mitosis",
        "tumour",
        "non_tumour",
    ]
    patches = load_section(PatchParams, "patches", params)
    assert patches.stored_px == patches.patch_px + 2 * patches.margin_px
    assert load_section(HistologySimulationParams, "simulation.brecahad", params).cases == 90


def test_classes_keep_their_order_and_accept_both_spellings(tmp_path):
    text = "classes:\n  b: [tubule]\n  a: [tumor, apoptosis]\n"
    classes = load(ClassesParams, "classes", text, tmp_path)
    assert classes.names == ["b", "a"]
    assert classes.class_of_key == {"lumen": "b", "tumor": "a", "apoptosis": "a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{mitosis: [mitosis], tumour: [tumour]}", "tumour is not: mitosis, non_mitosis"),
        ("{mitosis: [mitosis], tumour: [mitosis]}", "mitosis is in several"),
        ("{hole: [lumen], gap: [tubule]}", "lumen is in several"),
        ("{mitosis: [mitosis], tumour: []}", "at least one key for tumour"),
        ("{mitosis: [mitosis]}", "at least two classes"),
        ("{mitosis: [mitosis], Tumour cells: [tumor]}", "Tumour cells"),
        ("{mitosis: mitosis, tumour: [tumor]}", "classes.mitosis"),
    ],
)
def test_classes_that_make_no_sense_are_refused(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load(ClassesParams, "classes", f"classes: {text}", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch_px: 64.0", "patches.patch_px"),
        ("patch_px: 4", "patches.patch_px"),
        ("margin_px: -1", "patches.margin_px"),
        ("patch_um: 0", "patches.patch_um"),
        ("stain_normalisation: reinhard", "'none' or 'macenko'"),
        ("stride_px: 3", "patches.stride_px: unknown key"),
        ("engine: dask", r"patches.engine.*threads, processes or an address"),
        ("engine: tcp://host", r"patches.engine.*threads, processes or an address"),
        ("workers: 0", "patches.workers"),
        ("workers: most", "patches.workers"),
    ],
)
def test_patch_params_out_of_range_are_refused(text, message, tmp_path):
    lines = {"patch_px": "64", "margin_px": "16", "shard_patches": "10", "patch_um": "16.0"}
    lines |= {"stain_normalisation": "none", "engine": "threads", "workers": "auto"}
    key, value = text.split(": ")
    lines[key] = value
    body = "patches:\n" + "".join(f"  {k}: {v}\n" for k, v in lines.items())
    with pytest.raises(InputError, match=message):
        load(PatchParams, "patches", body, tmp_path)


def test_shares_of_nuclei_cannot_exceed_one(tmp_path):
    text = (
        "simulation: {brecahad: {cases: 1, frames_per_case: 1, width_px: 64, height_px: 64, "
        "nuclei_per_frame: 5, mitosis_fraction: 0.6, non_tumour_fraction: 0.5}}"
    )
    with pytest.raises(InputError, match="at most 1"):
        load(HistologySimulationParams, "simulation.brecahad", text, tmp_path)
