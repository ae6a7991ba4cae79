"""How the log-odds of a patient change without each nucleus.

Unlike attention this can be asked of every method.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from histofuse.patients.fusion.interface import PatientModel
from histofuse.patients.rows import PatientRows

NUCLEI_AT_ONCE: Final = 2**16  # in memory, over the copies of a patient


def measure_nuclei(model: PatientModel, patient: PatientRows) -> Float64[np.ndarray, " n"]:
    """Measure what each nucleus of one patient adds to the log-odds: with it, less without it.

    Without its only nucleus a patient has no image. Of a bag larger than the model reads, an even
    sample stands for all, else each nucleus left out would change the model's own sample; the
    others are NaN.
    """
    n = len(patient.embeddings)
    changes = np.full(n, np.nan)
    if not n:
        return changes
    most = n if model.most_nuclei is None else min(n, model.most_nuclei)
    read = np.arange(most) * n // most
    patient = _repeat(patient, read[None])
    whole = model.logits(patient)
    for part in np.array_split(np.arange(most), -(-most * most // NUCLEI_AT_ONCE)):
        others = np.stack([np.delete(np.arange(most), nucleus) for nucleus in part])
        changes[read[part]] = whole - model.logits(_repeat(patient, others))
    return changes


def _repeat(patient: PatientRows, bags: Int64[np.ndarray, "m size"]) -> PatientRows:
    """Repeat a patient, each time with other ones of the nuclei."""
    count, size = bags.shape
    bare = replace(patient, embeddings=patient.embeddings[:0], logits=patient.logits[:0])
    rows = replace(bare, sizes=np.zeros(1, dtype=np.int64)).take(np.zeros(count, dtype=np.int64))
    return replace(
        rows,
        embeddings=patient.embeddings[bags.ravel()],
        logits=patient.logits[bags.ravel()],
        sizes=np.full(count, size),
        given=rows.given & np.array([size > 0, True]),
    )
