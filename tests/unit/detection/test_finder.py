import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logit
from torch import nn
from torch.nn.functional import avg_pool2d

from histofuse.commands.prediction.predict import Request, predict
from histofuse.core.errors import InputError
from histofuse.detection import finder as module
from histofuse.detection.finder import NucleusFinder, reduce_pixels
from histofuse.detection.network import DetectorSpec, HeatNetwork, describe_detector
from histofuse.detection.scoring import match
from histofuse.serving.predict import open_predictor
from histofuse.tracking.interface import describe_interface, encode_png


def places(table):
    return table[["x_px", "y_px"]].to_numpy()


def test_a_bundle_finds_what_its_detector_finds(finder, bundle, tissue):
    loaded = NucleusFinder.load(bundle)
    answer, expected = loaded.find(tissue), finder.find(tissue)
    assert list(answer) == ["x_px", "y_px", "score"]
    assert loaded.mpp == 0.25
    assert len(answer) > 20
    assert answer.equals(expected)


def test_tiles_find_what_the_whole_image_shows(finder, tissue, monkeypatch):
    whole = finder.find_candidates(tissue)
    monkeypatch.setattr(module, "_TILE_PX", 96)
    tiled = finder.find_candidates(tissue)
    assert len(tiled) == len(whole) > 100
    assert (match(places(tiled), places(whole), 1.0) >= 0).all()
    assert np.abs(tiled["score"].sum() - whole["score"].sum()) < 0.01 * len(whole)


def test_tiles_without_context_would_lose_nuclei(finder, tissue, monkeypatch):
    whole = finder.find_candidates(tissue)
    monkeypatch.setattr(module, "_TILE_PX", 96)
    monkeypatch.setattr(module, "_CONTEXT_PX", 0)
    tiled = finder.find_candidates(tissue)
    paired = match(places(tiled), places(whole), 1.0) >= 0
    assert not (paired.all() and len(tiled) == len(whole))


def test_parts_of_an_image_with_their_context_find_what_the_whole_shows(finder, tissue):
    whole, cut = finder.find_candidates(tissue), 256
    context = finder.context_px
    left = finder.find_candidates(tissue[:, : cut + context])
    right = finder.find_candidates(tissue[:, cut - context :])
    right["x_px"] += cut - context
    joined = np.concatenate([places(left[left["x_px"] < cut]), places(right[right["x_px"] >= cut])])
    assert len(joined) == len(whole)
    assert (match(joined, places(whole), 1.0) >= 0).all()


@pytest.fixture
def twice(finder):
    """The detector at two reductions, its maps averaged."""
    network = copy.copy(finder.network)
    network.spec = replace(network.spec, reductions=[2, 3])
    return NucleusFinder(network, 0.5)


class Darkness(HeatNetwork):
    """A network whose map of nuclei is how dark its input is, the coarser the less."""

    def __init__(self, reductions):
        nn.Module.__init__(self)
        spec = DetectorSpec("none", ["any"], "unit", 8, reductions, 8.0, 30.0, 1, None)
        self.spec, self.stride, self.multiple = spec, 2, 16
        self.weight = nn.Parameter(torch.ones(1))

    def average_views(self, images):
        dark = 3 - 9 * avg_pool2d(images, 8, 2, 3).mean(1, keepdim=True)
        return dark.expand(-1, 2, -1, -1)


def test_maps_of_several_reductions_are_averaged_where_they_show_the_same_place():
    y, x = np.mgrid[:300, :420] + 0.5
    pixels = np.full((300, 420, 3), (225, 190, 210), np.uint8)
    pixels[np.hypot(x - 211, y - 133) < 12] = (90, 60, 140)
    alone, together = ([2], [3]), [2, 3]
    tables = [NucleusFinder(Darkness(r), 0.0).find_candidates(pixels) for r in (*alone, together)]
    assert [len(table) for table in tables] == [1, 1, 1]
    for table in tables:
        assert places(table)[0] == pytest.approx([211, 133], abs=0.5)
    fine, coarse, both = (logit(table["score"][0]) for table in tables)
    assert both == pytest.approx((fine + coarse) / 2, abs=0.02)
    assert abs(fine - coarse) > 0.05


def test_parts_that_begin_at_a_step_find_what_the_whole_shows_at_two_reductions(twice, tissue):
    assert twice.step_px == 96
    assert twice.context_px == 384
    wide, cut = np.tile(tissue, (1, 3, 1)), 10 * 96
    whole, start = twice.find_candidates(wide), cut - 384
    right = twice.find_candidates(wide[:, start:])
    right["x_px"] += start
    mine, expected = (table[table["x_px"] >= cut] for table in (right, whole))
    assert len(mine) == len(expected) > 20
    assert (match(places(mine), places(expected), 1.0) >= 0).all()


def test_nuclei_at_the_border_are_left_out(finder, tissue):
    network = copy.copy(finder.network)
    network.spec = replace(network.spec, border_px=20.0)
    whole = finder.find_candidates(tissue)
    inner = NucleusFinder(network, 0.5).find_candidates(tissue)
    x, y = places(whole).T
    kept = (x >= 20) & (x < 530 - 20) & (y >= 20) & (y < 361 - 20)
    assert 0 < len(inner) < len(whole)
    assert inner.equals(whole[kept].reset_index(drop=True))


@pytest.mark.parametrize("grey", [255, 243])
def test_an_image_without_tissue_has_no_nuclei(finder, grey):
    blank = np.full((300, 400, 3), grey, np.uint8)
    found = finder.find(blank)
    assert found.empty
    assert list(found) == ["x_px", "y_px", "score"]


def test_a_tiny_image_is_read(finder, tissue):
    small = tissue[:9, :13]
    found = finder.find_candidates(small)
    assert ((found["x_px"] < 13) & (found["y_px"] < 9)).all()


def test_images_of_another_resolution_are_refused(finder):
    finder.require_mpp(None, "slide.svs")
    finder.require_mpp(0.2277, "slide.svs")
    with pytest.raises(
        InputError, match=r"slide\.svs: has 0\.5 µm per pixel; expected about 0\.25"
    ):
        finder.require_mpp(0.5, "slide.svs")


def test_reduction_averages_and_fills_up():
    pixels = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    reduced = reduce_pixels(pixels, 2)
    assert reduced.shape == (3, 2, 3)
    assert (reduced[0, 0] == np.round(pixels[:2, :2].reshape(4, 3).mean(0) + 1e-9)).all()
    assert (reduced[2, 1] == pixels[4, 2]).all()


def test_a_registered_detector_answers_with_the_nuclei_of_each_frame(finder, bundle, tissue):
    predictor = open_predictor(bundle)
    blank = np.full((50, 40, 3), 255, np.uint8)
    answer = predictor.predict(pd.DataFrame({"image": [encode_png(tissue), encode_png(blank)]}))
    for name, expected in finder.find(tissue).items():
        assert answer[name][0] == expected.tolist()
    assert answer["x_px"][1] == []
    assert set(answer) == set(describe_interface(predictor.bundle, {}).outputs)
    with pytest.raises(InputError, match=r"(?s)row 0, image.*4097.*row 1, image"):
        predictor.read(pd.Series([np.zeros((1, 4097, 3), np.uint8), "?"]))


def test_a_detector_is_no_model_of_nuclei_already_found(bundle, tmp_path):
    request = Request(tmp_path, None, None, None, str(bundle), tmp_path / "out.csv", 8)
    with pytest.raises(InputError, match="is a detector, which finds nuclei"):
        predict(request)


def test_bundles_without_a_border_load(finder):
    architecture = describe_detector(finder.network)
    del architecture["border_px"]
    assert DetectorSpec(**architecture) == finder.network.spec
