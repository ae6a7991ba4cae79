"""Stage ``train_patients``: linked patients -> the bundle of each method of fusion."""

from dataclasses import replace
from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder
from histofuse.core.naming import name_patient_model, show_count
from histofuse.core.progress import report
from histofuse.params.base import load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.patients import AllPatientParams
from histofuse.params.tune import apply_values
from histofuse.patients.train import describe_training, load_cohort, train_patients
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.tracking.names import name_registered
from histofuse.tracking.recorder import open_recorder

LINKED = Path("data/linked")
STUDIES = Path("studies")
OUT = Path("models/patients")


def main() -> None:
    methods = load_section(AllPatientParams, "patients").root
    encoding = load_section(EncodingParams, "encoding")
    cohort = load_cohort(LINKED)
    registered = name_registered(cohort.encoder["name"])
    cohort = replace(cohort, encoder={**cohort.encoder, "registered": registered})
    report(f"read {len(cohort.bags):,} patients with {len(cohort.bags.bag_of):,} nuclei")

    with replacing_folder(OUT) as folder:
        for method, base in methods.items():
            best = read_best_params(STUDIES / base.study / BEST_PARAMS)
            params, name = apply_values(base, best), name_patient_model(method)
            with open_recorder(run_name=name) as recorder:
                trained = train_patients(
                    cohort, params, encoding, load_seed(), recorder, folder / name
                )
            report(f"{name}: {describe_training(trained, cohort.bags)}")
    report(f"wrote {OUT}: {show_count(methods, 'models')}")


if __name__ == "__main__":
    run_stage(main)
