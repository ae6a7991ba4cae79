"""Patients as methods of fusion take them: nuclei, encoded record, and which sides are given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from histofuse.features.encoding import Encoder, encode, fit_encoder
from histofuse.params.ehr import EncodingParams
from histofuse.patients.aggregators import aggregate
from histofuse.patients.bags import PatientBags

Side = Literal["image", "record"]
View = Literal["both", "image", "record"]  # the sides that are given
VIEWS: Final[tuple[View, ...]] = ("both", "image", "record")
_GIVEN: Final = {"both": (True, True), "image": (True, False), "record": (False, True)}


@dataclass(frozen=True)
class PatientRows:
    """Patients, one row each."""

    embeddings: Float32[np.ndarray, "n d"]  # of all nuclei, patient after patient
    logits: Float32[np.ndarray, "n k"]  # of the same nuclei
    sizes: Int64[np.ndarray, " p"]  # nuclei of each patient
    record: Float32[np.ndarray, "p r"]  # encoded, missing values filled in, with indicators
    record_with_missing: Float32[np.ndarray, "p r"]  # likewise, but NaN where missing
    outcome: Int64[np.ndarray, " p"]  # 0 or 1; meaningless where it is to be predicted
    given: Bool[np.ndarray, "p 2"]  # whether image and record are given

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, patients: Int64[np.ndarray, " m"]) -> "PatientRows":
        """Take patients by number, in the order given."""
        bags = np.split(np.arange(len(self.embeddings)), np.cumsum(self.sizes)[:-1])
        of_nuclei = np.concatenate([np.empty(0, dtype=np.int64), *(bags[i] for i in patients)])
        return PatientRows(
            self.embeddings[of_nuclei],
            self.logits[of_nuclei],
            *(
                getattr(self, name)[patients]
                for name in ("sizes", "record", "record_with_missing", "outcome", "given")
            ),
        )

    def show(self, view: View) -> "PatientRows":
        """Give only the sides of a view."""
        given = np.tile(np.array(_GIVEN[view]), (len(self), 1))
        return replace(self, given=given)

    def match(self, view: str) -> Bool[np.ndarray, " p"]:
        """Tell which patients have exactly the sides of a view."""
        return (self.given == np.array(_GIVEN[view])).all(axis=1)

    def describe_image(self, aggregators: Sequence[str]) -> Float32[np.ndarray, "p width"]:
        """Aggregate each patient's nuclei; see `aggregators.aggregate`."""
        return aggregate(self.embeddings, self.logits, self.sizes, aggregators)


def fit_record_encoder(bags: PatientBags, params: EncodingParams) -> Encoder:
    """Learn the encoding of records from the train patients."""
    return fit_encoder(bags.records[bags.split == "train"], bags.specs, params)


def make_rows(bags: PatientBags, encoder: Encoder) -> PatientRows:
    """Bring patients into the form that methods take; both sides are given."""
    order = np.argsort(bags.bag_of, kind="stable")
    return PatientRows(
        embeddings=bags.embeddings[order],
        logits=bags.logits[order].astype(np.float32),
        sizes=bags.count_nuclei(),
        record=encode(encoder, bags.records).to_numpy(),
        record_with_missing=encode(encoder, bags.records, impute=False).to_numpy(),
        outcome=bags.outcome,
        given=np.ones((len(bags), 2), dtype=bool),
    )


def select_split(rows: PatientRows, split: Shaped[np.ndarray, " p"], name: str) -> PatientRows:
    """Take the patients of one split."""
    return rows.take(np.flatnonzero(split == name))
