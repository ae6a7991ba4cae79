"""``labevents`` of the simulated hospital: when blood is drawn, what it shows, how it prints."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.data.mimic_tables import TABLES
from histofuse.data.simulate.mimiciv.catalogue import LABS, TEXT_LABS, Lab
from histofuse.data.simulate.mimiciv.cells import Clock, draw_providers, null_if_empty
from histofuse.data.simulate.mimiciv.patients import DAY, Fates, Patients, Stays

OUTPATIENT_DRAWS: Final = 1.3  # a patient, mean
MOST_DRAWS: Final = 3
# An admission's first draw has every test ordered at it; each later draw a panel with this chance.
PANEL_LATER: Final = {
    "blood_count": 0.85,
    "chemistry": 0.88,
    "minerals": 0.65,
    "liver": 0.5,
    "coagulation": 0.25,
}


@dataclass(frozen=True)
class _Draws:
    """Blood draws: patient, stay that sets the levels, minute, and whether the stay is recorded."""

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
    noted, first = np.zeros((2, len(stay_all)), dtype=bool)
    noted[: len(stay)] = rng.random(len(stay)) < 0.96
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


def record_labs(
    rng: Generator,
    patients: Patients,
    stays: Stays,
    fates: Fates,
    *,
    hadm_id: NDArray,
    clock: Clock,
) -> pl.DataFrame:
    """Draw every result of every patient; outpatient ones have no ``hadm_id``."""
    draws = _draw_draws(rng, stays, fates)
    drawn = _draw_panels(rng, patients, draws)
    parts = []
    for column, lab in enumerate(LABS):
        which = np.flatnonzero(drawn[lab.panel] & stays.ordered[draws.stay, column])
        parts.append(_measure(rng, lab, which, stays.labs[draws.stay[which], column]))
    for text in TEXT_LABS:
        which = np.flatnonzero(drawn["urine" if text.fluid == "Urine" else "text"])
        comments = np.array(text.comments)[rng.integers(0, len(text.comments), len(which))]
        columns = {"draw": which, "comments": pl.Series(comments), "itemid": text.itemid}
        parts.append(pl.DataFrame(columns))
    results = pl.concat(parts, how="diagonal_relaxed")

    n = len(draws.minute)
    specimen_id = rng.choice(90_000_000, n, replace=False) + 1_000_000
    stored = draws.minute + rng.integers(35, 150, n)
    unnamed = draws.first | (rng.random(n) < 0.9)
    provider = np.where(unnamed, "", draw_providers(rng, n))
    priority = np.array(["STAT", "ROUTINE", ""])[rng.choice(3, n, p=[0.5, 0.42, 0.08])]
    specimen = pl.DataFrame(
        {
            "draw": np.arange(n),
            "subject_id": patients.subject_id[draws.patient],
            "hadm_id": hadm_id[draws.stay],
            "noted": draws.noted,
            "specimen_id": specimen_id,
            "charttime": clock.shift(draws.minute, draws.patient),
            "storetime": clock.shift(stored, draws.patient),
            "order_provider_id": provider,
            "priority": priority,
        }
    )
    empty = (null_if_empty(name) for name in ("order_provider_id", "priority"))
    specimen = specimen.with_columns(*empty, hadm_id=pl.when("noted").then("hadm_id"))
    joined = results.join(specimen, on="draw", how="left", maintain_order="left")
    joined = joined.sort("subject_id", "charttime", "draw", "itemid")
    return joined.with_columns(labevent_id=pl.int_range(1, pl.len() + 1))


def _draw_panels(rng: Generator, patients: Patients, draws: _Draws) -> dict[str, NDArray]:
    n = len(draws.minute)
    drawn = {panel: draws.first | (rng.random(n) < p) for panel, p in PANEL_LATER.items()}
    known = patients.breast_cancer[draws.patient]
    drawn["marker"] = rng.random(n) < np.where(known, 0.06, 0.002)
    drawn["text"] = rng.random(n) < 0.7
    drawn["urine"] = rng.random(n) < np.where(draws.first, 0.45, 0.2)
    return drawn


def _measure(rng: Generator, lab: Lab, which: NDArray, levels: NDArray) -> pl.DataFrame:
    """Draw the results of a test, of some draws and their levels, with the release's quirks."""
    n = len(which)
    level = levels + rng.normal(0, lab.noise, n)
    value = np.exp(level) if lab.skewed else level
    value = np.maximum(value, 10.0**-lab.decimals)
    unit, decimals = np.full(n, lab.unit, dtype=object), np.full(n, lab.decimals)
    low, high = np.full(n, lab.low), np.full(n, lab.high)

    if lab.other_unit:
        other = rng.random(n) < 0.003
        factor = lab.other_factor
        value, unit[other] = np.where(other, value * factor, value), lab.other_unit
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
    whole = pl.col("valuenum").cast(pl.Int64).cast(pl.String)
    printed = pl.when(pl.col("decimals") == 0).then(whole)
    printed = printed.otherwise(pl.col("valuenum").cast(pl.String))
    below = pl.lit(lab.itemid == 50885) & (pl.col("valuenum") < 0.2)
    absent = pl.col("lost") | below
    value, low, high = map(pl.col, ("valuenum", "ref_range_lower", "ref_range_upper"))
    outside = (value < low) | (value > high)
    comment = pl.when(below).then(pl.lit("<0.2.")).when("lost").then(pl.lit("UNABLE TO REPORT."))
    comment = comment.when("hidden").then(pl.lit("New reference range as of ___."))
    return table.select(
        "draw",
        value=pl.when(absent).then(None).when("hidden").then(pl.lit("___")).otherwise(printed),
        valuenum=pl.when(~absent).then(_print_number("valuenum")),
        valueuom=pl.when("unstated").then(pl.lit(" ")).otherwise(null_if_empty("valueuom")),
        ref_range_lower=_print_number("ref_range_lower"),
        ref_range_upper=_print_number("ref_range_upper"),
        flag=pl.when(outside & ~absent).then(pl.lit("abnormal")),
        comments=comment,
        itemid=pl.lit(lab.itemid),
    )


def _print_number(name: str) -> pl.Expr:
    """Print whole numbers without a decimal point, as the release does."""
    return pl.col(name).cast(pl.String).str.strip_suffix(".0")


def list_labs() -> pl.DataFrame:
    """List ``d_labitems``."""
    rows = [(lab.itemid, lab.label, "Blood", lab.category) for lab in LABS]
    rows += [(lab.itemid, lab.label, lab.fluid, lab.category) for lab in TEXT_LABS]
    table = pl.DataFrame(rows, schema=list(TABLES["d_labitems"].columns), orient="row")
    return table.sort("itemid")
