"""SHAP values of tabular models: how much each feature raised or lowered a patient's logit.

TreeSHAP for XGBoost (exact), linear SHAP for logistic regression (exact for independent features),
DeepSHAP for the network (an approximation, additive like the others). All are in log-odds of the
uncalibrated model.

Source: paper 3.2 and 4.4 (TreeSHAP for XGBoost, SHAP summaries for the MLP, Figure 5).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.errors import InputError
from histofuse.models import tabular
from histofuse.models.tabular import AnyTabularModel, Kind, MlpModel, select_features

EXPLAINED_KINDS: Final[tuple[Kind, ...]] = ("logistic_regression", "mlp", "xgboost")


@dataclass(frozen=True)
class Attributions:
    """SHAP values of rows: log-odds that each feature adds to `base`, and the model's logits."""

    values: Float[np.ndarray, "n features"]
    base: float
    logits: Float[np.ndarray, " n"]
    explainer: str

    @property
    def additivity_error(self) -> float:
        """Largest difference between a logit and the sum of base and features."""
        return float(np.abs(self.values.sum(axis=1) + self.base - self.logits).max(initial=0.0))


def compute_attributions(
    model: AnyTabularModel, rows: pd.DataFrame, background: pd.DataFrame
) -> Attributions:
    """Compute SHAP values of rows.

    An unknown feature is averaged over `background`, encoded training rows. XGBoost does not need
    them: its trees store how many training rows took each branch. Raises InputError if the model is
    not of one of `EXPLAINED_KINDS`.
    """
    x, reference = (select_features(part, model.features) for part in (rows, background))
    logits = model.logits(rows).astype(np.float64)
    match model:
        case tabular.XgboostModel():
            from histofuse.models.trees import make_matrix

            contributions = model.booster.predict(make_matrix(x), pred_contribs=True)
            values, base = contributions[:, :-1], float(contributions[0, -1])
            name = "TreeSHAP, path-dependent"
        case tabular.LinearModel():
            values = (x.astype(np.float64) - reference.mean(axis=0)) * model.coefficients
            base, name = float(model.logits(reference).mean()), "linear SHAP"
        case MlpModel():
            values = _explain_network(model, x, reference)
            base, name = float(model.logits(reference).astype(np.float64).mean()), "DeepSHAP"
        case tabular.TreesModel():
            raise InputError.of(
                "explain", "gradient boosting", f"one of {', '.join(EXPLAINED_KINDS)}"
            )
    return Attributions(values.astype(np.float64), base, logits, name)


def _explain_network(
    model: MlpModel, x: Float[np.ndarray, "n features"], reference: Float[np.ndarray, "m features"]
) -> Float[np.ndarray, "n features"]:
    import shap
    import torch

    from histofuse.models.mlp import one_thread

    # SHAP adds hooks to the layers, so it gets a copy, with gradients.
    network = model.network.copy_trainable()
    with one_thread():
        explainer = shap.DeepExplainer(network, torch.from_numpy(reference))
        shap_values = explainer.shap_values(torch.from_numpy(x), check_additivity=False)
    values = np.asarray(shap_values).reshape(*x.shape, -1)
    return values[..., 0] if values.shape[-1] == 1 else values[..., 1] - values[..., 0]
