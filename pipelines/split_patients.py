"""Stage ``split_patients``: cohort -> patient-disjoint splits, and their audit.

Patients linked to tissue follow the split of their case.
"""

from pathlib import Path

import pandas as pd

from _stage import run_stage
from histofuse.core.artifacts import load_json, write_json
from histofuse.core.errors import InputError
from histofuse.core.progress import report
from histofuse.core.tables import read_table, write_table
from histofuse.data.cohort import COHORT
from histofuse.data.crosswalk import (
    count_partners,
    find_linked_splits,
    is_empty,
    read_crosswalk,
)
from histofuse.data.leakage import audit_patients, require_clean
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS, split_patients
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.data import DataParams
from histofuse.params.patients import PatientCohortParams
from histofuse.params.splits import PatientSplitParams
from histofuse.patients.link import check_own

PATCHES = Path("data/splits/patches.parquet")
COHORT_TABLE = Path("data/cohort/cohort.parquet")
COHORT_META = Path("data/cohort/meta.json")
SPLITS = Path("data/splits/patients.parquet")
AUDIT = Path("data/splits/patients_audit.json")


def main() -> None:
    params = load_section(PatientSplitParams, "splits.patients")
    cohort = read_table(COHORT_TABLE, COHORT)
    report(f"read {cohort['subject_id'].nunique():,} patients, {len(cohort):,} admissions")

    splits = split_patients(cohort, params, load_seed(), find_linked(cohort))
    audit = audit_patients(splits)

    write_json(audit, AUDIT)
    require_clean(audit)
    write_table(splits, SPLITS, PATIENT_SPLITS)
    report(f"wrote {SPLITS}: {audit['counts']} patients")


def find_linked(cohort: pd.DataFrame) -> pd.Series | None:
    """Find the split of each linked patient, if any are linked."""
    crosswalk = Path(load_value(DataParams, "data.crosswalk"))
    models_them = load_section(PatientCohortParams, "patient_cohort").root == "crosswalk"
    if is_empty(crosswalk):
        if models_them:
            problem = f"is crosswalk, but {crosswalk} links no case"
            remedy = "Name the file in data.crosswalk, or set it to simulated."
            raise InputError.of("params.yaml, patient_cohort", problem, "patients of cases", remedy)
        return None
    patches = read_table(PATCHES, PATCH_SPLITS)
    links = read_crosswalk(crosswalk, patches, cohort)
    report(f"{crosswalk}: {count_partners(links, patches, cohort)}")
    linked = find_linked_splits(links, patches)
    if models_them:  # known before anything is trained
        own = links.assign(split=links["subject_id"].map(linked))
        check_own(own, cohort, load_json(COHORT_META)["source"])
    return linked


if __name__ == "__main__":
    run_stage(main)
