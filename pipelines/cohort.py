"""Stage ``cohort``: MIMIC-IV tables -> index admissions with their target, and the attrition."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder, write_json, write_text
from histofuse.core.progress import report
from histofuse.core.tables import to_csv, write_table
from histofuse.data.cohort import COHORT, build_cohort
from histofuse.data.mimic import identify_source, load_hospital
from histofuse.params.base import load_section
from histofuse.params.data import DataParams
from histofuse.params.ehr import CohortParams

OUTPUT = Path("data/cohort")


def main() -> None:
    params = load_section(CohortParams, "cohort")
    root = Path(load_section(DataParams, "data").mimiciv)

    hospital = load_hospital(root)
    report("read " + ", ".join(f"{n:,} {table}" for table, n in hospital.rows.items()))
    for note in hospital.notes:
        report(note)

    cohort = build_cohort(hospital, params, root)
    facts = {**cohort.describe(), "source": identify_source(root)}

    with replacing_folder(OUTPUT) as folder:
        write_table(cohort.table, folder / "cohort.parquet", COHORT)
        write_text(to_csv(cohort.attrition.to_table()), folder / "attrition.csv")
        write_json(facts, folder / "meta.json")
    report(
        f"wrote {facts['admissions']:,} index admissions of {facts['patients']:,} patients, "
        f"{facts['positives']:,} with {facts['target']} ({facts['source']} data)"
    )


if __name__ == "__main__":
    run_stage(main)
