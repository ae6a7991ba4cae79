"""Stage ``encode_ehr``: feature table and splits -> the numbers models see, and their encoder."""

from pathlib import Path

import pandas as pd

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.data.cohort import COHORT
from histofuse.data.splits import PATIENT_SPLITS
from histofuse.features.encoding import fit_encoder, join_splits, write_encoded
from histofuse.features.specs import FEATURES, load_specs
from histofuse.params.base import load_section
from histofuse.params.ehr import EncodingParams

COHORT_TABLE = Path("data/cohort/cohort.parquet")
COHORT_METADATA = Path("data/cohort/meta.json")
SPLITS = Path("data/splits/patients.parquet")
FEATURE_FOLDER = Path("data/ehr")
PRIOR = "prior_diagnoses"  # the same with diagnoses of earlier admissions only, if they differ
OUTPUT = Path("data/encoded")


def main() -> None:
    params = load_section(EncodingParams, "encoding")
    params.check_source(load_json(COHORT_METADATA)["source"])
    specs = load_specs(FEATURE_FOLDER / "features.json")
    joined = read_joined("features")
    report(f"read {len(specs)} features of {len(joined):,} index admissions")

    encoder = fit_encoder(joined[joined["split"] == "train"], specs, params)

    with replacing_folder(OUTPUT) as folder:
        write_encoded(encoder, joined, folder)
        if (FEATURE_FOLDER / f"{PRIOR}.parquet").is_file():
            prior = read_joined(PRIOR)
            of_prior = fit_encoder(prior[prior["split"] == "train"], specs, params)
            write_encoded(of_prior, prior, folder / PRIOR)
    dropped = ", ".join(f"{d.name} ({d.reason})" for d in encoder.dropped) or "none"
    report(
        f"wrote {len(encoder.feature_order)} encoded features, fitted on {encoder.rows:,} train "
        f"rows; dropped: {dropped}"
    )


def read_joined(name: str) -> pd.DataFrame:
    features = read_table(FEATURE_FOLDER / f"{name}.parquet", FEATURES)
    splits = read_table(SPLITS, PATIENT_SPLITS)
    return join_splits(features, splits, read_table(COHORT_TABLE, COHORT))


if __name__ == "__main__":
    run_stage(main)
