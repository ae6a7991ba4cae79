"""Explanations of single answers: a patient compared with a typical patient.

A served model must not have the training rows to average over: they are patients. It explains the
difference from the *typical patient*, with the medians and modes that replace missing values.
DeepSHAP with one reference row is DeepLIFT by the rescale rule, which takes a whole batch at once
and is additive: base and values add up to the logit.

Source: Shrikumar et al., ICML 2017 (rescale rule); Lundberg and Lee, NeurIPS 2017 (DeepSHAP).
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from histofuse.explain.shap_values.attributions import compute_attributions
from histofuse.features.encoding import Encoder, encode
from histofuse.models.fusion import FusionHead
from histofuse.models.mlp import Mlp
from histofuse.models.tabular import AnyTabularModel, MlpModel, select_features


@dataclass(frozen=True)
class Contributions:
    """Contribution of each column of encoded rows to a logit; `base` is the typical patient's."""

    values: Float[np.ndarray, "n features"]
    base: Float[np.ndarray, " n"]


def encode_typical(encoder: Encoder) -> pd.DataFrame:
    """Encode the patient with the medians and modes of training, nothing missing; one row."""
    unknown = pd.DataFrame({name: [None] for name in encoder.inputs}, dtype=object)
    numbers = [name for name, kind in encoder.inputs.items() if kind != "categorical"]
    encoded = encode(encoder, unknown.astype(dict.fromkeys(numbers, "float64")))
    encoded[[indicator.column for indicator in encoder.indicators]] = np.float32(0)
    return encoded


def name_sources(encoder: Encoder) -> dict[str, str]:
    """Name the raw feature behind each encoded column; an indicator of absence is its own."""
    names = {column: feature.name for feature in encoder.features for column in feature.columns}
    return names | {indicator.column: indicator.column for indicator in encoder.indicators}


def explain_record(
    model: AnyTabularModel, rows: pd.DataFrame, typical: pd.DataFrame
) -> Contributions:
    """Explain the log-odds of the positive class; some kinds have no SHAP values."""
    if isinstance(model, MlpModel):
        x, reference = (to_tensor(model.features, part) for part in (rows, typical))
        return explain_network(_LogOdds(model.network), x, reference, ())
    attributions = compute_attributions(model, rows, typical)
    return Contributions(attributions.values, np.full(len(rows), attributions.base))


def explain_fused_record(
    networks: "FusionNetworks",
    rows: pd.DataFrame,
    typical: pd.DataFrame,
    image_embeddings: Float32[np.ndarray, "n image"],
    target_classes: Int[np.ndarray, " n"],
) -> Contributions:
    """Explain what the record adds to the fused logit of a class, with a fixed patch."""
    x, reference = (to_tensor(networks.patient.features, part) for part in (rows, typical))
    network, image = WeightedLogits(networks), torch.from_numpy(image_embeddings)
    n_classes = network.compute_logits(reference, image[:1]).shape[1]
    weights = one_hot(torch.from_numpy(target_classes), n_classes).float()
    return explain_network(network, x, reference, (image, weights))


@dataclass(frozen=True)
class FusionNetworks:
    """The networks behind a fused logit, after the image embedding."""

    patient: MlpModel
    head: FusionHead


class WeightedLogits(nn.Module):
    """Encoded rows -> weighted sum of the fused logits, with fixed patches."""

    def __init__(self, networks: FusionNetworks) -> None:
        super().__init__()
        self.patient, self.head = networks.patient.network, networks.head

    def compute_logits(self, rows: Tensor, image_embeddings: Tensor) -> Tensor:
        """Compute the fused logits."""
        return self.head(image_embeddings, self.patient.embed(rows))

    def forward(self, rows: Tensor, image_embeddings: Tensor, weights: Tensor) -> Tensor:
        """Sum the fused logits, each row with its own weights."""
        return (self.compute_logits(rows, image_embeddings) * weights).sum(dim=1)


class _LogOdds(nn.Module):
    def __init__(self, network: Mlp) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        return self.network.compute_logit(rows)


_ROWS_AT_ONCE: Final = 1024


def explain_network(
    network: nn.Module,
    x: Float[Tensor, "n features"],
    reference: Float[Tensor, "1 features"],
    others: tuple[Tensor, ...],
) -> Contributions:
    """Explain the only output of a network against one reference row, by DeepLIFT.

    `others` are further inputs of the network, one row for each row of `x`; they are held fixed.
    """
    from captum.attr import DeepLift

    # The explainer adds hooks to the layers, so it gets a copy.
    own = copy.deepcopy(network).eval().requires_grad_(True)
    values, base = [], []
    for part in torch.arange(len(x)).split(_ROWS_AT_ONCE):
        rows, fixed = x[part], tuple(other[part] for other in others)
        references = reference.expand_as(rows)
        with torch.enable_grad(), warnings.catch_warnings():
            # Each call warns about the hooks.
            warnings.simplefilter("ignore", UserWarning)
            attributions = DeepLift(own).attribute(
                rows.requires_grad_(), references, additional_forward_args=fixed
            )
        with torch.inference_mode():
            base.append(own(references, *fixed))
        values.append(attributions.detach())
    return Contributions(torch.cat(values).double().numpy(), torch.cat(base).double().numpy())


def to_tensor(features: list[str], rows: pd.DataFrame) -> Tensor:
    """Select the features of encoded rows, in the order of a network's inputs."""
    return torch.from_numpy(select_features(rows, features))
