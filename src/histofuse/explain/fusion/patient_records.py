"""What each feature of the record adds to the log-odds of a patient, with the nuclei as they are.

Shapley values of any method of fusion, against the typical patient; a feature and the other columns
that are encoded from it are present together. They are exact where log-odds are a sum over the
features, as in logistic regression; else the features' orders are sampled. They always add up.

Source: Strumbelj and Kononenko 2010, An Efficient Explanation of Individual Classifications Using
Game Theory; each order is also taken backwards (Mitchell et al. 2022, Sampling Permutations for
Shapley Value Estimation).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from histofuse.patients.fusion.interface import PatientModel
from histofuse.patients.influence import NUCLEI_AT_ONCE
from histofuse.patients.rows import PatientRows

_ORDERS: Final = 12  # each also backwards


def explain_patient_record(
    model: PatientModel, patient: PatientRows, typical: pd.DataFrame, sources: Mapping[str, str]
) -> tuple[dict[str, float], float]:
    """Explain the log-odds of one patient: what each feature adds, and the typical patient's.

    `typical` is that of `encode_typical`, `sources` names the feature behind each of its columns.
    The sides that are given stay given: records are compared, not answers with and without one.
    """
    column_of, features = pd.factorize(typical.columns.map(sources))
    count = len(features)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(count), (_ORDERS, 1)), axis=1)
    places = np.concatenate([orders, count - 1 - orders])  # of each feature in each order
    own = places[:, None] < np.arange(count + 1)[:, None]  # (orders, steps, features)
    mixed = own.reshape(-1, count)[:, column_of]
    logits = _answer_mixed(model, patient, typical.to_numpy(), mixed)
    logits = logits.reshape(len(places), count + 1)
    shares = np.take_along_axis(np.diff(logits, axis=1), places, axis=1).mean(axis=0)
    rounded = shares.round(6) + 0.0  # no zero has a sign
    return dict(zip(map(str, features), rounded.tolist(), strict=True)), float(logits[0, 0])


def _answer_mixed(
    model: PatientModel,
    patient: PatientRows,
    typical: np.ndarray,
    own: Bool[np.ndarray, "m columns"],
) -> Float64[np.ndarray, " m"]:
    """Compute log-odds with some columns of the record the patient's own, the others typical."""
    parts = -(-len(own) * max(1, len(patient.embeddings)) // NUCLEI_AT_ONCE)
    logits = []
    for kept in np.array_split(own, min(parts, len(own))):
        rows = patient.take(np.zeros(len(kept), dtype=np.int64))
        records = {
            name: np.where(kept, getattr(rows, name), typical)
            for name in ("record", "record_with_missing")
        }
        logits.append(model.logits(replace(rows, **records)))
    return np.concatenate(logits)
