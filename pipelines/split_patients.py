"""Stage ``split_patients``: cohort -> patient-disjoint splits, and their audit."""

from pathlib import Path

from histofuse.data.cohort import COHORT

from histofuse.core.artifacts import write_json
from histofuse.core.progress import report, run_stage
from histofuse.core.tables import read_table, write_table
from histofuse.data.splits import PATIENT_SPLITS, split_patients
from histofuse.evaluation.leakage import audit_patients, require_clean
from histofuse.params.base import load_section, load_seed
from histofuse.params.splits import PatientSplitParams

COHORT_TABLE = Path("data/cohort/cohort.parquet")
SPLITS = Path("data/splits/patients.parquet")
AUDIT = Path("data/splits/patients_audit.json")


def main() -> None:
    params = load_section(PatientSplitParams, "splits.patients")
    cohort = read_table(COHORT_TABLE, COHORT)
    report(f"read {cohort['subject_id'].nunique():,} patients, {len(cohort):,} admissions")

    splits = split_patients(cohort, params, load_seed())
    audit = audit_patients(splits)

    write_json(audit, AUDIT)
    require_clean(audit)
    write_table(splits, SPLITS, PATIENT_SPLITS)
    report(f"wrote {SPLITS}: {audit['counts']} patients")


if __name__ == "__main__":
    run_stage(main)
