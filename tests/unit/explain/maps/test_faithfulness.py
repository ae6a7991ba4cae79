"""Tests of maps tell a trained network from one that is not, and one that looks elsewhere."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import spearmanr
from torch import nn

from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import (
    correlate_ranks,
    estimate_means,
    list_concerns,
    render_estimates,
)
from histofuse.explain.maps.faithfulness import (
    Curves,
    correlate_maps,
    define_measures,
    draw_disc,
    measure_mass_inside,
    order_by_map,
    order_from_centre,
    order_randomly,
    score_maps,
)
from histofuse.explain.maps.mappers import Inputs, Mapper, map_image_network, map_through_fusion
from histofuse.explain.maps.methods import blur
from histofuse.models.backbones import ImageModel, ImageSpec, MapLayer
from histofuse.models.fusion import FusionHead
from histofuse.params.explain import ExplainParams, MapParams
from histofuse.params.intervals import IntervalParams

SIDE, CASES = 32, 12
LAYER = MapLayer("backbone.second", 16)
MAPS = MapParams(
    methods=["gradcam", "hirescam", "layercam", "scorecam"],
    per_class=20,
    masks=8,
    steps=8,
    blur_px=6.0,
    most_empty=0.01,
    random_heads=2,
    most_alike=0.5,
    centre_margin=0.02,
)
SIZES = ExplainParams.model_construct(nucleus_radius_px=8.0, maps=MAPS)
BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=500, confidence=0.95, method="percentile", fewest_groups=10), seed=1
)
SPEC = ImageSpec("tiny", ["pale", "dark"], SIDE, SIDE, 0, "unit", 0.0)


def make_block(inputs, outputs):
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


class TinyBackbone(nn.Module):
    """Two convolutions and the mean over the map: there Grad-CAM is exact."""

    def __init__(self):
        super().__init__()
        self.first, self.second = make_block(3, 8), make_block(8, 16)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        return self.pool(self.second(self.first(images)))


def build_tiny(spec=SPEC, weights="none"):
    model = ImageModel(spec, TinyBackbone(), 16)
    model.gradcam_layer = LAYER
    return model


@pytest.fixture(autouse=True)
def untrained_networks_are_tiny(monkeypatch):
    monkeypatch.setattr("histofuse.explain.maps.mappers.build_model", build_tiny)


def to_probabilities(logits):
    return softmax(logits, axis=1)


def make_images(count, seed, *, corner):
    """Noise with a nucleus in the middle; the label is its darkness, or a marker in the corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = 0.6 + 0.08 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    disc = torch.from_numpy(draw_disc(SIDE, 6.0)).float()
    shade = torch.randint(0, 2, (count,), generator=generator) if corner else labels
    images -= (0.1 + 0.3 * shade.view(-1, 1, 1, 1)) * disc
    if corner:
        images[:, :, 1:6, 1:6] += 0.4 * labels.view(-1, 1, 1, 1)
    return images.clamp(0, 1), labels


def train(images, labels, epochs=12):
    torch.manual_seed(0)
    model = build_tiny()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(epochs):
        for rows in torch.arange(len(images)).split(32):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def examine(model, *, corner):
    """Test the maps of the marked class: that is where there is something to point at."""
    images, labels = make_images(160, 7, corner=corner)
    images = images[labels == 1][:60]
    mapper = map_image_network("toy", model)
    inputs = Inputs(images, (), torch.ones(len(images), dtype=torch.long))
    scores = score_maps(mapper, inputs, to_probabilities, SIZES, 3)
    groups = np.arange(len(images)) % CASES
    return render_estimates(estimate_means(scores, groups, BOOTSTRAP), define_measures(MAPS), 10)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(5)
    return SimpleNamespace(
        centre=train(*make_images(320, 1, corner=False)),
        corner=train(*make_images(320, 2, corner=True)),
        untrained=build_tiny().eval(),
    )


def test_scores_separate_a_trained_network_from_an_untrained_one(networks):
    trained, untrained = (
        examine(model, corner=False) for model in (networks.centre, networks.untrained)
    )
    for name in ("deletion_gain_over_random", "insertion_gain_over_random", "cam_mass_inside"):
        assert trained[name]["low"] > 0, name
        assert trained[name]["concern"] == "", name
    for name in ("deletion_gain_over_random", "insertion_gain_over_random"):
        assert untrained[name]["value"] < trained[name]["low"], name
    assert trained["head_randomisation_rank_correlation"]["value"] < 0.5
    assert abs(untrained["deletion_gain_over_random"]["value"]) < 0.02


def test_a_network_that_looks_at_a_marker_in_the_corner_is_caught(networks):
    found = examine(networks.corner, corner=True)
    assert found["cam_mass_inside"]["high"] < 0
    assert found["cam_mass_inside"]["concern"]
    assert any(text.startswith("cam_mass_inside") for text in list_concerns(found))
    # The map itself is faithful: what it points at is what the network uses.
    assert found["deletion_gain_over_random"]["low"] > 0
    assert found["deletion_gain_over_centre"]["low"] > 0


def test_weights_are_randomised_from_the_head_and_this_leaves_the_network_alone(networks):
    model = networks.centre
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, _ = make_images(4, 9, corner=False)
    mapper = map_image_network("toy", model)
    parts = dict(mapper.randomise(Inputs(images, (), torch.ones(4, dtype=torch.long)), 1))
    assert list(parts) == ["head", "second", "first"]
    covered = [n for n in before if any(n.startswith(prefixes) for _, prefixes in mapper.parts)]
    assert covered == list(before)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_fusion_head_is_randomised_before_its_network(networks):
    torch.manual_seed(1)
    head = FusionHead(16, 3, [8], 2, 0.0).eval()
    mapper = map_through_fusion("fused", networks.centre, head)
    images, _ = make_images(4, 9, corner=False)
    inputs = Inputs(images, (torch.randn(4, 3),), torch.zeros(4, dtype=torch.long))
    assert mapper.layer_name == "second"
    assert next(iter(dict(mapper.randomise(inputs, 1)))) == "fusion head"
    logits = mapper.compute_logits(images, inputs.others)
    with torch.inference_mode():
        expected = head(networks.centre.embed(images), inputs.others[0])
    np.testing.assert_allclose(logits, expected, atol=1e-6)


# --- by hand ------------------------------------------------------------------------------------


def test_mass_inside_is_the_share_of_mass_less_that_of_area_and_0_where_there_is_none():
    nucleus = np.zeros((4, 4), dtype=bool)
    nucleus[1:3, 1:3] = True
    maps = np.zeros((4, 4, 4), np.float32)
    maps[0, 1, 1] = 1
    maps[1, 0, 0] = 1
    maps[2] = 0.5
    found = measure_mass_inside(maps, nucleus)
    np.testing.assert_allclose(found, [0.75, -0.25, 0.0, 0.0], atol=1e-7)


def test_the_disc_has_the_area_of_its_radius():
    assert draw_disc(64, 16.0).sum() == pytest.approx(np.pi * 16**2, rel=0.02)
    assert draw_disc(2, 0.1).sum() == 0


def test_orders_begin_with_the_strongest_cell_and_with_the_nearest_to_the_centre():
    maps = np.random.default_rng(0).random((3, 3, 3)).astype(np.float32)
    chance = order_randomly(maps, 1)
    assert (np.sort(chance, axis=1) == np.arange(9)).all()
    np.testing.assert_array_equal(order_by_map(maps, chance), np.argsort(-maps.reshape(3, 9)))
    np.testing.assert_array_equal(order_by_map(np.zeros_like(maps), chance), chance)
    assert order_from_centre(maps)[0, 0] == 4
    assert set(order_from_centre(maps)[0, -4:]) == {0, 2, 6, 8}


class Brightness(nn.Module):
    """Logits 0 and the sum over all pixels of the image's left half."""

    def forward(self, images):
        total = images[:, :, :, :2].sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(total), total], dim=1)


def test_areas_are_those_of_a_slow_loop():
    images = torch.rand(2, 3, 4, 4)
    inputs = Inputs(images, (), torch.ones(2, dtype=torch.long))
    spec = ImageSpec("none", ["a", "b"], 4, 4, 0, "unit", 0.0)
    image = ImageModel(spec, nn.Identity(), 1)
    mapper = Mapper("toy", image, Brightness(), LAYER, image.map_method, ())
    blurred = torch.zeros_like(images)
    curves = Curves(mapper, inputs, blurred, to_probabilities, 4)
    order = np.array([[0, 1, 2, 3], [3, 1, 0, 2]])  # cells of 2 x 2 pixels, row by row
    for inserting in (False, True):
        found = curves.measure_area(order, inserting=inserting)
        for n in range(2):
            heights = []
            for done in range(5):
                image = images[n].clone()
                for row in range(4):
                    for column in range(4):
                        touched = row // 2 * 2 + column // 2 in order[n][:done]
                        if touched != inserting:
                            image[:, row, column] = 0
                heights.append(1 / (1 + np.exp(-image[:, :, :2].sum().item())))
            expected = np.mean([(a + b) / 2 for a, b in itertools.pairwise(heights)])
            assert found[n] == pytest.approx(expected, abs=1e-6)


def test_blur_keeps_a_flat_image_and_the_mean_of_any():
    flat = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(blur(flat, 3.0), flat)
    image = torch.zeros(1, 3, 33, 33)
    image[:, :, 16, 16] = 1
    found = blur(image, 2.0)
    assert found[0, 0].sum() == pytest.approx(1, abs=1e-5)
    assert found[0, 0, 16, 16] == pytest.approx(1 / (2 * np.pi * 4), rel=0.01)
    torch.testing.assert_close(found[0, 0, 16, 18], found[0, 0, 16, 16] * np.exp(-0.5))


def test_a_map_that_stays_empty_has_not_changed_and_one_that_appears_has():
    full, empty = np.arange(4.0), np.zeros(4)
    maps, others = (
        np.stack(parts).reshape(3, 2, 2).astype(np.float32)
        for parts in ([empty, empty, full], [empty, full, empty])
    )
    assert correlate_maps(maps, others).tolist() == [1.0, 0.0, 0.0]


def test_maps_are_correlated_as_scipy_does_and_constant_ones_left_out():
    rng = np.random.default_rng(0)
    maps, others = (rng.integers(0, 5, (4, 3, 3)).astype(np.float32) for _ in range(2))
    maps[3] = 0
    found = correlate_ranks(*(m.reshape(len(m), -1) for m in (maps, others)))
    for n in range(3):
        assert found[n] == pytest.approx(spearmanr(maps[n].ravel(), others[n].ravel())[0])
    assert np.isnan(found[3])
