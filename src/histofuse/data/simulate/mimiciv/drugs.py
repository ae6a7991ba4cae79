"""``prescriptions`` of the simulated hospital: what is given for which reason."""

from typing import Any

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.data.simulate.mimiciv.catalogue import DRUGS
from histofuse.data.simulate.mimiciv.cells import Clock, draw_providers
from histofuse.data.simulate.mimiciv.patients import CONDITION_NAMES, Patients, Stays


def _draw_uses(rng: Generator, patients: Patients, stays: Stays) -> dict[str, NDArray]:
    who, m = stays.patient, len(stays)
    has = {name: stays.conditions[:, i] for i, name in enumerate(CONDITION_NAMES)}
    cancer = patients.breast_cancer[who] & (stays.order >= 0)
    spread = stays.metastatic

    def drawn(chance: Any) -> NDArray:
        return rng.random(m) < chance

    uses = dict(has)
    uses["anyone"] = np.ones(m, dtype=bool)
    uses["diabetes"] = has["diabetes"] | has["diabetes_complicated"]
    treated = cancer | patients.other_cancer[who]
    uses["chemotherapy"] = treated & drawn(np.where(spread, 0.35, 0.16))
    uses["endocrine"] = cancer & patients.hormone_receptor[who] & drawn(0.6)
    uses["her2"] = cancer & patients.her2[who] & drawn(0.6)
    uses["g_csf"] = uses["chemotherapy"] & drawn(0.3)
    bone = spread & (patients.metastasis_site[who] == 0)
    uses["bisphosphonates"] = drawn(np.where(bone, 0.4, np.where(has["osteoporosis"], 0.04, 0.004)))
    uses["antiemetics"] = drawn(0.45 + 0.4 * (uses["chemotherapy"] | has["nausea"]))
    uses["opioids"] = drawn(0.42 + 0.25 * spread)
    uses["prophylaxis"] = drawn(0.6)
    clot = has["thrombosis"] | has["arrhythmia"] | has["pulmonary_circulation"]
    uses["anticoagulants"] = drawn(np.where(clot, 0.75, 0.08))
    uses["antibiotics"] = drawn(np.where(has["infection"], 0.9, 0.2))
    lungs = has["lung_disease"] | has["rheumatoid"] | uses["chemotherapy"]
    uses["steroids"] = drawn(0.08 + 0.25 * lungs + 0.15 * spread)
    return uses


def record_drugs(
    rng: Generator, patients: Patients, stays: Stays, hadm_id: NDArray, clock: Clock
) -> pl.DataFrame:
    """Draw every order of every admission."""
    uses = _draw_uses(rng, patients, stays)
    ordered = [uses[drug.use] & (rng.random(len(stays)) < drug.probability) for drug in DRUGS]
    stay, number = np.nonzero(np.stack(ordered, axis=1))
    span = (stays.discharged - stays.admitted)[stay]
    start = stays.admitted[stay] + (span * rng.random(len(stay)) * 0.5).astype(np.int64)
    stop = start + ((stays.discharged[stay] - start) * rng.uniform(0.3, 1, len(stay))).astype(int)
    subject = patients.subject_id[stays.patient[stay]]
    orders = pl.DataFrame(
        {
            "subject_id": subject,
            "hadm_id": hadm_id[stay],
            "number": number,
            "pharmacy_id": rng.choice(90_000_000, len(stay), replace=False) + 1_000_000,
            "order_provider_id": draw_providers(rng, len(stay)),
            # Orders are written to the full hour.
            "starttime": clock.shift(start // 60 * 60, stays.patient[stay]),
            "stoptime": clock.shift(stop // 60 * 60 + 60, stays.patient[stay]),
        }
    ).sort("subject_id", "starttime", "number")
    sequence = pl.int_range(11, pl.len() * 7 + 11, 7).over("subject_id")
    orders = orders.with_columns(poe_seq=sequence).with_columns(
        poe_id=pl.format("{}-{}", "subject_id", "poe_seq")
    )
    return orders.join(_list_drugs(), on="number", how="left", maintain_order="left")


def _list_drugs() -> pl.DataFrame:
    rows = [
        {
            "number": number,
            "drug_type": "BASE" if drug.formulary == "NS100CG" else "MAIN",
            "drug": drug.name,
            "formulary_drug_cd": drug.formulary,
            "gsn": drug.gsn or None,
            "ndc": drug.ndc,
            "prod_strength": drug.strength,
            "form_rx": None,
            "dose_val_rx": drug.dose[0],
            "dose_unit_rx": drug.dose[1],
            "form_val_disp": drug.dispensed[0],
            "form_unit_disp": drug.dispensed[1],
            "doses_per_24_hrs": drug.per_day or None,
            "route": drug.route,
        }
        for number, drug in enumerate(DRUGS)
    ]
    return pl.DataFrame(rows, schema_overrides={"form_rx": pl.String})
