"""Macenko normalisation on frames mixed from known stains."""

import numpy as np
import pytest

from histofuse.features.stain import REFERENCE, fit_stain_matrix, normalise

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
EOSIN = np.array([0.09, 0.95, 0.28]) / np.linalg.norm([0.09, 0.95, 0.28])


def mix(amounts: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Beer and Lambert with the light the normalisation assumes."""
    light = 240.0 * np.exp(-(amounts @ stains)) - 1
    return np.clip(light.round(), 0, 255).astype(np.uint8)


def make_amounts(strength=(1.0, 1.0), shape=(120, 150)) -> np.ndarray:
    """Nuclei of haematoxylin alone, stroma of eosin alone, and mixtures in between."""
    rng = np.random.default_rng(0)
    share = rng.choice([0.0, 1.0, 0.5], (*shape, 1), p=[0.4, 0.4, 0.2])
    amounts = rng.uniform(0.6, 1.4, shape)[..., None] * np.concatenate((share, 1 - share), 2)
    return amounts * strength


def test_known_stains_are_found():
    fit = fit_stain_matrix(mix(make_amounts(), np.stack((HAEMATOXYLIN, EOSIN))))
    assert fit is not None
    np.testing.assert_allclose(fit.stains, [HAEMATOXYLIN, EOSIN], atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(fit.stains, axis=1), 1, atol=1e-9)


def test_amounts_follow_the_strength_of_the_stain():
    stains = np.stack((HAEMATOXYLIN, EOSIN))
    weak = fit_stain_matrix(mix(make_amounts((0.8, 1.0)), stains))
    strong = fit_stain_matrix(mix(make_amounts((1.6, 1.0)), stains))
    assert weak is not None
    assert strong is not None
    np.testing.assert_allclose(strong.amounts / weak.amounts, [2.0, 1.0], rtol=0.06)


def test_one_tissue_on_two_scanners_comes_out_alike():
    other = np.array([[0.55, 0.78, 0.30], [0.20, 0.88, 0.43]])
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    first = mix(make_amounts(), np.stack((HAEMATOXYLIN, EOSIN)))
    second = mix(make_amounts((0.7, 1.3)), other)
    before = np.abs(first.astype(int) - second).mean()
    after = np.abs(normalise(first).astype(int) - normalise(second)).mean()
    assert before > 20
    assert after < 4


def test_a_frame_with_the_reference_stains_is_kept():
    amounts = make_amounts()
    amounts *= REFERENCE.amounts / np.percentile(amounts.reshape(-1, 2), 99, axis=0)
    frame = mix(amounts, REFERENCE.stains)
    assert np.abs(normalise(frame).astype(int) - frame).mean() < 3


def test_normalising_twice_changes_little():
    once = normalise(mix(make_amounts(), np.stack((HAEMATOXYLIN, EOSIN))))
    assert np.abs(normalise(once).astype(int) - once).mean() < 2


@pytest.mark.parametrize(
    "frame",
    [
        np.full((64, 64, 3), 245, np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        mix(np.random.default_rng(0).uniform(0.3, 1, (64, 64, 1)) * [1.0, 0.0],
            np.stack((HAEMATOXYLIN, HAEMATOXYLIN))),
    ],
    ids=["empty slide", "black", "one stain"],
)  # fmt: skip
def test_a_frame_without_two_stains_comes_back_as_it_is(frame):
    assert fit_stain_matrix(frame) is None
    np.testing.assert_array_equal(normalise(frame), frame)


@pytest.mark.real
def test_real_cases_come_closer_together(real_data):
    import tifffile

    frames = [
        tifffile.imread(real_data / "brecahad" / "images" / f"{frame}.tif")
        for frame in ("Case_10-03", "Case_12-03")
    ]

    def stains_of(frame):
        fit = fit_stain_matrix(frame)
        assert fit is not None
        return fit

    before = [stains_of(f).amounts[0] for f in frames]
    after = [stains_of(normalise(f)).amounts[0] for f in frames]
    assert abs(np.log(after[0] / after[1])) < 0.25 * abs(np.log(before[0] / before[1]))
