"""Windows against a slow oracle."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from histofuse.data.brecahad import ANNOTATIONS
from histofuse.data.cutting import cut_windows, index_shards, reflect

side = st.integers(1, 12)
fraction = st.floats(0, 1, allow_subnormal=False)
points = st.lists(st.tuples(fraction, fraction), min_size=1, max_size=6)


def mirror(index: int, length: int) -> int:
    """Walk to and fro between the outermost pixels, one step at a time."""
    position, step = 0, 1
    for _ in range(abs(index)):
        if not 0 <= position + step < length:
            step = -step
        if 0 <= position + step < length:
            position += step
    return position


def extract_window(frame, x_px, y_px, size_px):
    window = np.empty((1, size_px, size_px, 3), np.uint8)
    cut_windows(frame, np.array([x_px]), np.array([y_px]), window)
    return window[0]


@given(side, side, st.integers(1, 30), fraction, fraction)
@settings(deadline=None)
def test_a_window_equals_the_pixel_by_pixel_one(height, width, size, fx, fy):
    frame = np.random.default_rng(height * 100 + width).integers(
        0, 256, (height, width, 3), np.uint8
    )
    x, y = fx * width, fy * height
    top, left = (int(np.floor(c - size / 2 + 0.5)) for c in (y, x))

    window = extract_window(frame, x, y, size)

    for r in range(size):
        for c in range(size):
            expected = frame[mirror(top + r, height), mirror(left + c, width)]
            assert (window[r, c] == expected).all()


@given(side, st.integers(0, 40))
def test_reflection_is_what_numpy_pads_with(length, pad):
    row = np.arange(length)
    expected = np.pad(row, pad, mode="reflect")
    assert (row[reflect(np.arange(-pad, length + pad), length)] == expected).all()


@given(
    side, side, st.integers(1, 9), st.lists(st.tuples(fraction, fraction), min_size=1, max_size=6)
)
@settings(deadline=None)
def test_many_windows_are_the_single_ones(height, width, size, points):
    frame = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    xs, ys = (np.array(points) * (width, height)).T
    out = np.empty((len(points), size, size, 3), np.uint8)
    cut_windows(frame, xs, ys, out)
    for n, (x, y) in enumerate(zip(xs, ys, strict=True)):
        assert (out[n] == extract_window(frame, x, y, size)).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 10))
@settings(deadline=None)
def test_each_patch_has_a_place_of_its_own_and_shards_are_full(counts, shard_patches):
    rows = [
        (f"Case_1-0{f}", "Case_1", float(n), 0.0, "tumour", "tumor")
        for f, count in enumerate(counts)
        for n in range(count)
    ]
    annotations = pd.DataFrame(rows, columns=list(ANNOTATIONS.columns))
    index = pd.concat(index_shards(annotations, shard_patches))
    assert index["patch_id"].is_unique
    assert not index.duplicated(["shard", "row"]).any()
    sizes = index.groupby("shard").size().tolist()
    assert sizes[:-1] == [shard_patches] * (len(sizes) - 1)
    assert (index["row"] < shard_patches).all()
