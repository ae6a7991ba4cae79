"""Patches of 64 px out of one pyramidal slide of JPEG tiles, within 2 GiB, read by region.

The peer is to read the whole plane, as most scripts do; its memory is that of the plane. The limit
is to decode every tile of the finest level once, with as many threads.
Run: python benchmarks/whole_slide.py [--short]
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
import zarr

from claims import Claim, main, peak_mib
from histofuse.data.patches import load_index, read_patches
from patches import META, SIDE, write_shards

HERE = Path(__file__).parent
TILE = 256
LEVELS = 4
DISTINCT = 64  # tiles; the slide is a patchwork of them
CHECKED = 300  # patches compared with what zarr reads
BAR_MIB = 2048


def measure(short: bool) -> list[Claim]:
    """Measure peak memory and seconds of one slide."""
    side, points = (10_000, 6_250) if short else (40_000, 100_000)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "Case_1-01.tif"
        write_slide(path, side)
        make_points(side, points).to_parquet(folder / "nuclei.parquet")
        ours, peak = cut(folder)
        require_same_pixels(folder, path)
        limit = time_decoding(path)
    bar = "≤ 1 × 2 GiB"
    plane = side * side * 3 / 2**20
    return [
        Claim(
            number=3,
            work=f"{points:,} patches of {SIDE} px out of a slide of {side:,} x {side:,} px",
            ours=f"peak {peak:,.0f} MiB, {ours:.1f} s",
            peer=f"the whole plane: {plane:,.0f} MiB of pixels",
            limit=f"every tile decoded once: {limit:.1f} s",
            ratio=peak / BAR_MIB,
            bar=bar,
            holds=peak <= BAR_MIB,
            note=f"{ours / limit:.2f} x the seconds of the limit; {CHECKED} patches, drawn by "
            "chance, equal to what zarr reads.",
        )
    ]


def write_slide(path: Path, side: int) -> None:
    """Write a pyramid; tiles are encoded once and repeated, or this would take longer than all."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level in range(LEVELS):
            shape = (side >> level, side >> level, 3)
            writer.write(
                make_tiles(shape[0]),
                shape=shape,
                dtype=np.uint8,
                photometric="rgb",
                compression="jpeg",
                tile=(TILE, TILE),
                subifds=LEVELS - 1 if level == 0 else None,
                subfiletype=int(level > 0),
            )


def make_tiles(side: int) -> Iterator[bytes]:
    """Encode tiles that look like tissue to a decoder: smooth, with detail."""
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(DISTINCT):
        coarse = rng.integers(60, 240, (TILE // 8, TILE // 8, 3)).repeat(8, 0).repeat(8, 1)
        pixels = (coarse + rng.integers(-12, 12, coarse.shape)).clip(0, 255).astype(np.uint8)
        tiles.append(
            imagecodecs.jpeg8_encode(pixels, level=85, colorspace="RGB", outcolorspace="RGB")
        )
    for _ in range((-(-side // TILE)) ** 2):
        yield tiles[rng.integers(DISTINCT)]


def make_points(side: int, count: int) -> pd.DataFrame:
    """Scatter points over the slide, its borders included."""
    points = np.random.default_rng(1).random((count, 2)) * side
    columns = {"x_px": points[:, 0], "y_px": points[:, 1]}
    return pd.DataFrame({"frame_id": "Case_1-01", "case_id": "Case_1", "label": "tumour"} | columns)


def cut(folder: Path) -> tuple[float, float]:
    """Cut the patches in a process of its own; give its seconds and its peak memory in MiB."""
    code = "import sys, whole_slide; whole_slide.print_cut(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=HERE, check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def print_cut(folder: str) -> None:
    """Cut the patches of a folder; print seconds and this process's peak memory in MiB."""
    images = Path(folder)
    frames = pd.DataFrame({"frame_id": ["Case_1-01"], "file": ["Case_1-01.tif"]})
    nuclei = pd.read_parquet(images / "nuclei.parquet")
    start = time.perf_counter()
    write_shards(images, frames, nuclei, images / "out")
    print(time.perf_counter() - start, peak_mib())


def require_same_pixels(folder: Path, path: Path) -> None:
    """Compare some patches that lie inside the slide with the regions zarr reads."""
    index = load_index(folder / "out")
    with tifffile.TiffFile(path) as tiff, tiff.aszarr(level=0) as store:
        plane = zarr.open_array(store, mode="r")
        inside = index[["x_px", "y_px"]].sub(plane.shape[0] / 2).abs().max(axis=1)
        some = index[inside < plane.shape[0] / 2 - SIDE].sample(CHECKED, random_state=0)
        for patch, row in zip(read_patches(folder / "out", some), some.itertuples(), strict=True):
            top, left = round(row.y_px - META.stored_px / 2), round(row.x_px - META.stored_px / 2)
            expected = plane[top : top + SIDE, left : left + SIDE]
            assert (patch == expected).all(), f"{row.patch_id} differs"


def time_decoding(path: Path) -> float:
    """Decode every tile of the finest level once; give the seconds."""
    with tifffile.TiffFile(path) as tiff, ThreadPoolExecutor(os.cpu_count()) as pool:
        page = tiff.pages.first
        start = time.perf_counter()
        segments = tiff.filehandle.read_segments(
            page.dataoffsets, page.databytecounts, sort=True, buffersize=2**24, flat=False
        )
        for batch in segments:
            for tile in pool.map(lambda s: page.decode(*s, jpegtables=page.jpegtables)[0], batch):
                assert tile is not None
    return time.perf_counter() - start


if __name__ == "__main__":
    main(measure)
