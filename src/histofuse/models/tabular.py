"""Tabular models as bundles hold them: encoded rows -> logits, whatever is behind."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64
from safetensors.numpy import load_file, save_file

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import WEIGHTS, Bundle
from histofuse.core.errors import BundleError, InputError

if TYPE_CHECKING:
    import xgboost

    from histofuse.models.mlp import Mlp
    from histofuse.models.trees import BoostedTrees

Kind = Literal["logistic_regression", "gradient_boosting", "mlp", "xgboost"]
Rows = pd.DataFrame | np.ndarray

BOOSTER = "model.ubj"
FEATURE_ORDER = "feature_order.json"
ENCODER = "encoder.json"


def name_table(kind: Kind) -> Literal["imputed", "with_missing"]:
    """Name the encoded table a kind of model reads: XGBoost handles missing values itself."""
    return "with_missing" if kind == "xgboost" else "imputed"


def select_features(rows: Rows, features: list[str]) -> Float32[np.ndarray, "n features"]:
    """Pick a model's features, in its order, from a data frame or an array of just as many columns.

    Raises InputError with every feature that is missing, or a wrong number of columns.
    """
    if isinstance(rows, pd.DataFrame):
        if missing := [f for f in features if f not in rows.columns]:
            raise InputError.of(
                "encoded rows", f"no columns {missing}", "the features of the model"
            )
        return rows[features].to_numpy(dtype=np.float32, copy=True)
    if rows.ndim != 2 or rows.shape[1] != len(features):
        raise InputError.of("encoded rows", f"shape {rows.shape}", f"(n, {len(features)})")
    return rows.astype(np.float32)


@dataclass(frozen=True)
class LinearModel:
    """Logistic regression."""

    features: list[str]
    coefficients: Float64[np.ndarray, " features"]
    intercept: float

    def logits(self, rows: Rows) -> Float64[np.ndarray, " n"]:
        """Compute the log-odds of the positive class, not calibrated."""
        x = select_features(rows, self.features).astype(np.float64)
        return x @ self.coefficients + self.intercept


@dataclass(frozen=True)
class TreesModel:
    """Gradient boosting."""

    features: list[str]
    trees: "BoostedTrees"

    def logits(self, rows: Rows) -> Float64[np.ndarray, " n"]:
        """Compute the log-odds of the positive class, not calibrated."""
        return self.trees.predict_logits(select_features(rows, self.features))


@dataclass(frozen=True)
class XgboostModel:
    """XGBoost; rows may hold NaN."""

    features: list[str]
    booster: "xgboost.Booster"

    def logits(self, rows: Rows) -> Float32[np.ndarray, " n"]:
        """Compute the log-odds of the positive class, not calibrated."""
        from histofuse.models.trees import make_matrix

        x = select_features(rows, self.features)
        return self.booster.predict(make_matrix(x), output_margin=True)


@dataclass(frozen=True)
class MlpModel:
    """Multilayer perceptron at inference."""

    features: list[str]
    network: "Mlp"

    def logits(self, rows: Rows) -> Float32[np.ndarray, " n"]:
        """Compute the log-odds of the positive class, not calibrated."""
        from histofuse.models.mlp import compute_logits

        return compute_logits(self.network, select_features(rows, self.features))

    def embed(self, rows: Rows) -> Float32[np.ndarray, "n embedding"]:
        """Compute the activations before the output layer."""
        from histofuse.models.mlp import compute_embeddings

        return compute_embeddings(self.network, select_features(rows, self.features))


AnyTabularModel = LinearModel | TreesModel | XgboostModel | MlpModel


def load_tabular_model(bundle: Bundle) -> AnyTabularModel:
    """Load the model of a bundle."""
    config = bundle.require_kind("tabular")
    features, weights = load_json(bundle.path / FEATURE_ORDER), bundle.path / WEIGHTS
    match config["architecture"]["kind"]:
        case "logistic_regression":
            arrays = load_file(weights)
            return LinearModel(features, arrays["coefficients"], arrays["intercept"].item())
        case "gradient_boosting":
            from histofuse.models.trees import load_trees

            return TreesModel(features, load_trees(weights))
        case "xgboost":
            from histofuse.models.trees import load_booster

            return XgboostModel(features, load_booster(bundle.path / BOOSTER))
        case "mlp":
            from histofuse.models.mlp import load_mlp

            return MlpModel(features, load_mlp(weights, config["architecture"]))
        case other:
            raise BundleError(f"{bundle.name}: has the unknown architecture {other!r}")


def write_model(model: AnyTabularModel, folder: Path) -> None:
    """Write a model's weights into a bundle's folder: safetensors, or ubj for XGBoost."""
    match model:
        case LinearModel():
            arrays = {"coefficients": model.coefficients, "intercept": np.array([model.intercept])}
            save_file(arrays, folder / WEIGHTS)
        case TreesModel():
            from histofuse.models.trees import write_trees

            write_trees(model.trees, folder / WEIGHTS)
        case XgboostModel():
            model.booster.save_model(folder / BOOSTER)
        case MlpModel():
            from histofuse.models.mlp import write_mlp

            write_mlp(model.network, folder / WEIGHTS)
