"""Smooth random fields."""

import numpy as np
import pytest

from histofuse.data.simulate.brecahad.noise import enlarge, smooth_noise, wavy_profile


@pytest.mark.parametrize("cell_px", [1.8, 5.0, 40.0])
def test_noise_has_unit_spread_and_the_asked_scale(cell_px):
    noise = smooth_noise(np.random.default_rng(0), (600, 600), cell_px)
    assert noise.shape == (600, 600)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=0.15)
    step = max(1, round(cell_px / 4))
    near = np.corrcoef(noise[:, :-step].ravel(), noise[:, step:].ravel())[0, 1]
    far = round(6 * cell_px)
    apart = np.corrcoef(noise[:, :-far].ravel(), noise[:, far:].ravel())[0, 1]
    assert near > 0.75
    assert abs(apart) < 0.35


def test_enlarging_a_ramp_gives_the_ramp():
    ramp = (np.arange(30, dtype=np.float32) * 4)[None, :].repeat(20, 0)
    large = enlarge(ramp, (80, 120), 4)
    # A cubic B-spline reproduces straight lines away from the borders.
    np.testing.assert_allclose(large[40, 8:108], np.arange(8, 108), atol=1e-3)


def test_a_profile_stays_in_its_range_and_closes():
    profile = wavy_profile(np.random.default_rng(0), 4096)
    assert profile.shape == (4096,)
    assert np.abs(profile).max() <= 1
    assert profile.std() > 0.3
    assert abs(profile[0] - profile[-1]) < 0.4
