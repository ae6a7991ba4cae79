"""Stage ``ehr_features``: index admissions and MIMIC-IV tables -> the feature table."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, write_json, write_text
from histofuse.core.progress import report
from histofuse.core.tables import read_table, to_csv, write_table
from histofuse.data.cohort import COHORT
from histofuse.data.targets import TARGETS
from histofuse.features.categories import describe_unlisted
from histofuse.features.ehr import build_features, replace_diagnoses
from histofuse.features.specs import FEATURES, to_json_list
from histofuse.params.base import load_section
from histofuse.params.data import DataParams
from histofuse.params.ehr import EhrFeaturesParams

COHORT_FOLDER = Path("data/cohort")
OUTPUT = Path("data/ehr")


def main() -> None:
    params = load_section(EhrFeaturesParams, "ehr_features")
    root = Path(load_section(DataParams, "data").mimiciv)
    cohort = read_table(COHORT_FOLDER / "cohort.parquet", COHORT)
    facts = load_json(COHORT_FOLDER / "meta.json")
    target, prediction_time = TARGETS[facts["target"]], facts["prediction_time"]
    report(f"read {len(cohort):,} index admissions; predicting {target.name} at {prediction_time}")

    features = build_features(cohort, root, params, target, prediction_time)
    prior = replace_diagnoses(features, cohort, root, params, target)
    labs = features.quality["laboratory"]

    with replacing_folder(OUTPUT) as folder:
        write_table(features.table, folder / "features.parquet", FEATURES)
        if prior is not None:
            write_table(prior, folder / "prior_diagnoses.parquet", FEATURES)
        write_json(to_json_list(features.specs), folder / "features.json")
        write_json(features.masked, folder / "masked.json")
        write_text(to_csv(labs), folder / "lab_quality.csv")
        write_text(to_csv(features.outside), folder / "outside_range.csv")
    counts = labs.sum(numeric_only=True).astype(int)
    report(
        f"wrote {len(features.specs)} features ({len(features.masked['masked'])} masked by the "
        f"target) from {counts['rows']:,} laboratory values: {counts['unit_converted']:,} in "
        f"another unit, {counts['unit_corrected']:,} unit errors mended, "
        f"{counts['implausible']:,} implausible, {counts['unknown_unit']:,} in an unknown unit, "
        f"{counts['no_number']:,} without a number"
    )
    for note in describe_unlisted(features.table):
        report(note)
    for row in features.outside[features.outside["outside"] > 0].itertuples():
        report(
            f"{row.feature}: {row.outside:,} values outside {row.low:g} to {row.high:g} {row.unit} "
            "are missing"
        )


if __name__ == "__main__":
    run_stage(main)
