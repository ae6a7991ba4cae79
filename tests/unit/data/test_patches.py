"""Cutting windows, writing shards and reading them back."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from histofuse.core.errors import InputError
from histofuse.data.brecahad import ANNOTATIONS, FRAMES
from histofuse.data.cutting import (
    cut_windows,
    index_shards,
    reflect,
    window_origin,
    write_patches,
)
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.patches import (
    PATCH_INDEX,
    PatchMeta,
    ShardReader,
    crop_margin,
    load_index,
    load_meta,
    read_patches,
)

META = PatchMeta(8, 2, 12, ["mitosis", "tumour"], "simulated", "none")
HOW = {"meta": META, "reading": UNKNOWN}


def make_data_set(folder: Path, frames=3, per_frame=5, shape=(40, 50)):
    rng = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    frame_rows, rows, pixels = [], [], {}
    for number in range(1, frames + 1):
        frame, case = f"Case_1-0{number}", "Case_1"
        rgb = rng.integers(0, 256, (*shape, 3), np.uint8)
        tifffile.imwrite(folder / "images" / f"{frame}.tif", rgb, photometric="rgb")
        pixels[frame] = rgb
        frame_rows.append((frame, case, f"images/{frame}.tif", shape[1], shape[0], "0"))
        for x, y in rng.random((per_frame, 2)) * (shape[1], shape[0]):
            rows.append((frame, case, x, y, "tumour", "tumor"))
    return (
        pd.DataFrame(rows, columns=list(ANNOTATIONS.columns)),
        pd.DataFrame(frame_rows, columns=list(FRAMES.columns)),
        pixels,
    )


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def extract_window(frame, x_px, y_px, size_px):
    window = np.empty((1, size_px, size_px, 3), np.uint8)
    cut_windows(frame, np.array([x_px]), np.array([y_px]), window)
    return window[0]


def test_a_window_inside_is_the_slice_around_the_point():
    frame = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    np.testing.assert_array_equal(extract_window(frame, 20.0, 10.0, 8), frame[6:14, 16:24])
    np.testing.assert_array_equal(extract_window(frame, 20.4, 10.6, 8), frame[7:15, 16:24])
    # The middle of pixel 20 is at 20.5: an odd window is centred on that pixel.
    np.testing.assert_array_equal(extract_window(frame, 20.5, 10.5, 7), frame[7:14, 17:24])


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("centre", [0.0, 0.49, 0.5, 17.25, 1359.99])
def test_a_window_is_centred_to_within_half_a_pixel(size, centre):
    assert abs(window_origin(np.array([centre]), size)[0] + size / 2 - centre) <= 0.5


def test_the_border_is_mirrored_without_repeating_the_outermost_pixel():
    frame = np.arange(5, dtype=np.uint8)[None, :, None].repeat(5, 0).repeat(3, 2)
    window = extract_window(frame, 0.0, 2.0, 4)
    assert window[0, :, 0].tolist() == [2, 1, 0, 1]
    window = extract_window(frame, 5.0, 2.0, 4)
    assert window[0, :, 0].tolist() == [3, 4, 3, 2]


def test_reflection_of_a_single_pixel():
    assert reflect(np.arange(-3, 3), 1).tolist() == [0] * 6


def test_the_index_places_patches_in_the_order_of_annotations(tmp_path):
    annotations, _, _ = make_data_set(tmp_path)
    parts = list(index_shards(annotations, shard_patches=7))
    index = pd.concat(parts)
    assert [len(part) for part in parts] == [7, 7, 1]
    assert list(index.columns) == list(PATCH_INDEX.columns)
    assert index["patch_id"].tolist()[4:6] == ["Case_1-01/0004", "Case_1-02/0000"]
    assert index["shard"].tolist() == [0] * 7 + [1] * 7 + [2]
    assert index["row"].tolist() == [*range(7), *range(7), 0]
    assert index["x_px"].tolist() == annotations["x_px"].tolist()


def test_patch_ids_count_on_over_the_shards_and_frames_that_lie_apart():
    frame_id = ["Case_1-01"] * 10_001 + ["Fall_ä-2"] * 2 + ["Case_1-01"]
    columns = {"case_id": "Case_1", "x_px": 0.0, "y_px": 0.0, "label": "tumour"}
    index = pd.concat(index_shards(pd.DataFrame({"frame_id": frame_id} | columns), 70))
    numbers = [*range(10_001), 0, 1, 10_001]
    expected = [f"{frame}/{n:04d}" for frame, n in zip(frame_id, numbers, strict=True)]
    assert index["patch_id"].tolist() == expected


def test_each_stored_patch_is_the_window_of_its_row(tmp_path):
    annotations, frames, pixels = make_data_set(tmp_path)
    out = tmp_path / "patches"
    write_patches(annotations, frames, tmp_path, out, **HOW, shard_patches=7)

    index = load_index(out)
    assert [np.load(f).shape[0] for f in sorted(out.glob("shard-*.npy"))] == [7, 7, 1]
    shuffled = index.sample(frac=1, random_state=0)
    for patch, row in zip(read_patches(out, shuffled), shuffled.itertuples(), strict=True):
        expected = extract_window(pixels[row.frame_id], row.x_px, row.y_px, 12)
        np.testing.assert_array_equal(patch, expected)
    assert load_meta(out) == META
    assert json.loads((out / "meta.json").read_text())["stored_px"] == 12


@pytest.mark.parametrize("count", [0, 15])
def test_words_given_as_categories_change_no_byte(tmp_path, count):
    annotations, frames, _ = make_data_set(tmp_path)
    annotations = annotations.head(count)
    words = annotations.select_dtypes("str").columns
    assert {"frame_id", "case_id", "label"} <= set(words)
    for name, table in (
        ("a", annotations),
        ("b", annotations.astype(dict.fromkeys(words, "category"))),
    ):
        write_patches(table, frames, tmp_path, tmp_path / name, **HOW, shard_patches=7)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_any_number_of_threads_writes_the_same_bytes(tmp_path):
    annotations, frames, _ = make_data_set(tmp_path, frames=6)
    for threads in (1, 4):
        out = tmp_path / f"patches{threads}"
        write_patches(annotations, frames, tmp_path, out, **HOW, shard_patches=4, workers=threads)
    assert digests(tmp_path / "patches1") == digests(tmp_path / "patches4")


def test_frames_are_normalised_before_cutting(tmp_path):
    annotations, frames, pixels = make_data_set(tmp_path, frames=1, per_frame=1)
    out = tmp_path / "patches"
    write_patches(
        annotations, frames, tmp_path, out, **HOW, shard_patches=4, normalise=lambda f: 255 - f
    )
    x, y = annotations.loc[0, ["x_px", "y_px"]]
    expected = 255 - extract_window(pixels["Case_1-01"], x, y, 12)
    np.testing.assert_array_equal(read_patches(out, load_index(out))[0], expected)


def test_all_frames_that_cannot_be_read_are_named_and_nothing_is_written(tmp_path):
    annotations, frames, _ = make_data_set(tmp_path)
    (tmp_path / "images" / "Case_1-01.tif").write_bytes(b"II*\0")
    (tmp_path / "images" / "Case_1-03.tif").unlink()
    with pytest.raises(InputError) as caught:
        write_patches(annotations, frames, tmp_path, tmp_path / "patches", **HOW, shard_patches=7)
    assert [Path(f.where).name for f in caught.value.faults] == ["Case_1-01.tif", "Case_1-03.tif"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    peaks = []
    for frames in (3, 9):
        folder = tmp_path / str(frames)
        annotations, table, _ = make_data_set(folder, frames, per_frame=40, shape=(300, 300))
        tracemalloc.start()
        write_patches(
            annotations,
            table,
            folder,
            folder / "p",
            meta=PatchMeta(64, 0, 64, ["tumour"], "simulated", "none"),
            reading=UNKNOWN,
            shard_patches=1000,
            workers=1,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Six frames more hold 2.9 MB of patches and 1.6 MB of pixels.
    assert peaks[1] - peaks[0] < 500_000


def test_margins_are_taken_off_on_all_sides():
    patches = np.arange(2 * 6 * 6 * 3, dtype=np.uint8).reshape(2, 6, 6, 3)
    np.testing.assert_array_equal(crop_margin(patches, 2), patches[:, 2:4, 2:4])
    np.testing.assert_array_equal(crop_margin(patches, 0), patches)


def test_shards_that_do_not_fit_the_index_are_refused(tmp_path):
    annotations, frames, _ = make_data_set(tmp_path)
    out = tmp_path / "patches"
    write_patches(annotations, frames, tmp_path, out, **HOW, shard_patches=7)
    with pytest.raises(InputError, match=r"shard-00002\.npy: holds 1 patch"):
        ShardReader(out).read([2], [1])
    with pytest.raises(InputError, match=r"shard-00000\.npy: holds 7 patches, not row -1"):
        ShardReader(out).read([0, 0], [3, -1])
    with pytest.raises(InputError, match=r"shard-00009\.npy: not readable"):
        ShardReader(out).read([9], [0])
    for content in (b"", b"PK\3\4" + bytes(200)):
        (out / "shard-00001.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"shard-00001\.npy: not readable"):
            ShardReader(out).read([1], [0])
    content = (out / "shard-00000.npy").read_bytes()
    (out / "shard-00000.npy").write_bytes(content[:-10])
    with pytest.raises(InputError, match=r"shard-00000\.npy: not readable"):
        ShardReader(out).read([0], [0])
    np.save(out / "shard-00001.npy", np.zeros((7, 5, 5, 3), np.uint8))
    with pytest.raises(InputError, match=r"shard-00001\.npy: holds uint8 \(7, 5, 5, 3\)"):
        ShardReader(out).read([1], [0])


def test_a_meta_with_other_keys_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text('{"patch_px": 64}')
    with pytest.raises(InputError, match=r"meta\.json: wrong content"):
        load_meta(tmp_path)


@pytest.mark.parametrize("changes", [{"stored_px": 96}, {"margin_px": 4}, {"patch_px": "8"}])
def test_a_meta_whose_sides_contradict_each_other_is_refused(changes, tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps(vars(META) | changes))
    with pytest.raises(InputError, match=r"meta\.json: wrong content"):
        load_meta(tmp_path)
