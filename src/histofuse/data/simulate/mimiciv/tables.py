"""A simulated hospital in MIMIC-IV's published format, with a risk model of known AUROC."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import polars as pl

from histofuse.core.auroc import compute_auroc
from histofuse.core.seeding import make_rng
from histofuse.core.tables import Contract
from histofuse.core.text_tables import DATETIME_FORMAT
from histofuse.data.simulate.mimiciv.patients import (
    DAY,
    HORIZON_DAYS,
    draw_fates,
    draw_patients,
    draw_stays,
)
from histofuse.data.simulate.mimiciv.records import record_hospital
from histofuse.data.simulate.mimiciv.risk import INTERCEPT, TERMS
from histofuse.params.simulation import MimicSimulationParams

RISK_MODEL: Final = Contract(
    name="true risks of the simulated index admissions",
    columns={"subject_id": "int", "hadm_id": "int", "true_probability": "float"},
    key=("subject_id", "hadm_id"),
)
GZIP_LEVEL: Final = 4


@dataclass(frozen=True)
class SimulatedHospital:
    """The simulated data."""

    tables: dict[str, pl.DataFrame]  # name to table, in MIMIC-IV v2.2's columns
    # as `RISK_MODEL` has them, by subject_id: the index admission of each patient
    risks: pd.DataFrame
    metadata: dict[str, Any]  # content of the marker file: sizes, the risk model and its AUROC


def simulate_hospital(params: MimicSimulationParams, seed: int) -> SimulatedHospital:
    """Simulate the hospital; the same params and seed give the same bytes."""
    rng = make_rng(seed, "simulate_mimiciv", "patients")
    patients = draw_patients(rng, params.patients, params.breast_cancer_fraction)
    stays = draw_stays(make_rng(seed, "simulate_mimiciv", "stays"), patients)
    fates, stays = draw_fates(make_rng(seed, "simulate_mimiciv", "fates"), patients, stays)
    tables, index_hadm_id = record_hospital(patients, stays, fates, seed)

    index = stays.order == 0
    survived = patients.breast_cancer & ~stays.died[index]
    deadline = (stays.discharged[index] // DAY + HORIZON_DAYS + 1) * DAY
    outcome = (fates.death < deadline)[survived]
    columns = (patients.subject_id, index_hadm_id, fates.probability)
    risks = pd.DataFrame(dict(zip(RISK_MODEL.columns, columns, strict=True)))
    metadata = {
        "source": "simulated",
        "patients": len(patients),
        "admissions": len(stays),
        "breast_cancer_patients": int(patients.breast_cancer.sum()),
        "risk_model": {
            "outcome": "death within 365 days after leaving the index admission alive",
            "intercept": INTERCEPT,
            "terms": {name: vars(term) for name, term in TERMS.items()},
            "breast_cancer_auroc": round(compute_auroc(fates.probability[survived], outcome), 6),
            "breast_cancer_prevalence": round(float(np.mean(outcome)), 6),
        },
    }
    return SimulatedHospital(tables, risks, metadata)


def write_hospital(tables: dict[str, pl.DataFrame], folder: Path) -> None:
    """Write ``hosp/<table>.csv.gz``; no time stamp goes into the gzip header."""
    hosp = folder / "hosp"
    hosp.mkdir(parents=True)

    def write(name: str) -> None:
        text = tables[name].write_csv(datetime_format=DATETIME_FORMAT).encode()
        (hosp / f"{name}.csv.gz").write_bytes(gzip.compress(text, GZIP_LEVEL, mtime=0))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, tables))
