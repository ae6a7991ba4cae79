"""Patches of 64 px around every nucleus: our shards, against one PNG a patch in class folders.

The peer is what most projects do: PIL crops, saved as PNG for ImageFolder. The limit is to read the
frames' bytes and to write the patches' bytes, without anything in between.
Run: python benchmarks/patches.py [frames]
"""

import resource
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

from histofuse.data.patches import PatchMeta, open_shards, read_patches, write_patches

FRAMES = int(sys.argv[1]) if len(sys.argv) > 1 else 162
PEER_FRAMES = min(FRAMES, 20)
NUCLEI = 137  # a frame of BreCaHAD
WIDTH, HEIGHT, SIDE = 1360, 1024, 64
CLASSES = ["mitosis", "tumour", "non_tumour"]
DISTINCT = 27  # images; the other frames are links to them


def make_frames(folder: Path, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    for n in range(min(count, DISTINCT)):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        tifffile.imwrite(folder / f"{n}.tif", pixels, photometric="rgb")
    names = [f"Case_{n % 17 + 1}-{n:04d}" for n in range(count)]
    for n, name in enumerate(names):
        (folder / f"{name}.tif").symlink_to(folder / f"{n % DISTINCT}.tif")
    return pd.DataFrame({"frame_id": names, "file": [f"{name}.tif" for name in names]})


def make_nuclei(frames: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame_id = np.repeat(frames["frame_id"].to_numpy(), NUCLEI)
    return pd.DataFrame(
        {
            "frame_id": frame_id,
            "case_id": [name.split("-")[0] for name in frame_id],
            "x_px": rng.uniform(0, WIDTH, len(frame_id)),
            "y_px": rng.uniform(0, HEIGHT, len(frame_id)),
            "label": rng.choice(CLASSES, len(frame_id)),
        }
    )


def write_shards(images: Path, frames: pd.DataFrame, nuclei: pd.DataFrame, out: Path) -> None:
    meta = PatchMeta(SIDE, 0, SIDE, CLASSES, "simulated", "none")
    write_patches(nuclei, frames, images, out, meta=meta, shard_patches=4096)


def write_class_folders(
    images: Path, frames: pd.DataFrame, nuclei: pd.DataFrame, out: Path
) -> None:
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
    patch = bytes(SIDE * SIDE * 3)
    out.mkdir()
    with (out / "all").open("wb") as file:
        for name in frames["file"]:
            (images / name).read_bytes()
            file.write(patch * NUCLEI)


def measure(write: Callable[..., None], *tables: object) -> float:
    """Measure patches a second, the best of three."""
    nuclei = tables[2]
    assert isinstance(nuclei, pd.DataFrame)
    seconds = []
    for _ in range(3):
        with TemporaryDirectory() as scratch:
            start = time.perf_counter()
            write(*tables, Path(scratch) / "out")
            seconds.append(time.perf_counter() - start)
    return len(nuclei) / min(seconds)


def check(images: Path, frames: pd.DataFrame, nuclei: pd.DataFrame) -> None:
    """Both must have cut the same pixels where the window lies inside the frame."""
    with TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "shards", Path(scratch) / "folders"
        write_shards(images, frames, nuclei, ours)
        write_class_folders(images, frames, nuclei, theirs)
        meta = open_shards(ours).meta
        assert meta.stored_px == SIDE
        index = pd.read_parquet(ours / "index.parquet")
        patches = read_patches(ours, index)
        same = inside = 0
        for n, row in enumerate(nuclei.itertuples()):
            if SIDE < row.x_px < WIDTH - SIDE and SIDE < row.y_px < HEIGHT - SIDE:
                inside += 1
                png = np.asarray(Image.open(theirs / row.label / f"{n}.png"))
                same += bool((png == patches[n]).all())
        assert same == inside, f"{inside - same} of {inside} patches differ"


def measure_memory(frames: int) -> float:
    """Measure the peak memory, in MiB, of a process that cuts some frames."""
    done = subprocess.run(
        [sys.executable, __file__, str(frames), "--memory"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def report_memory() -> None:
    with TemporaryDirectory() as scratch:
        images = Path(scratch)
        frames = make_frames(images, FRAMES)
        write_shards(images, frames, make_nuclei(frames), images / "out")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    with TemporaryDirectory() as scratch:
        images = Path(scratch)
        frames = make_frames(images, FRAMES)
        nuclei = make_nuclei(frames)
        few = frames.head(PEER_FRAMES)
        of_few = nuclei[nuclei["frame_id"].isin(few["frame_id"])]
        check(images, few, of_few)
        limit = measure(copy_bytes, images, frames, nuclei)
        ours = measure(write_shards, images, frames, nuclei)
        peer = measure(write_class_folders, images, few, of_few)
    print(f"bytes in and out: {limit:>9,.0f} patches/s")
    print(f"shards:           {ours:>9,.0f} patches/s, {ours / limit:.2f} of the limit")
    print(f"one PNG a patch:  {peer:>9,.0f} patches/s; shards are {ours / peer:.1f} times as fast")
    small, large = measure_memory(100), measure_memory(2000)
    print(f"peak memory:      {small:,.0f} MiB for 100 frames, {large:,.0f} MiB for 2,000")


if __name__ == "__main__":
    report_memory() if "--memory" in sys.argv else main()
