"""Image alone, record alone and both on linked patients, next to what is achievable.

Negative controls are records of other patients, and an outcome to which tissue adds nothing (null).
What is achievable, and the null, are known of simulated patients alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from histofuse.core.bundle import PREDICTIONS
from histofuse.core.ids import SPLITS
from histofuse.core.seeding import make_rng
from histofuse.core.tables import read_table
from histofuse.data.simulate.linked.achievable import SIDES, compute_best
from histofuse.data.simulate.linked.cohort import LinkedCohort
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval
from histofuse.evaluation.metrics.weighted import Clusters, rank_rows
from histofuse.params.ehr import EncodingParams
from histofuse.params.patients import AnyPatientParams
from histofuse.params.simulation import LinkedSimulationParams
from histofuse.patients.bags import PatientBags
from histofuse.patients.fusion.methods import fit_method
from histofuse.patients.rows import fit_record_encoder, make_rows, select_split
from histofuse.patients.train import PATIENT_PREDICTIONS
from histofuse.training.recorder import Recorder

GAINS: Final = ("gain", "achievable_gain", "share", "gain_by_chance")
_LEAST_ACHIEVABLE: Final = 0.03  # of a smaller gain no share is computed

Scores = Float[np.ndarray, " n"]  # of test patients; only their order counts


@dataclass(frozen=True)
class LinkedScores:
    """What is said of the outcome of the same test patients."""

    outcome: Int[np.ndarray, " n"]  # 0 or 1
    models: Mapping[str, Scores]  # by the model of each of `SIDES`
    # likewise, by the model that drew the patients; empty of patients that are not simulated
    best: Mapping[str, Scores]
    # by the model of both, fitted on records of other patients, for each shuffle
    by_chance: tuple[Scores, ...] = ()


@dataclass(frozen=True)
class ControlMethods:
    """The methods compared: params by side, of the record's encoding, and the seed."""

    sides: Mapping[str, AnyPatientParams]
    encoding: EncodingParams
    seed: int

    def fit(self, bags: PatientBags, side: str) -> Scores:
        """Fit the method of a side; score the test patients by what that side shows."""
        rows = make_rows(bags, fit_record_encoder(bags, self.encoding))
        train, validation, test = (select_split(rows, bags.split, s) for s in SPLITS)
        params = self.sides[side]
        fitted = fit_method(train, validation, params, self.seed, Recorder())
        return fitted.model.logits(test.show(side))  # pyright: ignore[reportArgumentType]


def score_cohort(
    bags: PatientBags, cohort: LinkedCohort, params: LinkedSimulationParams, methods: ControlMethods
) -> LinkedScores:
    """Fit all methods on a cohort, in the order of the bags, and score its test patients."""
    bags = replace(bags, outcome=cohort.outcome)
    return LinkedScores(
        outcome=cohort.outcome[bags.split == "test"],
        models={side: methods.fit(bags, side) for side in SIDES},
        best=select_best(bags, cohort, params),
    )


def read_scores(bundle: Path, side: str, bags: PatientBags) -> Scores:
    """Read what a model's bundle says of the test patients when it sees a side, or both."""
    table = read_table(bundle / PREDICTIONS, PATIENT_PREDICTIONS).set_index("patient_id")
    column = "logit" if side == "both" else f"logit_{side}"
    return table.loc[list(bags.patient_ids[bags.split == "test"]), column].to_numpy()


def select_best(
    bags: PatientBags, cohort: LinkedCohort, params: LinkedSimulationParams
) -> dict[str, Scores]:
    """Compute the best probabilities of the test patients."""
    test = bags.split == "test"
    return {side: best[test] for side, best in compute_best(cohort, params).items()}


def score_by_chance(
    bags: PatientBags, methods: ControlMethods, shuffles: int
) -> tuple[Scores, ...]:
    """Give the patients of each split each other's records, fit fusion and score them."""
    scores = []
    for shuffle in range(shuffles):
        rng = make_rng(methods.seed, "positive_control", "shuffle", shuffle)
        order = np.arange(len(bags))
        for split in np.unique(bags.split):
            rows = np.flatnonzero(bags.split == split)
            order[rows] = rng.permutation(rows)
        records = bags.records.iloc[order].reset_index(drop=True)
        scores.append(methods.fit(replace(bags, records=records), "both"))
    return tuple(scores)


def measure_gain(scores: LinkedScores, bootstrap: Bootstrap) -> dict[str, Interval]:
    """Compute AUROCs of models and of what is achievable, and `GAINS`, over patients."""
    names = {f"model/{side}": scores.models[side] for side in SIDES}
    names |= {f"best/{side}": of for side, of in scores.best.items()}
    names |= {f"chance/{n}": of for n, of in enumerate(scores.by_chance)}
    patients = np.arange(len(scores.outcome))
    rankings = {name: rank_rows(of, scores.outcome, patients) for name, of in names.items()}
    shown = [*(name for name in names if not name.startswith("chance/")), "model/by_chance", *GAINS]

    def measure(weights: Int[np.ndarray, "w g"]) -> Float[np.ndarray, "w m"]:
        weights = np.ascontiguousarray(weights, dtype=np.int32)
        auroc = {name: ranking.measure(weights)[0] for name, ranking in rankings.items()}
        return np.column_stack(_add_gains(auroc, shown))

    clusters = Clusters(patients, len(patients), "patients")
    resampled = bootstrap.resample(measure, shown, clusters)
    return {
        name: resampled.interval(name, "percentile" if name in GAINS else None) for name in shown
    }


def _add_gains(
    auroc: Mapping[str, Float[np.ndarray, " w"]], shown: list[str]
) -> list[Float[np.ndarray, " w"]]:
    better = np.maximum(auroc["model/image"], auroc["model/record"])
    gain = auroc["model/both"] - better
    achievable = auroc.get("best/both", np.full_like(gain, np.nan)) - better
    by_chance = [values for name, values in auroc.items() if name.startswith("chance/")]
    chance = np.mean(by_chance, axis=0) if by_chance else np.full_like(gain, np.nan)
    added = {
        "model/by_chance": chance,
        "gain": gain,
        "achievable_gain": achievable,
        "share": gain / np.where(achievable > _LEAST_ACHIEVABLE, achievable, np.nan),
        "gain_by_chance": chance - auroc["model/image"],
    }
    return [(dict(auroc) | added)[name] for name in shown]
