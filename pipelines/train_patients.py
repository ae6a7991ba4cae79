"""Stage ``train_patients``: linked patients -> the bundle of one method of fusion."""

from dataclasses import replace
from pathlib import Path

from _stage import run_stage
from histofuse.core.naming import name_patient_model
from histofuse.core.progress import report
from histofuse.params.base import load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.patients import PatientParams
from histofuse.params.tune import apply_values
from histofuse.patients.train import describe_training, load_cohort, train_patients
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.tracking.names import name_registered
from histofuse.tracking.recorder import open_recorder

LINKED = Path("data/linked")
EMBEDDINGS = Path("data/linked_embeddings")
STUDIES = Path("studies")
MODELS = Path("models")


def main(method: str) -> None:
    params = load_section(PatientParams, f"patients.{method}").root
    params = apply_values(params, read_best_params(STUDIES / params.study / BEST_PARAMS))
    encoding = load_section(EncodingParams, "encoding")
    cohort = load_cohort(LINKED, EMBEDDINGS)
    registered = name_registered(cohort.encoder["name"])
    cohort = replace(cohort, encoder={**cohort.encoder, "registered": registered})
    report(f"read {len(cohort.bags):,} patients with {len(cohort.bags.bag_of):,} nuclei")

    name = name_patient_model(method)
    with open_recorder(run_name=name) as recorder:
        trained = train_patients(cohort, params, encoding, load_seed(), recorder, MODELS / name)
    report(f"wrote {MODELS / name}: {describe_training(trained, cohort.bags)}")


if __name__ == "__main__":
    run_stage(main)
