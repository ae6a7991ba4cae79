"""Alarm check of linked patients: do tissue and record share more than the outcome?"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int

from histofuse.core.seeding import make_rng
from histofuse.evaluation.alarms.checks import AlarmCheck, AlarmRules, make_check, skip_check
from histofuse.patients.bags import PatientBags
from histofuse.patients.rows import fit_record_encoder, make_rows

_CONCERNS: Final = ("patient",)
_SHUFFLES: Final = 999
_ASSOCIATED: Final = 0.05  # p of shuffles below which tissue and record go together


def check_linkage(bags: PatientBags | None, rules: AlarmRules) -> AlarmCheck:
    """Look for partners that were chosen by the outcome.

    Then tissue and record go together over all patients, and no more than by chance among those of
    one outcome. The classes of nuclei are compared with the encoded record, by ranks; records are
    shuffled among patients of a split, and among those of a split and outcome.
    """
    from scipy.stats import rankdata

    if bags is None:
        return skip_check("linkage", None, _CONCERNS, "linked patients are missing; dvc repro")
    rows, limit = make_rows(bags, fit_record_encoder(bags, rules.encoding)), rules.alarms.linkage_p
    tissue = rankdata(rows.describe_image(["distribution"]), axis=0)
    record = rankdata(rows.record, axis=0)
    split = np.unique(bags.split, return_inverse=True)[1]
    seed = rules.bootstrap.seed
    overall = _shuffle(tissue, record, split, make_rng(seed, "linkage", "overall"))
    within = _shuffle(tissue, record, 2 * split + bags.outcome, make_rng(seed, "linkage", "within"))
    alarm = overall <= _ASSOCIATED and within > limit
    detail = f"tissue and record of {len(bags):,} patients "
    if alarm:
        detail += "share the outcome and nothing else: were partners chosen by it? "
    elif overall <= _ASSOCIATED:
        detail += "share more than the outcome: "
    else:
        detail += "are not shown to go together: "
    detail += f"p = {overall:.3f} against shuffled records, {within:.3f} within outcomes"
    numbers = {"p_overall": overall, "p_within": within, "limit": limit}
    return make_check("linkage", None, _CONCERNS, alarm, detail, numbers, "suspicion")


def _shuffle(
    tissue: Float[np.ndarray, "p _"],
    record: Float[np.ndarray, "p _"],
    stratum: Int[np.ndarray, " p"],
    rng: np.random.Generator,
) -> float:
    """Compute the share of shuffles within strata that are as associated: a permutation p."""
    tissue, record = (_centre(values, stratum) for values in (tissue, record))
    members = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]

    def measure(order: np.ndarray) -> float:
        return float(np.square(tissue.T @ record[order]).sum())

    order = np.arange(len(stratum))
    own, as_high = measure(order), 1
    for _ in range(_SHUFFLES):
        for rows in members:
            order[rows] = rng.permutation(rows)
        as_high += measure(order) >= own
    return as_high / (_SHUFFLES + 1)


def _centre(
    values: Float[np.ndarray, "p _"], stratum: Int[np.ndarray, " p"]
) -> Float[np.ndarray, "p _"]:
    """Take the mean of each stratum away, and divide by the spread that is left."""
    values = values.copy()
    for s in np.unique(stratum):
        values[stratum == s] -= values[stratum == s].mean(axis=0)
    spread = values.std(axis=0)
    return values / np.where(spread > 0, spread, 1.0)
