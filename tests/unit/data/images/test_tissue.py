"""A slide at a glance."""

import numpy as np
import pytest

from histofuse.data.images.resolution import resample
from histofuse.data.images.slides import FrameSlide
from histofuse.data.images.tissue import find_tissue, look_over


def make_scan(height, width, tissue, glass=235):
    rng = np.random.default_rng(0)
    pixels = np.full((height, width, 3), float(glass))
    pixels[tissue] = (205, 140, 190)
    return (pixels + rng.normal(0, 3, (height, width, 1))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("glass", [250, 215])
def test_coloured_pixels_are_tissue_whatever_the_light(glass):
    inside = np.s_[60:240, 80:300]
    found = find_tissue(make_scan(300, 400, inside, glass), 4.0)
    assert found[inside].mean() > 0.99
    assert found.sum() / (180 * 220) == pytest.approx(1, abs=0.06)


def test_glass_alone_is_no_tissue_and_tissue_alone_is_all():
    assert not find_tissue(make_scan(100, 100, np.s_[:0]), 4.0).any()
    assert find_tissue(make_scan(100, 100, np.s_[:]), 4.0).all()


def test_a_large_slide_is_read_in_parts():
    read = []

    class Watched(FrameSlide):
        def read_region(self, top, left, height, width, level=0):
            read.append(height * width)
            return super().read_region(top, left, height, width, level)

    slide = Watched(make_scan(4500, 6000, np.s_[1500:3000, 1000:5000]))
    overview = look_over(resample(slide, 1.0), 0.5)
    assert max(overview.thumbnail.shape) == 1600
    assert max(read) < 4200**2
    assert overview.tissue_mm2 == pytest.approx(1500 * 4000 * 0.25e-6, rel=0.03)
    assert overview.full_shape == (4500, 6000)
