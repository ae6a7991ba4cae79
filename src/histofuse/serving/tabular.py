"""Predictions from health records."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from histofuse.core.artifacts import load_json
from histofuse.core.errors import BundleError
from histofuse.features.encoding import Encoder, encode_checked, find_beyond, find_unknown
from histofuse.serving.networks import compute_in_blocks
from histofuse.serving.predictor import Predictor
from histofuse.serving.records import (
    find_recorded,
    join_warnings,
    make_unknown,
    read_records,
    write_warnings,
)
from histofuse.tracking.interface import WARNINGS

if TYPE_CHECKING:
    from histofuse.models.tabular import AnyTabularModel


@dataclass(frozen=True)
class RecordPredictor(Predictor):
    """What predictors share that read records with an encoder of their own."""

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of raw features."""
        from histofuse.models.tabular import ENCODER

        return Encoder.from_dict(load_json(self.bundle.path / ENCODER))

    def warn(self, records: pd.DataFrame) -> pd.Series:
        """Say for each row of what `read` returned which of it the model does not know."""
        unknown, beyond = (find(self.encoder, records) for find in (find_unknown, find_beyond))
        unknown = write_warnings(records, unknown, "is unknown to the model")
        beyond = write_warnings(records, beyond, "is beyond what the model was trained on")
        warnings = join_warnings(unknown, beyond)
        return warnings.where(find_recorded(records), "nothing of the record is known")


@dataclass(frozen=True)
class TabularPredictor(RecordPredictor):
    """Health records -> the target."""

    @cached_property
    def model(self) -> "AnyTabularModel":
        """The fitted model."""
        from histofuse.models.tabular import load_tabular_model

        return load_tabular_model(self.bundle)

    def load(self) -> None:
        """Load all that an answer needs and warm up: a first answer is slower than the others."""
        self.predict(make_unknown(self.encoder.inputs))

    def read(self, inputs: Any) -> pd.DataFrame:
        """Check raw features."""
        return read_records(inputs, self.encoder)

    def merge(self, parts: list[pd.DataFrame]) -> pd.DataFrame:
        """Merge what `read` returned for several inputs."""
        return pd.concat(parts)

    def answer(self, records: pd.DataFrame, *, shap: bool = False) -> pd.DataFrame:
        """Predict what `read` returned."""
        encoded = self.encode(records)
        logits = compute_in_blocks(self.model.logits, self._select(encoded)).astype(np.float64)
        columns = np.column_stack([np.zeros(len(logits)), logits])
        table = self.tabulate(columns, records.index).assign(**{WARNINGS: self.warn(records)})
        if not shap:
            return table
        from histofuse.explain.fusion.explainers import encode_typical, explain_record
        from histofuse.serving.explanations import tabulate_contributions

        shown = explain_record(self.model, encoded, encode_typical(self.encoder))
        return table.assign(**tabulate_contributions(shown, self.model.features, self.encoder))

    def encode(self, records: pd.DataFrame) -> pd.DataFrame:
        """Encode what `read` returned."""
        from histofuse.models.tabular import name_table

        kind = self.bundle.config["architecture"]["kind"]
        return encode_checked(self.encoder, records, impute=name_table(kind) == "imputed")

    def embed_encoded(self, encoded: pd.DataFrame) -> Float32[np.ndarray, "n width"]:
        """Compute embeddings of what `encode` returned.

        Raises BundleError if the model is not a multilayer perceptron: others have none.
        """
        from histofuse.models.tabular import MlpModel

        if not isinstance(self.model, MlpModel):
            raise BundleError(f"{self.bundle.name}: has no embedding, expected a model of kind mlp")
        return compute_in_blocks(self.model.embed, self._select(encoded))

    def _select(self, encoded: pd.DataFrame) -> Float32[np.ndarray, "n features"]:
        from histofuse.models.tabular import select_features

        return select_features(encoded, self.model.features)
