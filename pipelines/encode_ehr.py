"""Stage ``encode_ehr``: feature table and splits -> the numbers models see, and their encoder."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, write_json
from histofuse.core.progress import report
from histofuse.core.tables import read_table, write_table
from histofuse.data.cohort import COHORT
from histofuse.data.splits import PATIENT_SPLITS
from histofuse.features.encoding import ENCODED, encode_table, fit_encoder, join_splits
from histofuse.features.specs import FEATURES, load_specs
from histofuse.params.base import load_section
from histofuse.params.ehr import EncodingParams

COHORT_TABLE = Path("data/cohort/cohort.parquet")
COHORT_METADATA = Path("data/cohort/meta.json")
SPLITS = Path("data/splits/patients.parquet")
FEATURE_FOLDER = Path("data/ehr")
OUTPUT = Path("data/encoded")


def main() -> None:
    params = load_section(EncodingParams, "encoding")
    params.check_source(load_json(COHORT_METADATA)["source"])
    specs = load_specs(FEATURE_FOLDER / "features.json")
    features = read_table(FEATURE_FOLDER / "features.parquet", FEATURES)
    splits = read_table(SPLITS, PATIENT_SPLITS)
    joined = join_splits(features, splits, read_table(COHORT_TABLE, COHORT))
    report(f"read {len(specs)} features of {len(joined):,} index admissions")

    encoder = fit_encoder(joined[joined["split"] == "train"], specs, params)

    with replacing_folder(OUTPUT) as folder:
        for name, impute in (("imputed", True), ("with_missing", False)):
            table = encode_table(encoder, joined, impute=impute)
            write_table(table, folder / f"{name}.parquet", ENCODED)
        write_json(encoder.to_dict(), folder / "encoder.json")
    dropped = ", ".join(f"{d.name} ({d.reason})" for d in encoder.dropped) or "none"
    report(
        f"wrote {len(encoder.feature_order)} encoded features, fitted on {encoder.rows:,} train "
        f"rows; dropped: {dropped}"
    )


if __name__ == "__main__":
    run_stage(main)
