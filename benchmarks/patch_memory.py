"""Memory and rate of an image network on patches that stay on disk, against patches in memory.

Each number of patches is one process: their tables are loaded, an epoch of training and validation
through `fit`, then embeddings and logits of all patches. The network is small, so that reading has
nowhere to hide; ResNet-18 shows the rate of the default run. Anonymous memory is what cannot be
given back to the page cache.

    python benchmarks/patch_memory.py [--short]      # the full mode writes 12 GB next to TMPDIR
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import nn

from claims import Claim, main
from histofuse.core.artifacts import to_json
from histofuse.core.tables import write_table
from histofuse.data.patches import INDEX, META, PATCH_INDEX, shard_name
from histofuse.data.splits import PATCH_SPLITS
from histofuse.models.backbones import OWN
from histofuse.params.base import load_section
from histofuse.params.image import FinetuneParams
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.recipe import Rows
from histofuse.training.image import apply_network, create_model, load_patch_data, make_recipe

CLASSES = ["mitosis", "tumour", "non_tumour"]
SIDE, SHARD, EMBEDDING = 64, 4096, 512
SPLITS = "splits.parquet"
FEWEST, SHORT, MOST = 10_000, 40_000, 1_000_000
RATE_BAR, GROWTH_BAR_MIB = 0.9, 64
FIELDS = ("--patches", "--network", "--source")


class Small(nn.Sequential):
    """Means of squares of 8 px, then one layer."""

    def __init__(self, input_px: int) -> None:
        width = 3 * (input_px // 8) ** 2
        super().__init__(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(width, EMBEDDING))


def write_shards(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(-(-n // SHARD)):
        rows = min(SHARD, n - number * SHARD)
        patches = rng.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)
        np.save(folder / shard_name(number), patches)
    meta = {"patch_px": SIDE, "margin_px": 0, "stored_px": SIDE, "classes": CLASSES}
    meta |= {"source": "simulated", "stain_normalisation": "none"}
    (folder / META).write_text(to_json(meta))


def write_tables(folder: Path, n: int) -> None:
    """Write the index of the first patches and their splits: a fifth is for validation."""
    numbers = np.arange(n)
    frames = [f"case-{i // 5000:03}-frame-{i // 250:04}" for i in numbers]
    index = pd.DataFrame(
        {
            "patch_id": [f"{frame}-{i:07}" for i, frame in enumerate(frames)],
            "frame_id": frames,
            "case_id": [frame[: len("case-000")] for frame in frames],
            "x_px": 0.0,
            "y_px": 0.0,
            "label": np.array(CLASSES)[numbers % len(CLASSES)],
            "shard": numbers // SHARD,
            "row": numbers % SHARD,
        }
    )
    write_table(index, folder / INDEX, PATCH_INDEX)
    split = np.where(numbers % 5, "train", "validation")
    columns = ["patch_id", "frame_id", "case_id", "label"]
    write_table(index[columns].assign(split=split), folder / SPLITS, PATCH_SPLITS)


def read_anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Peak(threading.Thread):
    """Notes the most anonymous memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib, self._stopped = 0.0, threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.02):
            self.mib = max(self.mib, read_anonymous_mib())

    def stop(self) -> float:
        self._stopped.set()
        self.join()
        return self.mib


def hold(rows: Rows) -> Rows:
    return Rows(tuple(source.to(torch.device("cpu")) for source in rows.inputs), rows.labels)


def run_child(folder: Path, n: int, network: str, source: str) -> None:
    """Train an epoch and embed all patches; print memory and rates."""
    OWN["small"] = Small
    section = load_section(FinetuneParams, "image.resnet18")
    none = dict.fromkeys(("rotation_degrees", "brightness", "contrast", "saturation", "hue"), 0.0)
    still = section.augmentation.model_copy(update={**none, "flips": False, "scale": [1.0, 1.0]})
    changes = {"backbone": network, "epochs": 1, "augmentation": still, "minimum_map_px": 2}
    params = section.model_copy(update=changes)
    before, peak = read_anonymous_mib(), Peak()
    peak.start()
    data = load_patch_data(folder, folder / SPLITS)
    train, validation = data.load_rows("train"), data.load_rows("validation")
    if source == "memory":
        train, validation = hold(train), hold(validation)
    model = create_model(network, data.meta, params, 0)
    recipe = make_recipe(network, model, train, params, 0)
    start = time.perf_counter()
    fit(model, train, validation, recipe)
    trained = time.perf_counter() - start
    if source == "disk":
        start = time.perf_counter()
        apply_network(model, folder, data.table)
    embedded = time.perf_counter() - start
    found = {"before": before, "peak": peak.stop(), "train": len(train) / trained}
    print(json.dumps({**found, "embed": n / embedded}))


def measure_child(folder: Path, n: int, network: str, source: str) -> dict[str, float]:
    write_tables(folder, n)
    values = [v for pair in zip(FIELDS, (str(n), network, source), strict=True) for v in pair]
    command = [sys.executable, __file__, "--child", str(folder), *values]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{n:>9,} patches, {network}, {source}: " + str({k: round(v) for k, v in found.items()}))
    return found


def measure(short: bool) -> list[Claim]:
    """Measure memory from the fewest patches to the most, and rates at the fewest."""
    most = SHORT if short else MOST
    counts = [FEWEST, most] if short else [FEWEST, MOST // 10, MOST]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_shards(folder, most)
        found = [measure_child(folder, n, "small", "disk") for n in counts]
        rates = {
            name: [measure_child(folder, FEWEST, name, s)["train"] for s in ("disk", "memory")]
            for name in ("small", *(() if short else ("resnet18",)))
        }
    grown = found[-1]["peak"] - found[0]["peak"]
    memory = Claim(
        number=10,
        work=f"training and embedding from {FEWEST:,} to {most:,} patches",
        ours=f"{found[0]['peak']:,.0f} to {found[-1]['peak']:,.0f} MiB of anonymous memory",
        peer="",
        limit=f"all patches: {most * SIDE * SIDE * 3 / 2**20:,.0f} MiB",
        ratio=grown,
        bar=f"≤ {GROWTH_BAR_MIB} MiB more",
        holds=grown <= GROWTH_BAR_MIB,
        note=f"the libraries alone: {found[0]['before']:,.0f} MiB",
    )
    return [memory, *(compare(name, *both) for name, both in rates.items())]


def compare(network: str, disk: float, memory: float) -> Claim:
    ratio = disk / memory
    return Claim(
        number=10,
        work=f"an epoch of {network} on {FEWEST:,} patches in the page cache",
        ours=f"{disk:,.0f} patches/s",
        peer=f"patches in memory: {memory:,.0f} patches/s",
        limit="",
        ratio=ratio,
        bar=f"≥ {RATE_BAR} × the peer",
        holds=ratio >= RATE_BAR,
    )


if __name__ == "__main__":
    if "--child" in sys.argv:
        folder, *rest = sys.argv[sys.argv.index("--child") + 1 :]
        run_child(Path(folder), int(rest[1]), rest[3], rest[5])
    else:
        main(measure)
