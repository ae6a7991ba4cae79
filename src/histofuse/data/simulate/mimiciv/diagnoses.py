"""``diagnoses_icd`` of the simulated hospital, in the code version of each discharge."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.data.mimic_tables import TABLES
from histofuse.data.simulate.mimiciv import catalogue
from histofuse.data.simulate.mimiciv.patients import (
    CONDITION_NAMES,
    DAY,
    ICD10_DAY,
    Patients,
    Stays,
)

ALL_CODES: Final[list[catalogue.Code]] = [
    *(code for condition in catalogue.CONDITIONS for code in condition.codes),
    *catalogue.BREAST_FEMALE,
    *catalogue.BREAST_MALE,
    *catalogue.METASTASES,
    *catalogue.OTHER_CANCERS,
]


def record_diagnoses(
    rng: Generator, patients: Patients, stays: Stays, hadm_id: NDArray
) -> pl.DataFrame:
    """Code what each admission was billed for."""
    who, m = stays.patient, len(stays)
    rows: list[tuple[NDArray, NDArray]] = []  # stay, position in the list of codes
    position = {code: i for i, code in enumerate(ALL_CODES)}

    def note(present: NDArray, codes: Sequence[catalogue.Code], variant: NDArray) -> None:
        stay = np.flatnonzero(present)
        numbers = np.array([position[code] for code in codes])
        rows.append((stay, numbers[variant[stay] % len(codes)]))

    own = rng.integers(0, 1 << 30, (len(patients), len(catalogue.CONDITIONS)))
    for column, condition in enumerate(catalogue.CONDITIONS):
        coded = rng.random(m) < 0.93
        variant = rng.integers(0, 1 << 30, m) if condition.acute else own[who, column]
        note(stays.conditions[:, column] & coded, condition.codes, variant)
    breast = patients.breast_cancer[who] & (stays.order >= 0)
    breast &= (stays.order == 0) | (rng.random(m) < 0.85)
    site = rng.integers(0, 1 << 30, len(patients))[who]
    note(breast & ~patients.male[who], catalogue.BREAST_FEMALE, site)
    note(breast & patients.male[who], catalogue.BREAST_MALE, site)
    note(patients.other_cancer[who] & (rng.random(m) < 0.9), catalogue.OTHER_CANCERS, site)
    spread = stays.metastatic & (rng.random(m) < 0.99)
    note(spread, catalogue.METASTASES, patients.metastasis_site[who])
    second = spread & (rng.random(m) < 0.3)
    note(second, catalogue.METASTASES, patients.metastasis_site[who] + 1)
    return _number_diagnoses(rng, patients, stays, hadm_id, rows)


def _number_diagnoses(
    rng: Generator,
    patients: Patients,
    stays: Stays,
    hadm_id: NDArray,
    rows: list[tuple[NDArray, NDArray]],
) -> pl.DataFrame:
    """Code each row in the version in force at discharge, and rank it by billing priority."""
    # An admission without any of the conditions still has a reason: a fall.
    stay, code = (np.concatenate(part) for part in zip(*rows, strict=True))
    bare = np.setdiff1d(np.arange(len(stays)), stay)
    fall = ALL_CODES.index(catalogue.CONDITIONS[CONDITION_NAMES.index("fall")].codes[0])
    stay, code = np.append(stay, bare), np.append(code, np.full(len(bare), fall))
    version10 = stays.discharged[stay] >= ICD10_DAY * DAY
    icd9, icd10 = np.array([(c.icd9, c.icd10) for c in ALL_CODES]).T
    text = np.where(version10, icd10[code], icd9[code])
    table = pl.DataFrame(
        {
            "subject_id": patients.subject_id[stays.patient[stay]],
            "hadm_id": hadm_id[stay],
            "icd_code": text,
            "icd_version": np.where(version10, 10, 9),
            "rank": rng.random(len(stay)),
        }
    )
    table = table.unique(["hadm_id", "icd_code"], keep="first", maintain_order=True)
    table = table.sort("subject_id", "hadm_id", "rank")
    return table.with_columns(seq_num=pl.int_range(1, pl.len() + 1).over("hadm_id"))


def list_codes() -> pl.DataFrame:
    """List ``d_icd_diagnoses``."""
    rows = [(c.icd9, 9, c.title9) for c in ALL_CODES]
    rows += [(c.icd10, 10, c.title10 or c.title9) for c in ALL_CODES]
    table = pl.DataFrame(rows, schema=list(TABLES["d_icd_diagnoses"].columns), orient="row")
    return table.unique(["icd_code", "icd_version"]).sort("icd_version", "icd_code")
