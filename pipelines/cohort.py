"""Stage ``cohort``: health records -> index admissions with their target, and the attrition."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder, write_json, write_text
from histofuse.core.progress import report
from histofuse.core.tables import to_csv, write_table
from histofuse.data.cohort import ADMISSIONS, COHORT, build_cohort
from histofuse.data.declared.cohort import build_declared_cohort
from histofuse.data.declared.table import read_declared
from histofuse.data.mimic import identify_source, load_hospital
from histofuse.params.base import load_section
from histofuse.params.data import RecordsParams
from histofuse.params.ehr import CohortParams

OUTPUT = Path("data/cohort")


def main() -> None:
    records = load_section(RecordsParams, "data.records")
    root = Path(records.path)
    if records.kind == "table":
        declared = read_declared(root)
        report(f"read {declared.cells.height:,} rows of {declared.path}")
        cohort, notes = build_declared_cohort(declared), declared.notes
        contract, source = COHORT, declared.declaration.access
        notes += [f"column {name} left out: {why}" for name, why in declared.left_out.items()]
    else:
        hospital = load_hospital(root)
        report("read " + ", ".join(f"{n:,} {table}" for table, n in hospital.rows.items()))
        cohort = build_cohort(hospital, load_section(CohortParams, "cohort"), root)
        notes, contract, source = hospital.notes, ADMISSIONS, identify_source(root)
    for note in notes:
        report(note)
    facts = {**cohort.describe(), "source": source}

    with replacing_folder(OUTPUT) as folder:
        write_table(cohort.table, folder / "cohort.parquet", contract)
        write_text(to_csv(cohort.attrition.to_table()), folder / "attrition.csv")
        write_json(facts, folder / "meta.json")
    report(
        f"wrote {facts['admissions']:,} index admissions of {facts['patients']:,} patients, "
        f"{facts['positives']:,} with {facts['target']} ({facts['source']} data)"
    )


if __name__ == "__main__":
    run_stage(main)
