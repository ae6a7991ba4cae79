"""How a model does in subgroups of patients, and where it does worst.

With restricted data no number rests on fewer than `FEWEST_PATIENTS` patients with or without the
target; where that hides one subgroup alone, the next smallest is hidden against subtraction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from histofuse.core.privacy import FEWEST_PATIENTS
from histofuse.evaluation.metrics.bootstrap import ClusterBootstrap, Interval
from histofuse.evaluation.metrics.classification import Events, Scores
from histofuse.evaluation.metrics.weighted import PerWeighting, Weights, rank_rows
from histofuse.evaluation.predictions import name_admissions
from histofuse.params.evaluation import AssessmentParams

# Attribute to its column in the feature table.
ATTRIBUTES: Final = {
    "age_band": "age_years",
    "race": "race_group",
    "insurance": "insurance",
    "sex": "sex",
}
COMPARED: Final = ("auroc", "recall", "false_positive_rate", "excess")
NOT_RECORDED: Final = "not recorded"


@dataclass(frozen=True)
class Rows:
    """Rows to be split into subgroups."""

    probability: Scores  # calibrated, of the class in question
    # whether the model calls the row of the class, at its saved threshold
    flagged: Events
    positive: Events  # whether it is
    patients: Shaped[np.ndarray, " n"]  # patient of each row


@dataclass(frozen=True)
class Subgroup:
    """One subgroup."""

    name: str  # such as ``medicare``
    rows: int | None  # how many; None where withheld
    positives: int | None
    patients: int | None
    # of ``auroc``, ``recall``, ``false_positive_rate``, ``predicted`` (the mean probability),
    # ``observed`` (the share of positives) and ``excess`` (predicted less observed); empty where it
    # is not measured
    intervals: Mapping[str, Interval]
    note: str  # why it is not measured; empty where it is


@dataclass(frozen=True)
class Gap:
    """The largest difference of a metric between two subgroups."""

    high: str  # the subgroup with the higher value
    low: str  # that with the lower
    interval: Interval  # of the difference between these two


@dataclass(frozen=True)
class Attribute:
    """All subgroups by one attribute, and the largest gap of each metric that is compared."""

    subgroups: tuple[Subgroup, ...]
    gaps: Mapping[str, Gap]


def name_subgroups(
    features: pd.DataFrame, admissions: np.ndarray, bands: Sequence[int]
) -> dict[str, np.ndarray]:
    """Name the subgroup of each admission by each attribute; `bands` are ages in years."""
    keys = name_admissions(features["subject_id"].to_numpy(), features["hadm_id"].to_numpy())
    found = {}
    for attribute, column in ATTRIBUTES.items():
        if column not in features:
            found[attribute] = np.full(len(admissions), NOT_RECORDED, dtype=object)
            continue
        values = features[column]
        names = _name_bands(values, bands) if attribute == "age_band" else values
        known = pd.Series(names.to_numpy(dtype=object), index=keys).reindex(admissions)
        found[attribute] = known.where(known.notna(), NOT_RECORDED).to_numpy(dtype=object)
    return found


def _name_bands(age_years: pd.Series, bands: Sequence[int]) -> pd.Series:
    names = [f"below {bands[0]}"]
    names += [f"{a} to {b - 1}" for a, b in pairwise(bands)]
    names.append(f"{bands[-1]} and above")
    edges = [-np.inf, *bands, np.inf]
    return pd.cut(age_years, edges, right=False, labels=names).astype(object)


def measure_subgroups(
    rows: Rows,
    membership: Mapping[str, np.ndarray],
    params: AssessmentParams,
    bootstrap: ClusterBootstrap,
    *,
    restricted: bool,
) -> dict[str, Attribute]:
    """Measure every subgroup of every attribute that is recorded of anybody."""
    return {
        attribute: _measure_attribute(rows, of, params, bootstrap, restricted=restricted)
        for attribute, of in membership.items()
        if (of != NOT_RECORDED).any()
    }


def _measure_attribute(
    rows: Rows,
    of: np.ndarray,
    params: AssessmentParams,
    bootstrap: ClusterBootstrap,
    *,
    restricted: bool,
) -> Attribute:
    names = _order(of)
    patients = {name: len(np.unique(rows.patients[of == name])) for name in names}
    hidden = _find_hidden(rows, of, patients) if restricted else set()
    fewest = params.fewest_in_subgroup
    subgroups, measured = [], {}
    for name in names:
        here = of == name
        counts = (int(here.sum()), int(rows.positive[here].sum()), patients[name])
        if name in hidden:
            note = f"withheld: fewer than {FEWEST_PATIENTS} patients could be identified"
            subgroups.append(Subgroup(name, None, None, None, {}, note))
        elif patients[name] < fewest:
            note = f"too few: fewer than {fewest} patients"
            subgroups.append(Subgroup(name, *counts, {}, note))
        else:
            measured[name] = bootstrap.estimate_weighted(_prepare(rows, here, bootstrap))
            subgroups.append(Subgroup(name, *counts, measured[name], ""))
    return Attribute(tuple(subgroups), _find_gaps(rows, of, measured, bootstrap))


def _order(of: np.ndarray) -> list[str]:
    """Order by name, age bands by age, what is not recorded last."""
    first = {"below": 0}
    return sorted(
        set(of.tolist()), key=lambda n: (n == NOT_RECORDED, first.get(n.split(" ")[0], 1), n)
    )


def _find_hidden(rows: Rows, of: np.ndarray, patients: Mapping[str, int]) -> set[str]:
    """Find the subgroups that would tell of fewer than `FEWEST_PATIENTS` patients."""

    def count_smallest(name: str) -> int:
        sides = ((of == name) & rows.positive, (of == name) & ~rows.positive)
        return min(len(np.unique(rows.patients[side])) for side in sides)

    hidden = {name for name in patients if count_smallest(name) < FEWEST_PATIENTS}
    shown = [name for name in patients if name not in hidden]
    if len(hidden) == 1 and shown:
        hidden.add(min(shown, key=patients.__getitem__))
    return hidden


Weighted = Callable[[Weights], dict[str, PerWeighting]]


def _prepare(rows: Rows, here: Events, bootstrap: ClusterBootstrap) -> Weighted:
    """Make the metrics of one subgroup ready for weightings of all groups."""
    inside = here.astype(np.float64)
    positive, flagged = rows.positive, rows.flagged
    columns = (
        inside,
        inside * positive,
        inside * rows.probability,
        inside * (flagged & positive),
        inside * (flagged & ~positive),
    )
    sums = bootstrap.clusters.add_up(np.column_stack(columns))
    ranking = rank_rows(rows.probability[here], positive[here], bootstrap.clusters.number[here])

    def measure(weights: Weights) -> dict[str, PerWeighting]:
        n, events, probability, hits, alarms = (weights.astype(np.float64) @ sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "auroc": ranking.measure(weights)[0],
                "recall": hits / events,
                "false_positive_rate": alarms / (n - events),
                "predicted": probability / n,
                "observed": events / n,
                "excess": (probability - events) / n,
            }

    return measure


def _find_gaps(
    rows: Rows,
    of: np.ndarray,
    measured: Mapping[str, Mapping[str, Interval]],
    bootstrap: ClusterBootstrap,
) -> dict[str, Gap]:
    """Find the two subgroups that differ most in each metric, and the interval of the gap."""
    gaps = {}
    for metric in COMPARED:
        found = {name: measured[name][metric].value for name in sorted(measured)}
        values = {name: value for name, value in found.items() if value is not None}
        if len(set(values.values())) < 2:
            continue
        high, low = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
        of_high, of_low = (_prepare(rows, of == name, bootstrap) for name in (high, low))
        intervals = bootstrap.estimate_weighted(
            lambda w, m=metric, a=of_high, b=of_low: {m: a(w)[m] - b(w)[m]}
        )
        gaps[metric] = Gap(high, low, intervals[metric])
    return gaps
