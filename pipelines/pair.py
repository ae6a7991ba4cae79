"""Stage ``pair``: splits of patches and patients -> who is paired with whom, under one rule."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.core.tables import read_table, write_table
from histofuse.data.cohort import COHORT
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.features.pairing import PAIRS, join_targets, make_pairs
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.data import DataParams
from histofuse.params.pairing import PairingParams

PATCHES = Path("data/splits/patches.parquet")
PATIENTS = Path("data/splits/patients.parquet")
COHORT_TABLE = Path("data/cohort/cohort.parquet")
OUT = Path("data/pairs")


def main(name: str) -> None:
    params = load_section(PairingParams, f"pairing.{name}")
    crosswalk = Path(load_value(DataParams, "data.crosswalk"))
    patches = read_table(PATCHES, PATCH_SPLITS)
    patients = join_targets(read_table(PATIENTS, PATIENT_SPLITS), read_table(COHORT_TABLE, COHORT))
    report(f"read {len(patches):,} patches and {len(patients):,} admissions")

    pairs = make_pairs(patches, patients, params, load_seed(), crosswalk)

    write_table(pairs, OUT / f"{name}.parquet", PAIRS)
    people = pairs.groupby("split")["subject_id"].nunique().to_dict()
    report(f"wrote {OUT / name}.parquet by {params.root.rule}: patients paired {people}")


if __name__ == "__main__":
    run_stage(main)
