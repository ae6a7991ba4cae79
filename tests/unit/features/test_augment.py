"""Augmentation by value."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from histofuse.features.augment import (
    DRAWN,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Jitter,
    PatchGeometry,
    Staining,
    Warp,
    apply_jitter,
    apply_staining,
    apply_warp,
    augment_patches,
    choose_changes,
    crop_centre,
    mirror,
    normalise,
    prepare_patches,
    resize,
    to_float,
    to_stored,
)
from histofuse.features.stain import REFERENCE
from histofuse.params.image import AugmentationParams

GEOMETRY = PatchGeometry(patch_px=16, margin_px=8, input_px=16)
OFF = AugmentationParams(
    flips=False,
    rotation_degrees=0.0,
    scale=[1.0, 1.0],
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    stain_scale=0.0,
    stain_shift=0.0,
)
ALL = AugmentationParams(
    flips=True,
    rotation_degrees=180.0,
    scale=[0.7, 1.3],
    brightness=0.5,
    contrast=0.5,
    saturation=0.5,
    hue=0.5,
    stain_scale=0.5,
    stain_shift=0.2,
)


def make_stored(n: int = 4, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator)


def draw(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, DRAWN, generator=torch.Generator().manual_seed(seed))


def make_warp(n: int, degrees: float = 0.0, scale: float = 1.0, flips=(False, False)) -> Warp:
    return Warp(
        mirror=torch.tensor([flips] * n),
        angle=torch.full((n,), math.radians(degrees)),
        scale=torch.full((n,), scale),
        shift=torch.zeros(n, 2),
    )


def make_jitter(n: int, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0) -> Jitter:
    return Jitter(*(torch.full((n,), v) for v in (brightness, contrast, saturation, hue)))


def centre_of(stored: torch.Tensor) -> torch.Tensor:
    return stored[:, 8:24, 8:24].permute(0, 3, 1, 2) / 255


def test_turned_off_it_is_the_centre_of_the_stored_patch():
    stored = make_stored()
    augmented = augment_patches(stored, GEOMETRY, "unit", OFF, draw(len(stored)))
    assert torch.equal(augmented, centre_of(stored))
    assert torch.equal(prepare_patches(stored, GEOMETRY, "unit"), centre_of(stored))


def test_a_warp_that_changes_nothing_is_the_centre_too():
    stored = make_stored()
    warped = apply_warp(to_float(stored), GEOMETRY, make_warp(4))
    torch.testing.assert_close(warped, centre_of(stored), atol=1e-5, rtol=0)


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
def test_mirrors_are_exact_and_the_same_by_either_way(flips):
    stored = make_stored()
    axes = [axis for axis, on in ((3, flips[0]), (2, flips[1])) if on]
    expected = centre_of(stored).flip(axes)

    assert torch.equal(mirror(centre_of(stored), torch.tensor([flips] * 4)), expected)
    warped = apply_warp(to_float(stored), GEOMETRY, make_warp(4, flips=flips))
    torch.testing.assert_close(warped, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turn_by_quarters_is_rot90(quarters):
    stored = make_stored()
    warped = apply_warp(to_float(stored), GEOMETRY, make_warp(4, degrees=90.0 * quarters))
    expected = torch.rot90(centre_of(stored), quarters, dims=(2, 3))
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=0)


def test_a_crop_of_half_the_side_reads_the_middle_and_of_double_the_whole_window():
    ramp = torch.arange(32, dtype=torch.uint8).expand(1, 3, 32, 32).permute(0, 2, 3, 1)
    half = apply_warp(to_float(ramp), GEOMETRY, make_warp(1, scale=0.5)) * 255
    double = apply_warp(to_float(ramp), GEOMETRY, make_warp(1, scale=2.0)) * 255
    # Centres of output pixels: 8 of 16 px around the middle, all 32 px.
    torch.testing.assert_close(half[0, 0, 0], torch.arange(16) * 0.5 + 11.75, atol=1e-3, rtol=0)
    torch.testing.assert_close(double[0, 0, 0], torch.arange(16) * 2 + 0.5, atol=1e-3, rtol=0)


def test_no_corner_is_black_even_without_a_margin():
    stored = torch.full((8, 16, 16, 3), 200, dtype=torch.uint8)
    geometry = PatchGeometry(patch_px=16, margin_px=0, input_px=16)
    colours = ("brightness", "contrast", "saturation", "hue", "stain_scale", "stain_shift")
    params = ALL.model_copy(update=dict.fromkeys(colours, 0.0))
    images = augment_patches(stored, geometry, "unit", params, draw(len(stored), 1))
    torch.testing.assert_close(images, torch.full_like(images, 200 / 255), atol=1e-5, rtol=0)


def test_a_small_crop_stays_within_the_patch():
    params = OFF.model_copy(update={"scale": [0.5, 0.9]})
    warp, _, _ = choose_changes(draw(500, 2), params)
    assert (warp.shift.abs() + warp.scale[:, None] / 2 <= 0.5 + 1e-6).all()
    assert warp.shift.abs().max() > 0.2
    assert warp.scale.min() < 0.52 and warp.scale.max() > 0.88


def test_flips_are_drawn_half_the_time_and_never_when_off():
    on, _, _ = choose_changes(draw(2000, 3), ALL)
    off, _, _ = choose_changes(draw(2000, 3), OFF)
    assert on.mirror.float().mean(dim=0) == pytest.approx([0.5, 0.5], abs=0.05)
    assert not off.mirror.any()


def test_jitter_of_nothing_changes_nothing_and_bounds_hold():
    images = to_float(make_stored())
    torch.testing.assert_close(apply_jitter(images, make_jitter(4)), images, atol=1e-6, rtol=0)
    augmented = augment_patches(make_stored(64), GEOMETRY, "unit", ALL, draw(64, 4))
    assert augmented.min() >= 0 and augmented.max() <= 1


def test_jitter_by_value():
    images = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6

    brighter = apply_jitter(images, make_jitter(1, brightness=1.5))
    assert brighter[0, :, 0, 0].tolist() == pytest.approx([0.3, 0.6, 0.9])
    drained = apply_jitter(images, make_jitter(1, saturation=0.0))
    assert drained[0, :, 0, 0].tolist() == pytest.approx([grey] * 3, abs=1e-6)
    flat = apply_jitter(images, make_jitter(1, contrast=0.0))
    assert flat[0, :, 0, 0].tolist() == pytest.approx([grey] * 3, abs=1e-6)
    turned = apply_jitter(images, make_jitter(1, hue=0.5))[0, :, 0, 0]
    assert turned.tolist() != pytest.approx([0.2, 0.4, 0.6], abs=0.05)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert float(turned @ luma) == pytest.approx(grey, abs=1e-5)


def test_a_hue_turn_of_the_whole_circle_is_none_and_greys_stay_grey():
    images = to_float(make_stored())
    whole = apply_jitter(images, make_jitter(4, hue=1.0))
    torch.testing.assert_close(whole, images, atol=1e-5, rtol=0)
    grey = torch.full((1, 3, 2, 2), 0.5)
    torch.testing.assert_close(apply_jitter(grey, make_jitter(1, hue=0.3)), grey)


def test_the_same_seed_draws_the_same_and_another_another():
    stored = make_stored(8)

    def run(seed: int) -> torch.Tensor:
        return augment_patches(stored, GEOMETRY, "imagenet", ALL, draw(len(stored), seed))

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))


def test_rows_of_a_batch_are_changed_each_in_its_own_way():
    stored = make_stored(1).expand(8, -1, -1, -1)
    images = augment_patches(stored, GEOMETRY, "unit", ALL, draw(len(stored), 7))
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_normalisation_by_value():
    images = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) + torch.tensor(IMAGENET_STD).view(3, 1, 1)
    torch.testing.assert_close(normalise(images, "imagenet"), torch.ones(1, 3, 1, 1))
    assert torch.equal(normalise(images, "unit"), images)


@pytest.mark.parametrize("side", [40, 7])
def test_resizing_is_that_of_image_libraries(side):
    image = make_stored(1, side=16)
    reference = Image.fromarray(image[0].numpy()).resize((side, side), Image.Resampling.BICUBIC)
    difference = resize(image, side)[0].int() - torch.from_numpy(np.array(reference)).int()
    assert difference.abs().max() <= 1


def test_input_of_another_side_is_the_resized_patch():
    geometry = PatchGeometry(patch_px=16, margin_px=8, input_px=24)
    stored = make_stored()
    expected = resize(crop_centre(stored, geometry), 24)
    augmented = augment_patches(stored, geometry, "unit", OFF, draw(len(stored)))
    assert torch.equal(to_stored(augmented), expected)
    assert torch.equal(to_stored(prepare_patches(stored, geometry, "unit")), expected)


def make_staining(scale=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0)) -> Staining:
    return Staining(torch.tensor([scale]), torch.tensor([shift]))


def paint(haematoxylin: float, eosin: float) -> torch.Tensor:
    """A patch of these amounts of the two stains, by Beer and Lambert."""
    light = np.exp(-(haematoxylin * REFERENCE.stains[0] + eosin * REFERENCE.stains[1]))
    return torch.from_numpy(light).float().view(1, 3, 1, 1).expand(1, 3, 2, 2)


def test_stains_change_by_value_and_each_on_its_own():
    given = paint(0.8, 0.4)
    torch.testing.assert_close(apply_staining(given, make_staining()), given)
    more = apply_staining(given, make_staining(scale=(1.5, 1.0, 1.0)))
    torch.testing.assert_close(more, paint(1.2, 0.4))
    added = apply_staining(given, make_staining(shift=(0.1, -0.2, 0.0)))
    torch.testing.assert_close(added, paint(0.9, 0.2))
    # What is neither stain is none of these colours, so its factor changes nothing.
    torch.testing.assert_close(apply_staining(given, make_staining(scale=(1, 1, 3.0))), given)


def test_magnitudes_of_stains_are_those_of_the_params():
    params = OFF.model_copy(update={"stain_scale": 0.2, "stain_shift": 0.1})
    _, staining, _ = choose_changes(draw(3000, 7), params)
    assert staining.scale.min() == pytest.approx(0.8, abs=1e-3)
    assert staining.scale.max() == pytest.approx(1.2, abs=1e-3)
    assert staining.shift.abs().max() == pytest.approx(0.1, abs=1e-3)
    correlation = np.corrcoef(torch.cat((staining.scale, staining.shift), 1).T.numpy())
    assert np.abs(correlation - np.eye(6)).max() < 0.1
    images = augment_patches(make_stored(8), GEOMETRY, "unit", params, draw(8, 7))
    assert 0 < (images - prepare_patches(make_stored(8), GEOMETRY, "unit")).abs().mean() < 0.2


def test_means_and_spreads_of_an_encoder_normalise():
    images = to_float(make_stored())
    found = normalise(images, [[0.5, 0.4, 0.3], [0.1, 0.2, 0.4]])
    expected = torch.stack(
        [(images[:, c] - m) / s for c, m, s in ((0, 0.5, 0.1), (1, 0.4, 0.2), (2, 0.3, 0.4))], 1
    )
    torch.testing.assert_close(found, expected)
