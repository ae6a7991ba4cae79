"""Stage ``patches``: annotations and frames -> uint8 shards and their index."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.data.brecahad import ANNOTATIONS, FRAMES
from histofuse.data.cutting import write_patches
from histofuse.data.images.resolution import find_factors
from histofuse.data.patches import PatchMeta
from histofuse.features.stain import find_normaliser
from histofuse.params.base import load_section
from histofuse.params.data import DataParams
from histofuse.params.patches import PatchParams

TABLES = Path("data/annotations")
OUT = Path("data/patches")


def main() -> None:
    params = load_section(PatchParams, "patches")
    data = load_section(DataParams, "data")
    annotations = read_table(TABLES / "annotations.parquet", ANNOTATIONS, categories=True)
    frames = read_table(TABLES / "frames.parquet", FRAMES)
    labels = load_json(TABLES / "meta.json")
    report(f"read {show_count(frames, 'frames')}, {len(annotations):,} annotations")

    files = dict(zip(frames["frame_id"], frames["file"], strict=True))
    paths = {frame: Path(data.brecahad) / file for frame, file in files.items()}
    declared = None if data.mpp == "none" else data.mpp
    factors = find_factors(paths, params.mpp, declared)

    meta = PatchMeta(
        patch_px=params.patch_px,
        margin_px=params.margin_px,
        stored_px=params.stored_px,
        classes=labels["classes"],
        source=labels["source"],
        stain_normalisation=params.stain_normalisation,
        patch_um=None if params.patch_um == "none" else params.patch_um,
        reduction=1 / min(factors.values(), default=1.0),
    )
    write_patches(
        annotations,
        frames,
        Path(data.brecahad),
        OUT,
        meta=meta,
        reading=data.frames,
        shard_patches=params.shard_patches,
        factors=factors,
        normalise=find_normaliser(params.stain_normalisation),
        engine=params.engine,
        workers=params.workers,
    )
    shards = show_count(-(-len(annotations) // params.shard_patches), "shards")
    report(f"wrote {OUT}: {len(annotations):,} patches of {meta.stored_px} px in {shards}")


if __name__ == "__main__":
    run_stage(main)
