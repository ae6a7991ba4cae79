"""Stage ``simulate_mimiciv``: a risk model -> MIMIC-IV tables in the published format."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.privacy import SIMULATED_MARKER
from histofuse.core.progress import report
from histofuse.core.tables import write_table
from histofuse.data.simulate.mimiciv.tables import RISK_MODEL, simulate_hospital, write_hospital
from histofuse.params.base import load_section, load_seed
from histofuse.params.simulation import MimicSimulationParams

HOSPITAL = Path("data/simulated/mimiciv")
RISKS = Path("data/simulated/risk_model.parquet")


def main() -> None:
    params = load_section(MimicSimulationParams, "simulation.mimiciv")
    report(f"simulating {params.patients:,} patients of a hospital")

    hospital = simulate_hospital(params, load_seed())

    with replacing_folder(HOSPITAL) as folder:
        write_hospital(hospital.tables, folder)
        write_json(hospital.metadata, folder / SIMULATED_MARKER)
    write_table(hospital.risks, RISKS, RISK_MODEL)
    risk = hospital.metadata["risk_model"]
    report(
        f"wrote {HOSPITAL}: {hospital.metadata['admissions']:,} admissions, "
        f"{hospital.tables['labevents'].height:,} lab events; one-year mortality of the "
        f"{hospital.metadata['breast_cancer_patients']:,} breast-cancer patients "
        f"{risk['breast_cancer_prevalence']:.3f}, best achievable AUROC "
        f"{risk['breast_cancer_auroc']:.3f}"
    )


if __name__ == "__main__":
    run_stage(main)
