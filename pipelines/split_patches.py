"""Stage ``split_patches``: patch index -> splits by case, frame or patch, and their audit.

Cases of one patient, whom the crosswalk names, stay together in a split by case.
"""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import write_json
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.core.tables import read_table, write_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.crosswalk import unite_cases
from histofuse.data.leakage import audit_patches, require_clean
from histofuse.data.patches import PATCH_INDEX, load_meta
from histofuse.data.splits import PATCH_SPLITS, split_patches
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.data import DataParams
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
    report(f"read {len(index):,} patches of {show_count(index['case_id'].nunique(), 'cases')}")

    crosswalk = Path(load_value(DataParams, "data.crosswalk"))
    same_patient = unite_cases(crosswalk, index["case_id"])
    splits = split_patches(index, params, load_seed(), same_patient)
    audit = audit_patches(splits, index, frames, window_px, params)

    write_json(audit, AUDIT)
    require_clean(audit)
    write_table(splits, SPLITS, PATCH_SPLITS)
    report(f"wrote {SPLITS} by {params.unit}: {audit['counts']}")


if __name__ == "__main__":
    run_stage(main)
