"""The tables of the simulated hospital, each with every column of MIMIC-IV v2.2."""

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.core.seeding import make_rng
from histofuse.data.mimic_tables import TABLES
from histofuse.data.simulate.mimiciv import catalogue
from histofuse.data.simulate.mimiciv.cells import (
    Clock,
    choose,
    draw_clock,
    draw_providers,
    null_if_empty,
)
from histofuse.data.simulate.mimiciv.diagnoses import list_codes, record_diagnoses
from histofuse.data.simulate.mimiciv.drugs import record_drugs
from histofuse.data.simulate.mimiciv.labs import list_labs, record_labs
from histofuse.data.simulate.mimiciv.patients import DAY, NEVER, Fates, Patients, Stays


def record_hospital(
    patients: Patients, stays: Stays, fates: Fates, seed: int
) -> tuple[dict[str, pl.DataFrame], NDArray[np.int64]]:
    """Write down what the hospital would know: its ``TABLES``, and each index ``hadm_id``."""

    def stream(name: str) -> Generator:
        return make_rng(seed, "simulate_mimiciv", name)

    first = np.full(len(patients), NEVER)
    np.minimum.at(first, stays.patient, stays.admitted)
    clock = draw_clock(stream("clock"), first)
    hadm_id = 20_000_000 + stream("hadm_id").choice(9_999_999, len(stays), replace=False)

    tables = {
        "patients": _record_patients(patients, stays, fates, first, clock),
        "admissions": _record_admissions(stream("admissions"), patients, stays, hadm_id, clock),
        "diagnoses_icd": record_diagnoses(stream("diagnoses"), patients, stays, hadm_id),
        "labevents": record_labs(
            stream("labs"), patients, stays, fates, hadm_id=hadm_id, clock=clock
        ),
        "prescriptions": record_drugs(stream("drugs"), patients, stays, hadm_id, clock),
        "d_labitems": list_labs(),
        "d_icd_diagnoses": list_codes(),
    }
    ordered = {name: table.select(list(TABLES[name].columns)) for name, table in tables.items()}
    return ordered, hadm_id[stays.order == 0]


def _record_patients(
    patients: Patients, stays: Stays, fates: Fates, first: NDArray[np.int64], clock: Clock
) -> pl.DataFrame:
    everyone = np.arange(len(patients))
    index = stays.admitted[stays.order == 0]
    age = np.floor(patients.age_years - (index - first) / DAY / 365.2425).astype(np.int64)
    dead = fates.death != NEVER
    dod = clock.shift(np.where(dead, fates.death, 0), everyone).cast(pl.Date)
    real_year = 1970 + (first / DAY / 365.2425).astype(np.int64)
    group = 2008 + (real_year - 2008) // 3 * 3
    return pl.DataFrame(
        {
            "subject_id": patients.subject_id,
            "gender": np.where(patients.male, "M", "F"),
            "anchor_age": np.where(age > 89, 91, age.clip(18)),
            "anchor_year": clock.shift(first, everyone).dt.year(),
            "anchor_year_group": [f"{year} - {year + 2}" for year in group],
        }
    ).with_columns(dod=pl.when(pl.Series(dead)).then(dod))


def _record_admissions(
    rng: Generator, patients: Patients, stays: Stays, hadm_id: NDArray, clock: Clock
) -> pl.DataFrame:
    m, who = len(stays), stays.patient
    kind = choose(rng, catalogue.ADMISSION_TYPES, m)
    emergency = np.isin(kind, ["EW EMER.", "EU OBSERVATION", "OBSERVATION ADMIT"])
    arrival = stays.admitted - rng.integers(60, 480, m)
    departure = stays.admitted + rng.integers(20, 180, m)
    admitted = clock.shift(stays.admitted, who)
    table = pl.DataFrame(
        {
            "subject_id": patients.subject_id[who],
            "hadm_id": hadm_id,
            "admittime": admitted,
            "dischtime": clock.shift(stays.discharged, who),
            "admission_type": kind,
            "admit_provider_id": draw_providers(rng, m),
            "admission_location": np.where(
                emergency, "EMERGENCY ROOM", choose(rng, catalogue.LOCATIONS, m)
            ),
            "discharge_location": _draw_destinations(rng, patients, stays),
            "insurance": _draw_insurance(rng, patients)[who],
            "language": np.where(rng.random(len(patients)) < 0.9, "ENGLISH", "?")[who],
            "marital_status": _draw_marital(rng, patients)[who],
            "race": choose(rng, catalogue.RACES, len(patients))[who],
            "edregtime": clock.shift(arrival, who),
            "edouttime": clock.shift(departure, who),
            "hospital_expire_flag": stays.died.astype(np.int64),
        }
    )
    came_through_ed, died = pl.Series(emergency), pl.Series(stays.died)
    return table.with_columns(
        deathtime=pl.when(died).then("dischtime"),
        edregtime=pl.when(came_through_ed).then("edregtime"),
        edouttime=pl.when(came_through_ed).then("edouttime"),
        discharge_location=null_if_empty("discharge_location"),
        marital_status=null_if_empty("marital_status"),
    )


def _draw_destinations(rng: Generator, patients: Patients, stays: Stays) -> NDArray:
    """Sicker patients leave for nursing and hospice; nothing depends on how they fare."""
    frailty = patients.frailty[stays.patient]
    old = (patients.age_years[stays.patient] - 62) / 10
    logits = np.zeros((len(stays), len(catalogue.DESTINATIONS)))
    logits[:, 1] = 0.2 * frailty
    logits[:, 2] = -1.0 + 0.4 * frailty + 0.4 * old
    logits[:, 3] = -2.0 + 0.2 * frailty
    logits[:, 4] = -4.2 + 0.5 * frailty + 1.2 * stays.metastatic
    logits[:, 5] = -0.8
    chosen = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return np.where(stays.died, "DIED", np.array(catalogue.DESTINATIONS)[chosen])


def _draw_insurance(rng: Generator, patients: Patients) -> NDArray:
    u = rng.random(len(patients))
    old = np.where(u < 0.75, "Medicare", "Other")
    young = np.where(u < 0.18, "Medicaid", np.where(u < 0.26, "Medicare", "Other"))
    return np.where(patients.age_years >= 65, old, young)


def _draw_marital(rng: Generator, patients: Patients) -> NDArray:
    old = (patients.age_years - 60) / 10
    logits = np.stack([np.full_like(old, 0.9), -0.4 * old, -1.0 + 0.8 * old, -0.8 + 0 * old], 1)
    chosen = np.array(catalogue.MARITAL)[np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)]
    return np.where(rng.random(len(patients)) < 0.025, "", chosen)
