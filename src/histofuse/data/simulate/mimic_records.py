"""The tables of the simulated hospital, column by column as MIMIC-IV v2.2 publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.core.seeding import make_rng
from histofuse.data.mimic import TABLES
from histofuse.data.simulate.mimic_catalogue import (
    BREAST_FEMALE,
    BREAST_MALE,
    CONDITIONS,
    DRUGS,
    LABS,
    METASTASES,
    OTHER_CANCERS,
    TEXT_LABS,
    Code,
    Lab,
)
from histofuse.data.simulate.mimic_patients import (
    CONDITION_NAMES,
    DAY,
    ICD10_DAY,
    NEVER,
    Fates,
    Patients,
    Stays,
)

OUTPATIENT_DRAWS: Final = 1.3  # a patient, mean
MOST_DRAWS: Final = 3
PANEL_FIRST: Final = {"blood_count": 0.97, "chemistry": 0.97, "minerals": 0.7, "liver": 0.95}
PANEL_LATER: Final = {"blood_count": 0.85, "chemistry": 0.88, "minerals": 0.65, "liver": 0.3}

RACES: Final = {
    "WHITE": 0.64,
    "BLACK/AFRICAN AMERICAN": 0.12,
    "HISPANIC/LATINO - PUERTO RICAN": 0.04,
    "HISPANIC/LATINO - DOMINICAN": 0.02,
    "ASIAN": 0.03,
    "ASIAN - CHINESE": 0.02,
    "WHITE - OTHER EUROPEAN": 0.03,
    "WHITE - RUSSIAN": 0.02,
    "OTHER": 0.04,
    "UNKNOWN": 0.03,
    "PATIENT DECLINED TO ANSWER": 0.01,
}
ADMISSION_TYPES: Final = {
    "EW EMER.": 0.4,
    "OBSERVATION ADMIT": 0.15,
    "URGENT": 0.13,
    "EU OBSERVATION": 0.09,
    "SURGICAL SAME DAY ADMISSION": 0.09,
    "ELECTIVE": 0.05,
    "DIRECT EMER.": 0.05,
    "DIRECT OBSERVATION": 0.03,
    "AMBULATORY OBSERVATION": 0.01,
}
LOCATIONS: Final = {
    "EMERGENCY ROOM": 0.55,
    "PHYSICIAN REFERRAL": 0.25,
    "TRANSFER FROM HOSPITAL": 0.12,
    "CLINIC REFERRAL": 0.05,
    "WALK-IN/SELF REFERRAL": 0.03,
}
DESTINATIONS: Final = (
    "HOME",
    "HOME HEALTH CARE",
    "SKILLED NURSING FACILITY",
    "REHAB",
    "HOSPICE",
    "",
)
MARITAL: Final = ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED")


@dataclass(frozen=True)
class Simulated:
    """The tables by name, and the keys of each patient's index admission.

    Attributes:
        tables: Name to table, columns as in ``TABLES``.
        index_hadm_id: One a patient.
    """

    tables: dict[str, pl.DataFrame]
    index_hadm_id: NDArray[np.int64]


@dataclass(frozen=True)
class _Clock:
    """Shifts each patient's real minutes into the 22nd century, by whole weeks."""

    shift_days: NDArray[np.int64]

    def shift(self, minutes: NDArray[np.int64], patient: NDArray[np.int64]) -> pl.Series:
        shifted = minutes + self.shift_days[patient] * DAY
        return pl.Series(shifted * 60_000).cast(pl.Datetime("ms"))


def record_hospital(patients: Patients, stays: Stays, fates: Fates, seed: int) -> Simulated:
    """Write down everything the hospital would know of its patients."""

    def stream(name: str) -> Generator:
        return make_rng(seed, "simulate_mimiciv", name)

    first = np.full(len(patients), NEVER)
    np.minimum.at(first, stays.patient, stays.admitted)
    clock = _draw_clock(stream("clock"), first)
    hadm_id = 20_000_000 + stream("hadm_id").choice(9_999_999, len(stays), replace=False)

    tables = {
        "patients": _record_patients(patients, stays, fates, first, clock),
        "admissions": _record_admissions(stream("admissions"), patients, stays, hadm_id, clock),
        "diagnoses_icd": _record_diagnoses(stream("diagnoses"), patients, stays, hadm_id),
        "labevents": _record_labs(stream("labs"), patients, stays, fates, hadm_id, clock),
        "prescriptions": _record_drugs(stream("drugs"), patients, stays, hadm_id, clock),
        "d_labitems": _list_labs(),
        "d_icd_diagnoses": _list_codes(),
    }
    ordered = {name: table.select(list(TABLES[name].columns)) for name, table in tables.items()}
    return Simulated(ordered, hadm_id[stays.order == 0])


def _draw_clock(rng: Generator, first: NDArray[np.int64]) -> _Clock:
    real_year = 1970 + first / DAY / 365.2425
    years = rng.integers(2112, 2196, len(first)) - np.floor(real_year)
    return _Clock(np.round(years * 365.2425 / 7).astype(np.int64) * 7)


def _record_patients(
    patients: Patients,
    stays: Stays,
    fates: Fates,
    first: NDArray[np.int64],
    clock: _Clock,
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
    rng: Generator, patients: Patients, stays: Stays, hadm_id: NDArray, clock: _Clock
) -> pl.DataFrame:
    m, who = len(stays), stays.patient
    kind = _choose(rng, ADMISSION_TYPES, m)
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
            "admit_provider_id": _draw_providers(rng, m),
            "admission_location": np.where(emergency, "EMERGENCY ROOM", _choose(rng, LOCATIONS, m)),
            "discharge_location": _draw_destinations(rng, patients, stays),
            "insurance": _draw_insurance(rng, patients)[who],
            "language": np.where(rng.random(len(patients)) < 0.9, "ENGLISH", "?")[who],
            "marital_status": _draw_marital(rng, patients)[who],
            "race": _choose(rng, RACES, len(patients))[who],
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
        discharge_location=_null_if_empty("discharge_location"),
        marital_status=_null_if_empty("marital_status"),
    )


def _draw_destinations(rng: Generator, patients: Patients, stays: Stays) -> NDArray:
    """Sicker patients leave for nursing and hospice; nothing here depends on how they fare there."""
    frailty = patients.frailty[stays.patient]
    old = (patients.age_years[stays.patient] - 62) / 10
    logits = np.zeros((len(stays), len(DESTINATIONS)))
    logits[:, 1] = 0.2 * frailty
    logits[:, 2] = -1.0 + 0.4 * frailty + 0.4 * old
    logits[:, 3] = -2.0 + 0.2 * frailty
    logits[:, 4] = -4.2 + 0.5 * frailty + 1.2 * stays.metastatic
    logits[:, 5] = -0.8
    chosen = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return np.where(stays.died, "DIED", np.array(DESTINATIONS)[chosen])


def _draw_insurance(rng: Generator, patients: Patients) -> NDArray:
    u = rng.random(len(patients))
    old = np.where(u < 0.75, "Medicare", "Other")
    young = np.where(u < 0.18, "Medicaid", np.where(u < 0.26, "Medicare", "Other"))
    return np.where(patients.age_years >= 65, old, young)


def _draw_marital(rng: Generator, patients: Patients) -> NDArray:
    old = (patients.age_years - 60) / 10
    logits = np.stack([np.full_like(old, 0.9), -0.4 * old, -1.0 + 0.8 * old, -0.8 + 0 * old], 1)
    chosen = np.array(MARITAL)[np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)]
    return np.where(rng.random(len(patients)) < 0.025, "", chosen)


def _record_diagnoses(
    rng: Generator, patients: Patients, stays: Stays, hadm_id: NDArray
) -> pl.DataFrame:
    who, m = stays.patient, len(stays)
    rows: list[tuple[NDArray, NDArray]] = []  # stay, position in the list of codes
    position = {code: i for i, code in enumerate(_all_codes())}

    def note(present: NDArray, codes: Sequence[Code], variant: NDArray) -> None:
        stay = np.flatnonzero(present)
        numbers = np.array([position[code] for code in codes])
        rows.append((stay, numbers[variant[stay] % len(codes)]))

    own = rng.integers(0, 1 << 30, (len(patients), len(CONDITIONS)))
    for column, condition in enumerate(CONDITIONS):
        coded = rng.random(m) < 0.93
        variant = rng.integers(0, 1 << 30, m) if condition.acute else own[who, column]
        note(stays.conditions[:, column] & coded, condition.codes, variant)
    breast = patients.breast_cancer[who] & (stays.order >= 0)
    breast &= (stays.order == 0) | (rng.random(m) < 0.85)
    site = rng.integers(0, 1 << 30, len(patients))[who]
    note(breast & ~patients.male[who], BREAST_FEMALE, site)
    note(breast & patients.male[who], BREAST_MALE, site)
    note(patients.other_cancer[who] & (rng.random(m) < 0.9), OTHER_CANCERS, site)
    spread = stays.metastatic & (rng.random(m) < 0.99)
    note(spread, METASTASES, patients.metastasis_site[who])
    second = spread & (rng.random(m) < 0.3)
    note(second, METASTASES, patients.metastasis_site[who] + 1)
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
    fall = _all_codes().index(CONDITIONS[CONDITION_NAMES.index("fall")].codes[0])
    stay, code = np.append(stay, bare), np.append(code, np.full(len(bare), fall))
    version10 = stays.discharged[stay] >= ICD10_DAY * DAY
    codes = _all_codes()
    text = np.where(
        version10,
        np.array([c.icd10 for c in codes])[code],
        np.array([c.icd9 for c in codes])[code],
    )
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


@dataclass(frozen=True)
class _Draws:
    """Blood draws: patient, the stay whose levels they show, minute, and whether it is noted."""

    patient: NDArray[np.int64]
    stay: NDArray[np.int64]
    minute: NDArray[np.int64]
    noted: NDArray[np.bool_]
    first: NDArray[np.bool_]


def _draw_draws(rng: Generator, stays: Stays, fates: Fates) -> _Draws:
    days = (stays.discharged - stays.admitted) / DAY
    count = (1 + np.floor(days)).clip(1, MOST_DRAWS).astype(np.int64)
    stay = np.repeat(np.arange(len(stays)), count)
    number = np.arange(len(stay)) - np.repeat(np.cumsum(count) - count, count)
    span = (stays.discharged - stays.admitted)[stay]
    part = (number + rng.random(len(stay)) * 0.5) / count[stay]
    inside = stays.admitted[stay] + (span * part).astype(np.int64)

    before = np.flatnonzero(rng.random(len(stays)) < 0.45)  # in the emergency room
    early = stays.admitted[before] - rng.integers(30, 240, len(before))
    away, when = _draw_outpatient_times(rng, stays, fates)

    stay_all = np.concatenate([stay, before, away])
    minute = np.concatenate([inside, early, when])
    noted = np.zeros(len(stay_all), dtype=bool)
    noted[: len(stay)] = rng.random(len(stay)) < 0.96
    first = np.zeros(len(stay_all), dtype=bool)
    first[: len(stay)] = number == 0
    return _Draws(stays.patient[stay_all], stay_all, minute, noted, first)


def _draw_outpatient_times(
    rng: Generator, stays: Stays, fates: Fates
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws in the year around a stay, outside all stays and before death."""
    per_stay = OUTPATIENT_DRAWS * len(np.unique(stays.patient)) / len(stays)
    stay = np.repeat(np.arange(len(stays)), rng.poisson(per_stay, len(stays)))
    before = rng.random(len(stay)) < 0.5
    delay = rng.integers(2 * DAY, 200 * DAY, len(stay))
    when = np.where(before, stays.admitted[stay] - delay, stays.discharged[stay] + delay)
    free = when < fates.death[stays.patient[stay]]
    for step in (-2, -1, 0, 1, 2):
        other = np.clip(stay + step, 0, len(stays) - 1)
        same = stays.patient[other] == stays.patient[stay]
        free &= ~(same & (when >= stays.admitted[other] - DAY) & (when <= stays.discharged[other]))
    return stay[free], when[free]


def _record_labs(
    rng: Generator,
    patients: Patients,
    stays: Stays,
    fates: Fates,
    hadm_id: NDArray,
    clock: _Clock,
) -> pl.DataFrame:
    draws = _draw_draws(rng, stays, fates)
    drawn = _draw_panels(rng, patients, draws)
    parts = [
        _measure(rng, lab, column, np.flatnonzero(drawn[lab.panel]), draws, stays)
        for column, lab in enumerate(LABS)
    ]
    for text in TEXT_LABS:
        which = np.flatnonzero(drawn["urine" if text.fluid == "Urine" else "text"])
        comments = pl.Series(
            np.array(text.comments)[rng.integers(0, len(text.comments), len(which))]
        )
        parts.append(pl.DataFrame({"draw": which, "comments": comments, "itemid": text.itemid}))
    results = pl.concat(parts, how="diagonal_relaxed")

    n = len(draws.minute)
    specimen = pl.DataFrame(
        {
            "draw": np.arange(n),
            "subject_id": patients.subject_id[draws.patient],
            "hadm_id": hadm_id[draws.stay],
            "noted": draws.noted,
            "specimen_id": rng.choice(90_000_000, n, replace=False) + 1_000_000,
            "charttime": clock.shift(draws.minute, draws.patient),
            "storetime": clock.shift(draws.minute + rng.integers(35, 150, n), draws.patient),
            "order_provider_id": np.where(
                draws.first | (rng.random(n) < 0.9), "", _draw_providers(rng, n)
            ),
            "priority": np.array(["STAT", "ROUTINE", ""])[rng.choice(3, n, p=[0.5, 0.42, 0.08])],
        }
    ).with_columns(
        _null_if_empty("order_provider_id"),
        _null_if_empty("priority"),
        hadm_id=pl.when("noted").then("hadm_id"),
    )
    joined = results.join(specimen, on="draw", how="left", maintain_order="left")
    joined = joined.sort("subject_id", "charttime", "draw", "itemid")
    return joined.with_columns(labevent_id=pl.int_range(1, pl.len() + 1))


def _draw_panels(rng: Generator, patients: Patients, draws: _Draws) -> dict[str, NDArray]:
    n = len(draws.minute)
    drawn: dict[str, NDArray] = {}
    for panel, chance in PANEL_FIRST.items():
        drawn[panel] = rng.random(n) < np.where(draws.first, chance, PANEL_LATER[panel])
    drawn["coagulation"] = rng.random(n) < np.where(draws.first, 0.6, 0.25)
    known = patients.breast_cancer[draws.patient]
    drawn["marker"] = rng.random(n) < np.where(known, 0.06, 0.002)
    drawn["text"] = rng.random(n) < 0.7
    drawn["urine"] = rng.random(n) < np.where(draws.first, 0.45, 0.2)
    return drawn


def _measure(
    rng: Generator, lab: Lab, column: int, which: NDArray, draws: _Draws, stays: Stays
) -> pl.DataFrame:
    """Results of one test, with the quirks of the release; null ``valuenum`` where it is words."""
    n = len(which)
    level = stays.labs[draws.stay[which], column] + rng.normal(0, lab.noise, n)
    value = np.exp(level) if lab.skewed else level
    value = np.maximum(value, 10.0**-lab.decimals)
    unit, decimals = np.full(n, lab.unit, dtype=object), np.full(n, lab.decimals)
    low, high = np.full(n, lab.low), np.full(n, lab.high)

    if lab.other_unit is not None:
        other = rng.random(n) < 0.003
        name, factor = lab.other_unit
        value, unit[other] = np.where(other, value * factor, value), name
        low, high = (np.where(other, end * factor, end) for end in (low, high))
        decimals[other] = 0 if factor >= 10 else max(lab.decimals, 1)
    wild = rng.random(n) < 0.001
    value[wild] = rng.choice([0.0, -1.0, 9999.0, 999999.0], int(wild.sum()))
    value = np.round(value * 10.0**decimals) / 10.0**decimals
    table = pl.DataFrame(
        {
            "draw": which,
            "valuenum": value,
            "decimals": decimals,
            "valueuom": unit.astype(str),
            "ref_range_lower": low.round(2),
            "ref_range_upper": high.round(2),
            "hidden": rng.random(n) < 0.03,
            "lost": rng.random(n) < 0.004,
            "unstated": rng.random(n) < 0.002,
        }
    )
    return _print_results(table, lab)


def _print_results(table: pl.DataFrame, lab: Lab) -> pl.DataFrame:
    """Print values as the release does: some hidden by ``___``, some lost to a comment."""
    printed = (
        pl.when(pl.col("decimals") == 0)
        .then(pl.col("valuenum").cast(pl.Int64).cast(pl.String))
        .otherwise(pl.col("valuenum").cast(pl.String))
    )
    below = pl.lit(lab.itemid == 50885) & (pl.col("valuenum") < 0.2)
    absent = pl.col("lost") | below
    outside = (pl.col("valuenum") < pl.col("ref_range_lower")) | (
        pl.col("valuenum") > pl.col("ref_range_upper")
    )
    comment = (
        pl.when(below)
        .then(pl.lit("<0.2."))
        .when("lost")
        .then(pl.lit("UNABLE TO REPORT."))
        .when("hidden")
        .then(pl.lit("New reference range as of ___."))
    )
    return table.select(
        "draw",
        value=pl.when(absent).then(None).when("hidden").then(pl.lit("___")).otherwise(printed),
        valuenum=pl.when(~absent).then(_print_number("valuenum")),
        valueuom=pl.when("unstated").then(pl.lit(" ")).otherwise(_null_if_empty("valueuom")),
        ref_range_lower=_print_number("ref_range_lower"),
        ref_range_upper=_print_number("ref_range_upper"),
        flag=pl.when(outside & ~absent).then(pl.lit("abnormal")),
        comments=comment,
        itemid=pl.lit(lab.itemid),
    )


def _print_number(name: str) -> pl.Expr:
    """Print whole numbers without a decimal point, as the release does."""
    return pl.col(name).cast(pl.String).str.strip_suffix(".0")


def _draw_uses(rng: Generator, patients: Patients, stays: Stays) -> dict[str, NDArray]:
    """Which reasons to prescribe hold at each stay."""
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


def _record_drugs(
    rng: Generator, patients: Patients, stays: Stays, hadm_id: NDArray, clock: _Clock
) -> pl.DataFrame:
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
            "order_provider_id": _draw_providers(rng, len(stay)),
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


def _list_labs() -> pl.DataFrame:
    rows = [(lab.itemid, lab.label, "Blood", lab.category) for lab in LABS]
    rows += [(lab.itemid, lab.label, lab.fluid, lab.category) for lab in TEXT_LABS]
    return pl.DataFrame(rows, schema=list(TABLES["d_labitems"].columns), orient="row").sort(
        "itemid"
    )


def _list_codes() -> pl.DataFrame:
    rows = [(c.icd9, 9, c.title9) for c in _all_codes()]
    rows += [(c.icd10, 10, c.title10 or c.title9) for c in _all_codes()]
    table = pl.DataFrame(rows, schema=list(TABLES["d_icd_diagnoses"].columns), orient="row")
    return table.unique(["icd_code", "icd_version"]).sort("icd_version", "icd_code")


def _all_codes() -> list[Code]:
    cancers = [*BREAST_FEMALE, *BREAST_MALE, *METASTASES, *OTHER_CANCERS]
    return [code for condition in CONDITIONS for code in condition.codes] + cancers


def _choose(rng: Generator, shares: dict[str, float], count: int) -> NDArray:
    weights = np.array(list(shares.values()))
    return np.array(list(shares))[rng.choice(len(shares), count, p=weights / weights.sum())]


def _draw_providers(rng: Generator, count: int) -> NDArray:
    """Provider ids of the release's form: P, two digits, three characters."""
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    pool = ["P" + "".join(part) for part in rng.choice(letters, (400, 3))]
    numbers = rng.integers(0, 100, 400)
    ids = np.array([f"{p[0]}{number:02d}{p[1:]}" for p, number in zip(pool, numbers, strict=True)])
    return ids[rng.integers(0, 400, count)]


def _null_if_empty(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(name).alias(name)
