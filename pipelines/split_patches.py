"""Stage ``split_patches``: patch index -> splits by case, frame or patch, and their audit."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import write_json
from histofuse.core.progress import report
from histofuse.core.tables import read_table, write_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.leakage import audit_patches, require_clean
from histofuse.data.patches import PATCH_INDEX, load_meta
from histofuse.data.splits import PATCH_SPLITS, split_patches
from histofuse.params.base import load_section, load_seed
from histofuse.params.splits import ImageSplitParams

FRAMES_TABLE = Path("data/annotations/frames.parquet")
PATCHES = Path("data/patches")
SPLITS = Path("data/splits/patches.parquet")
AUDIT = Path("data/splits/patches_audit.json")


def main() -> None:
    params = load_section(ImageSplitParams, "splits.images")
    index = read_table(PATCHES / "index.parquet", PATCH_INDEX)
    frames = read_table(FRAMES_TABLE, FRAMES)
    window_px = load_meta(PATCHES).window_px
    report(f"read {len(index):,} patches of {index['case_id'].nunique()} cases")

    splits = split_patches(index, params, load_seed())
    audit = audit_patches(splits, index, frames, window_px, params)

    write_json(audit, AUDIT)
    require_clean(audit)
    write_table(splits, SPLITS, PATCH_SPLITS)
    report(f"wrote {SPLITS} by {params.unit}: {audit['counts']}")


if __name__ == "__main__":
    run_stage(main)
