"""Stage ``ehr_features``: index admissions and health records -> the feature table."""

from pathlib import Path

import pandas as pd

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, write_json, write_text
from histofuse.core.progress import report
from histofuse.core.tables import read_table, to_csv, write_table
from histofuse.data.cohort import ADMISSIONS, COHORT
from histofuse.data.declared.table import read_declared
from histofuse.data.targets import TARGETS
from histofuse.features.categories import describe_unlisted
from histofuse.features.declared import build_declared_features
from histofuse.features.ehr import EhrFeatures, build_features, replace_diagnoses
from histofuse.features.specs import FEATURES, to_json_list
from histofuse.params.base import load_section
from histofuse.params.data import RecordsParams
from histofuse.params.ehr import EhrFeaturesParams, PredictionTime

COHORT_FOLDER = Path("data/cohort")
OUTPUT = Path("data/ehr")


def main() -> None:
    facts = load_json(COHORT_FOLDER / "meta.json")
    if load_section(RecordsParams, "data.records").kind == "table":
        features, prior = build_from_table(), None
    else:
        features, prior = build_from_mimiciv(facts["target"], facts["prediction_time"])
    report(f"predicting {facts['target']} at {facts['prediction_time']}")
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
        f"target) from {counts['rows']:,} measured values: {counts['unit_converted']:,} in "
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


def build_from_table() -> EhrFeatures:
    declared = read_declared(Path(load_section(RecordsParams, "data.records").path))
    cohort = read_table(COHORT_FOLDER / "cohort.parquet", COHORT)
    report(f"read {len(cohort):,} rows of {declared.path}")
    return build_declared_features(declared, cohort)


def build_from_mimiciv(
    name: str, prediction_time: PredictionTime
) -> tuple[EhrFeatures, pd.DataFrame | None]:
    params = load_section(EhrFeaturesParams, "ehr_features")
    root = Path(load_section(RecordsParams, "data.records").path)
    cohort = read_table(COHORT_FOLDER / "cohort.parquet", ADMISSIONS)
    target = TARGETS[name]
    report(f"read {len(cohort):,} index admissions")
    features = build_features(cohort, root, params, target, prediction_time)
    return features, replace_diagnoses(features, cohort, root, params, target)


if __name__ == "__main__":
    run_stage(main)
