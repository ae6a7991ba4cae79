"""Patches of 64 px around every nucleus: our shards, against one PNG a patch in class folders.

The peer is what most projects do: PIL crops, saved as PNG for ImageFolder. The limit is to read the
frames' bytes and to write the patches' bytes, without anything in between.
Run: python benchmarks/patches.py [--short]
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from claims import Claim, main, peak_mib
from histofuse.core.tables import read_table, write_table
from histofuse.data.brecahad import ANNOTATIONS, FRAMES
from histofuse.data.cutting import write_patches
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.patches import PatchMeta, load_index, read_patches

HERE = Path(__file__).parent
PEER_FRAMES = 20
FEW_FRAMES, MANY_FRAMES = 100, 2000  # between which memory is to be flat
NUCLEI = 137  # a frame of BreCaHAD
WIDTH, HEIGHT, SIDE = 1360, 1024, 64
CLASSES = ["mitosis", "tumour", "non_tumour"]
DISTINCT = 27  # images; the other frames are links to them
META = PatchMeta(SIDE, 0, SIDE, CLASSES, "simulated", "none")


def measure(short: bool) -> list[Claim]:
    """Measure the rate, and how memory grows."""
    count = 162 if short else 1620
    with TemporaryDirectory() as scratch:
        images = Path(scratch)
        tables = make_frames(images, count)
        few = take(tables, PEER_FRAMES)
        require_same_pixels(images, few)
        limit = rate(copy_bytes, images, tables)
        ours = rate(write_shards, images, tables)
        peer = rate(write_class_folders, images, few)
    return [*claim_rates(count, ours, peer, limit), claim_memory()]


def make_frames(folder: Path, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write frames; give the tables of frames and of nuclei."""
    rng = np.random.default_rng(0)
    for n in range(min(count, DISTINCT)):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        tifffile.imwrite(folder / f"{n}.tif", pixels, photometric="rgb")
    names = [f"Case_{n % 17 + 1}-{n:04d}" for n in range(count)]
    for n, name in enumerate(names):
        (folder / f"{name}.tif").symlink_to(folder / f"{n % DISTINCT}.tif")
    frames = pd.DataFrame(
        {
            "frame_id": names,
            "case_id": [name.split("-")[0] for name in names],
            "file": [f"{name}.tif" for name in names],
            "width_px": WIDTH,
            "height_px": HEIGHT,
            "pixels_sha256": [f"{n % DISTINCT:064x}" for n in range(count)],
        }
    )
    return frames, make_nuclei(frames)


def make_nuclei(frames: pd.DataFrame) -> pd.DataFrame:
    """Scatter nuclei over the frames."""
    rng = np.random.default_rng(1)
    frame_id = np.repeat(frames["frame_id"].to_numpy(), NUCLEI)
    return pd.DataFrame(
        {
            "frame_id": frame_id,
            "case_id": [name.split("-")[0] for name in frame_id],
            "x_px": rng.uniform(0, WIDTH, len(frame_id)),
            "y_px": rng.uniform(0, HEIGHT, len(frame_id)),
            "label": rng.choice(CLASSES, len(frame_id)),
            "source_key": "nuclei",
        }
    )


def take(
    tables: tuple[pd.DataFrame, pd.DataFrame], count: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the first frames and their nuclei."""
    frames, nuclei = tables[0].head(count), tables[1]
    return frames, nuclei[nuclei["frame_id"].isin(frames["frame_id"])]


def write_shards(images: Path, frames: pd.DataFrame, nuclei: pd.DataFrame, out: Path) -> None:
    """Our way."""
    write_patches(nuclei, frames, images, out, meta=META, reading=UNKNOWN, shard_patches=4096)


def write_class_folders(
    images: Path, frames: pd.DataFrame, nuclei: pd.DataFrame, out: Path
) -> None:
    """The peer's way."""
    for label in CLASSES:
        (out / label).mkdir(parents=True)
    file_of = dict(zip(frames["frame_id"], frames["file"], strict=True))
    for frame_id, rows in nuclei.groupby("frame_id", sort=False):
        frame = Image.open(images / file_of[frame_id]).convert("RGB")
        for row in rows.itertuples():
            left, top = round(row.x_px - SIDE / 2), round(row.y_px - SIDE / 2)
            patch = frame.crop((left, top, left + SIDE, top + SIDE))
            patch.save(out / row.label / f"{row.Index}.png")


def copy_bytes(images: Path, frames: pd.DataFrame, nuclei: pd.DataFrame, out: Path) -> None:
    """The limit."""
    patch = bytes(SIDE * SIDE * 3)
    out.mkdir()
    with (out / "all").open("wb") as file:
        for name in frames["file"]:
            (images / name).read_bytes()
            file.write(patch * NUCLEI)


def rate(
    write: Callable[..., None], images: Path, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> float:
    """Measure patches a second, the best of three."""
    seconds = []
    for _ in range(3):
        with TemporaryDirectory() as scratch:
            start = time.perf_counter()
            write(images, *tables, Path(scratch) / "out")
            seconds.append(time.perf_counter() - start)
    return len(tables[1]) / min(seconds)


def require_same_pixels(images: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Both must have cut the same pixels where the window lies inside the frame."""
    with TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "shards", Path(scratch) / "folders"
        write_shards(images, *tables, ours)
        write_class_folders(images, *tables, theirs)
        patches = read_patches(ours, load_index(ours))
        inside = 0
        for patch, row in zip(patches, tables[1].itertuples(), strict=True):
            if SIDE < row.x_px < WIDTH - SIDE and SIDE < row.y_px < HEIGHT - SIDE:
                inside += 1
                png = np.asarray(Image.open(theirs / row.label / f"{row.Index}.png"))
                assert (png == patch).all(), f"patch {row.Index} differs"
        assert inside > len(patches) / 2


def claim_rates(count: int, ours: float, peer: float, limit: float) -> list[Claim]:
    """Hold the rates against the bars: patches a second, and times the peer."""
    work = f"patches of {SIDE} px, {count:,} frames of {NUCLEI} nuclei"
    cores = os.cpu_count()
    figures = {
        "ours": f"{ours:,.0f} patches/s",
        "peer": f"one PNG a patch, {PEER_FRAMES} frames: {peer:,.0f} patches/s",
        "limit": f"the bytes alone, in and out, one thread: {limit:,.0f} patches/s",
    }
    note = f"{ours / limit:.2f} of the limit, with {cores} cores; pixels equal to the peer's."
    return [
        Claim(3, work, **figures, ratio=ours / 20_000, bar="≥ 1 × 20,000 patches/s",
              holds=ours >= 20_000, note=note),
        Claim(3, work, **figures, ratio=ours / peer, bar="≥ 10 × the peer",
              holds=ours >= 10 * peer),
    ]  # fmt: skip


def claim_memory() -> Claim:
    """Hold the peak of many frames against that of few."""
    few, many = (peak_of(count) for count in (FEW_FRAMES, MANY_FRAMES))
    growth = (many - few) * 2**20 / ((MANY_FRAMES - FEW_FRAMES) * NUCLEI)
    return Claim(
        number=3,
        work=f"peak memory of patches, {FEW_FRAMES} and {MANY_FRAMES:,} frames",
        ours=f"{few:,.0f} and {many:,.0f} MiB",
        peer="",
        limit="",
        ratio=many / few,
        bar="≤ 1.1 ×",
        holds=many <= 1.1 * few,
        note=f"{growth:,.0f} bytes a patch more, beside {META.stored_px**2 * 3:,} of its pixels: "
        "the table of nuclei is held whole, the index a shard at a time, frames one a worker.",
    )


def peak_of(count: int) -> float:
    """Measure the peak memory, in MiB, of a process of its own that cuts some frames."""
    with TemporaryDirectory() as scratch:
        frames, nuclei = make_frames(Path(scratch), count)
        write_table(frames, Path(scratch) / "frames.parquet", FRAMES)
        write_table(nuclei, Path(scratch) / "nuclei.parquet", ANNOTATIONS)
        code = "import sys, patches; patches.print_peak(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, scratch],
            cwd=HERE, check=True, capture_output=True, text=True,
        )  # fmt: skip
    return float(done.stdout.split()[-1])


def print_peak(folder: str) -> None:
    """Cut the frames of a folder; print this process's peak memory in MiB."""
    images = Path(folder)
    frames = read_table(images / "frames.parquet", FRAMES)
    nuclei = read_table(images / "nuclei.parquet", ANNOTATIONS, categories=True)
    write_shards(images, frames, nuclei, images / "out")
    print(peak_mib())


if __name__ == "__main__":
    main(measure)
