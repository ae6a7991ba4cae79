"""The same shards from threads, processes and a Dask cluster, also when a worker is killed."""

import hashlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import tifffile

from histofuse.core.errors import InputError
from histofuse.data.brecahad import ANNOTATIONS, FRAMES
from histofuse.data.cutting import write_patches
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.patches import PatchMeta

META = PatchMeta(8, 2, 12, ["tumour"], "simulated", "none")
HOW = {"meta": META, "reading": UNKNOWN}
FRAME_COUNT, PER_FRAME = 12, 5
# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    names = [f"Case_1-{n:02d}" for n in range(FRAME_COUNT)]
    for name in names:
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="rgb")
    frames = [(name, "Case_1", f"{name}.tif", 50, 40, "0") for name in names]
    points = [
        (name, "Case_1", *(rng.random(2) * (50, 40)), "tumour", "tumor")
        for name in names
        for _ in range(PER_FRAME)
    ]
    return (
        pd.DataFrame(points, columns=list(ANNOTATIONS.columns)),
        pd.DataFrame(frames, columns=list(FRAMES.columns)),
        folder,
    )


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def digest_shards(data_set, out: Path, **options) -> dict[str, str]:
    annotations, frames, images = data_set
    write_patches(annotations, frames, images, out, **HOW, shard_patches=7, **options)
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in out.iterdir()}


def die_once(frame, marker: Path):
    """Kill the process that comes here first; the frame is as it was for all others."""
    try:
        marker.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
    return frame


def note_process(frame, folder: Path):
    (folder / str(os.getpid())).touch()
    return frame


def test_processes_and_a_cluster_write_the_bytes_that_one_thread_writes(
    data_set, cluster, tmp_path
):
    expected = digest_shards(data_set, tmp_path / "a", engine="threads", workers=1)
    assert len(expected) == 11
    assert digest_shards(data_set, tmp_path / "b", engine="processes", workers=2) == expected

    (seen := tmp_path / "seen").mkdir()
    note = partial(note_process, folder=seen)
    address = cluster.scheduler_address
    assert digest_shards(data_set, tmp_path / "c", engine=address, normalise=note) == expected
    workers = {worker.pid for worker in cluster.workers.values()}
    assert {int(p.name) for p in seen.iterdir()} == workers


def test_a_killed_worker_changes_no_byte(data_set, cluster, tmp_path):
    expected = digest_shards(data_set, tmp_path / "a", engine="threads", workers=1)
    die = partial(die_once, marker=tmp_path / "died")
    address = cluster.scheduler_address
    assert digest_shards(data_set, tmp_path / "b", engine=address, normalise=die) == expected
    assert (tmp_path / "died").exists()


def test_a_cluster_reports_the_frames_that_cannot_be_read(data_set, cluster, tmp_path):
    annotations, frames, images = data_set
    frames = frames.assign(file=frames["file"].replace("Case_1-03.tif", "gone.tif"))
    with pytest.raises(InputError, match=r"gone\.tif: no such file"):
        digest_shards(
            (annotations, frames, images), tmp_path / "a", engine=cluster.scheduler_address
        )
    assert list(tmp_path.iterdir()) == []
