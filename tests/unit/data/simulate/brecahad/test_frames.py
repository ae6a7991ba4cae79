"""The simulated BreCaHAD."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from histofuse.core.seeding import make_rng
from histofuse.data.brecahad import read_brecahad
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.simulate.brecahad.frames import (
    FramePlan,
    plan_frames,
    render_frame,
    simulate_brecahad,
)
from histofuse.data.simulate.brecahad.stains import draw_case_look, soften_look
from histofuse.data.splits import split_patches
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams
from histofuse.params.simulation import HistologySimulationParams
from histofuse.params.splits import ImageSplitParams

SMALL = {
    "cases": 2,
    "frames_per_case": 2,
    "width_px": 320,
    "height_px": 242,
    "nuclei_per_frame": 14,
    "mitosis_fraction": 0.2,
    "non_tumour_fraction": 0.2,
}
CLASSES = ClassesParams.model_validate(
    {"mitosis": ["mitosis"], "tumour": ["tumor"], "non_tumour": ["non_tumor"]}
)


def make_params(**changes) -> HistologySimulationParams:
    return HistologySimulationParams(**{**SMALL, **changes})


def digests(folder: Path) -> dict[str, str]:
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "brecahad"
    simulate_brecahad(make_params(), 1, folder)
    return folder


def test_the_reader_takes_it_for_brecahad(folder):
    data = read_brecahad(folder, CLASSES, UNKNOWN)
    assert data.notes == []
    assert data.frames["frame_id"].tolist() == [
        "Case_1-01", "Case_1-02", "Case_2-01", "Case_2-02",
    ]  # fmt: skip
    assert set(data.frames["width_px"]) == {320}
    assert set(data.frames["height_px"]) == {242}
    assert data.frames["pixels_sha256"].is_unique
    planned = Counter()
    for plan in plan_frames(make_params(), 1):
        planned.update(plan.counts)
    counts = Counter(data.annotations["source_key"])
    assert counts == {k: planned[k] for k in ("mitosis", "tumor", "non_tumor")}


def test_files_have_the_published_form_and_say_that_they_are_simulated(folder):
    truth = json.loads((folder / "groundTruth" / "Case_1-01.json").read_text())
    assert set(truth) == {
        "mitosis", "non_mitosis", "apoptosis", "tumor", "non_tumor", "lumen", "non_lumen",
    }  # fmt: skip
    with tifffile.TiffFile(folder / "images" / "Case_1-01.tif") as tiff:
        page = tiff.pages.first
        assert (page.shape, page.dtype) == ((242, 320, 3), np.uint8)
        assert "Simulated" in page.description
    assert json.loads((folder / "SIMULATED.json").read_text())["source"] == "simulated"


def test_another_seed_gives_other_frames(folder, tmp_path):
    simulate_brecahad(make_params(cases=1), 2, tmp_path / "other")
    assert digests(tmp_path / "other")["images/Case_1-01.tif"] not in digests(folder).values()


def test_an_older_result_is_replaced_whole(tmp_path):
    out = tmp_path / "brecahad"
    (out / "images").mkdir(parents=True)
    (out / "images" / "Case_99-01.tif").write_bytes(b"old")
    simulate_brecahad(make_params(cases=1, frames_per_case=1), 1, out)
    assert sorted(digests(out)) == [
        "SIMULATED.json", "groundTruth/Case_1-01.json", "images/Case_1-01.tif",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [20260101, *range(1, 10)])
def test_each_split_of_the_default_run_holds_twenty_mitoses(seed):
    params = load_section(HistologySimulationParams, "simulation.brecahad")
    patches = plan_patches(params, seed)
    splits = split_patches(patches, load_section(ImageSplitParams, "splits.images"), seed)

    mitoses = splits[splits["label"] == "mitosis"]["split"].value_counts()
    assert mitoses.min() >= 20
    assert set(mitoses.index) == {"train", "validation", "test"}
    assert splits[splits["split"] == "test"]["case_id"].nunique() >= 10


@pytest.mark.parametrize("seed", [20260101, 1, 2])
def test_mitoses_are_uneven_over_cases_and_have_their_share(seed):
    params = load_section(HistologySimulationParams, "simulation.brecahad")
    patches = plan_patches(params, seed)

    share = patches["label"].value_counts(normalize=True)
    assert share["mitosis"] == pytest.approx(params.mitosis_fraction, rel=0.1)
    assert share["non_tumour"] == pytest.approx(params.non_tumour_fraction, rel=0.15)
    assert len(patches) == pytest.approx(
        params.cases * params.frames_per_case * params.nuclei_per_frame, rel=0.05
    )
    mitoses = patches[patches["label"] == "mitosis"]["case_id"].value_counts()
    assert 0.3 < 1 - len(mitoses) / params.cases < 0.45
    assert mitoses.iloc[0] > 6 * mitoses.sum() / params.cases


def plan_patches(params: HistologySimulationParams, seed: int) -> pd.DataFrame:
    """The patches of the planned frames, without their pixels."""
    rows = [
        (plan.frame_id, f"Case_{plan.case}", label)
        for plan in plan_frames(params, seed)
        for label, (key,) in CLASSES.root.items()
        for _ in range(plan.counts[key])
    ]
    table = pd.DataFrame(rows, columns=["frame_id", "case_id", "label"])
    return table.assign(patch_id=table.index.astype("str"))


def test_dots_lie_two_to_five_pixels_from_the_centres(folder):
    plan = plan_frames(make_params(), 1)[0]
    look = draw_case_look(make_rng(1, "simulate_brecahad", "look", 1))
    rng = make_rng(1, "simulate_brecahad", "frame", plan.frame_id)
    _, centres = render_frame(plan, look, (242, 320), rng)
    truth = json.loads((folder / "groundTruth" / f"{plan.frame_id}.json").read_text())
    for key in ("tumor", "mitosis"):
        dots = np.array([(p["x"] * 320, p["y"] * 242) for p in truth[key]])
        away = np.hypot(*(dots - centres[key]).T)
        inside = ((dots > 0.01) & (dots < (319.99, 241.99))).all(axis=1)
        assert inside.any()
        assert (away[inside] > 1.99).all()
        assert (away < 5.01).all()


def test_nuclei_look_like_their_kind():
    """Mitoses are dark, tumour nuclei large and paler, lymphocytes and spindles small."""
    rng = np.random.default_rng(0)
    counts = {"mitosis": 12, "apoptosis": 0, "tumor": 40, "non_tumor": 20}
    look = draw_case_look(np.random.default_rng(4))
    frame, centres = render_frame(FramePlan("Case_1-01", 1, counts), look, (1024, 1360), rng)
    red = frame[..., 0].astype(float)

    def darkness(key: str) -> np.ndarray:
        near = [
            red[int(max(y - 4, 0)) : int(y + 5), int(max(x - 4, 0)) : int(x + 5)]
            for x, y in centres[key]
        ]
        return np.array([window.min() for window in near])

    assert np.median(darkness("mitosis")) < np.median(darkness("tumor")) - 15
    assert np.median(red) > np.median(darkness("tumor")) + 40
    # Not trivially: some tumour nucleus is as dark as the palest mitosis.
    assert darkness("tumor").min() < darkness("mitosis").max()


def test_cases_differ_in_colour(folder):
    means = [
        tifffile.imread(folder / "images" / f"Case_{case}-01.tif").reshape(-1, 3).mean(axis=0)
        for case in (1, 2)
    ]
    assert np.abs(means[0] - means[1]).max() > 3


@pytest.mark.parametrize("shape", [(64, 64), (65, 131), (300, 64)])
@pytest.mark.parametrize("tumour", [0, 60])
def test_frames_of_any_size_and_density_are_rendered(shape, tumour):
    counts = {"mitosis": 1, "apoptosis": 1, "tumor": tumour, "non_tumor": 1}
    rng = np.random.default_rng(0)
    frame, centres = render_frame(
        FramePlan("Case_1-01", 1, counts), draw_case_look(rng), shape, rng
    )
    assert frame.shape == (*shape, 3)
    assert {key: len(centres[key]) for key in counts} == counts
    for points in centres.values():
        assert ((points >= 0) & (points < (shape[1], shape[0]))).all()


def test_softened_looks_keep_a_share_of_their_difference():
    looks = [draw_case_look(np.random.default_rng(seed)) for seed in range(2)]

    def differ(variation):
        first, second = (vars(soften_look(look, variation)) for look in looks)
        return {name: np.subtract(first[name], second[name]) for name in first}

    for name, whole in differ(1.0).items():
        np.testing.assert_allclose(whole, np.subtract(*(getattr(of, name) for of in looks)))
        np.testing.assert_allclose(differ(0.25)[name], 0.25 * whole, atol=1e-9)
