"""Simulated patients, their admissions and their fates, as arrays; times are real, not yet shifted.

Time is counted in minutes since 1970 on the hospital's own calendar, where ICD-10 replaces ICD-9 on
1 October 2015. The shift into the 22nd century comes when the tables are written.
"""

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import expit

from histofuse.data.simulate.mimiciv.catalogue import CONDITIONS, LAB_EFFECTS, LABS
from histofuse.data.simulate.mimiciv.risk import (
    IN_HOSPITAL_INTERCEPT,
    IN_HOSPITAL_SLOPE,
    TERMS,
    compute_logit,
)

DAY: Final = 1440  # minutes
HORIZON_DAYS: Final = 365
FIRST_DAY: Final = 13_879  # 2008-01-01
ICD10_DAY: Final = 16_709  # 2015-10-01
LAST_INDEX_DAY: Final = 18_077  # 2019-06-30
LAST_DAY: Final = 18_261  # 2019-12-31
MOST_PRIOR, MOST_LATER = 2, 5
NEVER: Final = np.iinfo(np.int64).max

CONDITION_NAMES: Final = [condition.name for condition in CONDITIONS]
ITEMIDS: Final = [lab.itemid for lab in LABS]

Whole = NDArray[np.int64]
Real = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Patients:
    """One entry a patient."""

    subject_id: Whole  # eight digits, ascending
    male: Flags
    breast_cancer: Flags  # whether the index admission carries the code
    other_cancer: Flags  # whether another solid tumour is coded
    age_years: Real  # at the index admission
    frailty: Real  # latent, standard normal
    # (patients, conditions) lasting conditions; acute columns are all False
    conditions: Flags
    spread_from: Whole  # order of the first admission with metastases; `NEVER` if none
    metastasis_site: Whole  # index into ``METASTASES``
    hormone_receptor: Flags  # whether endocrine therapy is an option
    her2: Flags  # whether the tumour overexpresses HER2

    def __len__(self) -> int:
        return len(self.subject_id)


@dataclass(frozen=True)
class Stays:
    """One entry an admission, by patient and time."""

    patient: Whole
    order: Whole  # 0 at the index admission, negative before, positive after
    admitted: Whole  # minute
    discharged: Whole  # minute; that of death where `died`
    died: Flags  # whether it ended in death
    metastatic: Flags  # whether the cancer has spread by now
    conditions: Flags  # (stays, conditions) lasting and acute
    labs: Real  # (stays, labs) the admission's level, of the logarithm where skewed
    ordered: Flags  # (stays, labs) whether the test is ordered at all

    def __len__(self) -> int:
        return len(self.patient)


@dataclass(frozen=True)
class Fates:
    """What becomes of each patient."""

    # true probability of death within a year after leaving the index admission
    probability: Real
    death: Whole  # minute of death as far as the release would know it; `NEVER` if not


def draw_patients(rng: Generator, patients: int, breast_cancer_fraction: float) -> Patients:
    """Draw patients; the share with breast cancer is exact."""
    breast = np.zeros(patients, dtype=bool)
    breast[: round(patients * breast_cancer_fraction)] = True
    rng.shuffle(breast)
    male = rng.random(patients) < np.where(breast, 0.01, 0.48)
    frailty = rng.normal(size=patients)
    age = np.where(
        breast, rng.normal(62, 13, patients).clip(24, 91), rng.normal(58, 18, patients).clip(18, 91)
    )
    other = ~breast & (rng.random(patients) < 0.1)
    return Patients(
        subject_id=10_000_000 + np.sort(rng.choice(9_999_999, patients, replace=False)),
        male=male,
        breast_cancer=breast,
        other_cancer=other,
        age_years=age.round(1),
        frailty=frailty,
        conditions=_draw_conditions(rng, age, frailty, acute=False),
        spread_from=_draw_spread(rng, breast, other, frailty),
        metastasis_site=rng.choice(5, patients, p=[0.35, 0.2, 0.2, 0.1, 0.15]),
        hormone_receptor=rng.random(patients) < 0.7,
        her2=rng.random(patients) < 0.15,
    )


def draw_stays(rng: Generator, patients: Patients) -> Stays:
    """Draw the admissions each patient would have if never dying."""
    patient, order, admitted, discharged = _draw_timeline(rng, patients)
    age, frailty = patients.age_years[patient], patients.frailty[patient]
    conditions = patients.conditions[patient] | _draw_conditions(rng, age, frailty, acute=True)
    spread = order >= patients.spread_from[patient]
    labs = _draw_lab_levels(rng, patients, patient, spread, conditions)
    ordered, died = _draw_orders(rng, len(patient)), np.zeros(len(patient), dtype=bool)
    stays = (patient, order, admitted, discharged, died, spread, conditions, labs, ordered)
    return Stays(*stays)


def draw_fates(rng: Generator, patients: Patients, stays: Stays) -> tuple[Fates, Stays]:
    """Draw who dies when, and cut the admissions accordingly."""
    index = np.flatnonzero(stays.order == 0)
    logit = compute_logit(_risk_values(patients, stays, index))
    probability = expit(logit)
    dying = expit(IN_HOSPITAL_INTERCEPT + IN_HOSPITAL_SLOPE * logit)
    in_hospital = rng.random(len(patients)) < dying
    within_a_year = ~in_hospital & (rng.random(len(patients)) < probability)

    left = stays.discharged[index]
    days = 1 + np.floor((HORIZON_DAYS - 2) * rng.random(len(patients)) ** 1.5).astype(np.int64)
    death = np.full(len(patients), NEVER)
    death[in_hospital] = left[in_hospital]
    death[within_a_year] = (left + days * DAY)[within_a_year]
    death = _draw_late_deaths(rng, stays, death, left)
    return Fates(probability, death), _cut(stays, death)


def _draw_conditions(rng: Generator, age: NDArray, frailty: NDArray, *, acute: bool) -> Flags:
    drawn = np.zeros((len(age), len(CONDITIONS)), dtype=bool)
    for column, condition in enumerate(CONDITIONS):
        if condition.acute == acute:
            decades = condition.per_decade * (age - 60.0) / 10.0
            chance = expit(condition.logit + decades + condition.frailty * frailty)
            drawn[:, column] = rng.random(len(age)) < chance
    return drawn


def _draw_spread(rng: Generator, breast: Flags, other: Flags, frailty: NDArray) -> Whole:
    logit = np.where(breast, -0.9, -1.2) + 0.25 * frailty
    at_index = rng.random(len(breast)) < expit(logit)
    later = np.where(rng.random(len(breast)) < 0.2, rng.integers(1, 4, len(breast)), NEVER)
    return np.where(breast | other, np.where(at_index, 0, later), NEVER)


def _draw_timeline(rng: Generator, patients: Patients) -> tuple[Whole, ...]:
    """Patient, order, admission and discharge of each stay, by patient and order."""
    n = len(patients)
    orders = np.arange(-MOST_PRIOR, MOST_LATER + 1)
    prior = np.where(patients.breast_cancer, rng.poisson(0.4, n).clip(max=MOST_PRIOR), 0)
    later = rng.poisson(1.0 * np.exp(0.25 * patients.frailty)).clip(max=MOST_LATER)
    hours = np.exp(rng.normal(4.5 + 0.12 * patients.frailty[:, None], 0.85, (n, len(orders))))
    length = (hours.clip(3, 1200) * 60).astype(np.int64)
    # Some come back within weeks, some after years.
    soon = rng.random((n, len(orders))) < np.where(orders > 0, 0.55, 0.2)
    days = rng.exponential(1.0, (n, len(orders))) * np.where(soon, 50.0, 600.0)
    gap = (days * DAY).astype(np.int64) + 2 * DAY

    # Only ICD-10's C50 covers men; 174 is the female breast.
    earliest = np.where(patients.breast_cancer & patients.male, ICD10_DAY, FIRST_DAY)
    admitted = np.zeros((n, len(orders)), dtype=np.int64)
    admitted[:, MOST_PRIOR] = rng.integers(earliest * DAY, LAST_INDEX_DAY * DAY)
    for column in range(MOST_PRIOR + 1, len(orders)):
        left = admitted[:, column - 1] + length[:, column - 1]
        admitted[:, column] = left + gap[:, column]
    for column in range(MOST_PRIOR - 1, -1, -1):
        admitted[:, column] = admitted[:, column + 1] - gap[:, column] - length[:, column]

    exists = (orders >= -prior[:, None]) & (orders <= later[:, None])
    exists &= (admitted >= FIRST_DAY * DAY) & (admitted < LAST_DAY * DAY)
    patient, column = np.nonzero(exists)
    start = admitted[patient, column]
    return patient, orders[column], start, start + length[patient, column]


def _draw_lab_levels(
    rng: Generator, patients: Patients, patient: Whole, metastatic: Flags, conditions: Flags
) -> Real:
    """The level of each test at each stay; most of its spread is the patient's own."""
    spread = np.array([lab.spread for lab in LABS])
    own = rng.normal(size=(len(patients), len(LABS))) * spread * 0.8
    passing = rng.normal(size=(len(patient), len(LABS))) * spread * 0.6
    levels = np.array([np.log(lab.centre) if lab.skewed else lab.centre for lab in LABS])
    levels = levels + own[patient] + passing
    levels += patients.frailty[patient, None] * np.array([lab.frailty for lab in LABS])
    levels += metastatic[:, None] * np.array([lab.metastatic for lab in LABS])
    for name, effects in LAB_EFFECTS.items():
        present = conditions[:, CONDITION_NAMES.index(name)]
        for itemid, shift in effects.items():
            levels[:, ITEMIDS.index(int(itemid))] += shift * present
    return levels


def _draw_orders(rng: Generator, stays: int) -> Flags:
    """Draw the tests ordered at each stay; a panel's rarer ones only with the commoner ones."""
    panels = sorted({lab.panel for lab in LABS})
    eagerness = rng.random((stays, len(panels)))
    missing = np.array([lab.missing for lab in LABS])
    return eagerness[:, [panels.index(lab.panel) for lab in LABS]] >= missing


def _risk_values(patients: Patients, stays: Stays, index: Whole) -> dict[str, NDArray]:
    """Values of the risk model's terms; a test that is not ordered has its term's centre."""
    values = {"age_years": patients.age_years, "metastatic_cancer": stays.metastatic[index]}
    for name in ("weight_loss", "heart_failure"):
        values[name] = patients.conditions[:, CONDITION_NAMES.index(name)]
    for name, itemid in (("albumin", 50862), ("log_lactate_dehydrogenase", 50954)):
        column = ITEMIDS.index(itemid)
        ordered, level = stays.ordered[index, column], stays.labs[index, column]
        values[name] = np.where(ordered, level, TERMS[name].centre)
    return values


def _draw_late_deaths(rng: Generator, stays: Stays, death: Whole, left: Whole) -> Whole:
    """Add deaths beyond the first year: in a later admission, or in the year after the last one."""
    death = death.copy()
    beyond = (left // DAY + HORIZON_DAYS + 1) * DAY
    fatal = rng.random(len(stays)) < 0.06
    fatal &= (stays.discharged > beyond[stays.patient]) & (death[stays.patient] == NEVER)
    for stay in np.flatnonzero(fatal)[::-1]:  # backwards: the earliest is the one that counts
        death[stays.patient[stay]] = stays.discharged[stay]

    last = np.zeros(len(death), dtype=np.int64)
    np.maximum.at(last, stays.patient, stays.discharged)
    after = last + rng.integers(1, HORIZON_DAYS, len(death)) * DAY
    dies = (rng.random(len(death)) < 0.12) & (death == NEVER) & (after > beyond)
    return np.where(dies, after, death)


def _cut(stays: Stays, death: Whole) -> Stays:
    before = stays.admitted < death[stays.patient]
    kept = Stays(**{f.name: getattr(stays, f.name)[before] for f in fields(stays)})
    died = kept.discharged >= death[kept.patient]
    discharged = np.minimum(kept.discharged, death[kept.patient])
    return replace(kept, died=died, discharged=discharged)
