"""How much the patch and the record contribute to a fused decision.

The *margin* is decomposed: the log-odds, before calibration, of the decided class against the most
likely other class. Patch and record are two players; unknown, they are the mean image embedding of
training, and the typical patient. The Shapley value of each is the mean of what it adds when it
comes first and when it comes second. DeepLIFT distributes the record's over its columns in both
situations, so that base, patch and columns add up to the margin.

Source: Shapley 1953; Shrikumar et al., ICML 2017 (rescale rule), as in `explainers`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from histofuse.explain.fusion.explainers import (
    FusionNetworks,
    WeightedLogits,
    explain_network,
    to_tensor,
)
from histofuse.models.mlp import one_thread


@dataclass(frozen=True)
class Decomposed:
    """Decomposed margins: of the mean patch with the typical patient, and what each side adds.

    `record` has the columns of the patient encoder, `rivals` the most likely other classes.
    """

    base: Float[np.ndarray, " n"]
    image: Float[np.ndarray, " n"]
    record: Float[np.ndarray, "n features"]
    margin: Float[np.ndarray, " n"]
    rivals: Int[np.ndarray, " n"]

    @property
    def image_share(self) -> Float[np.ndarray, " n"]:
        """The patch's share of |patch| + |record|; NaN where neither adds anything."""
        image, record = np.abs(self.image), np.abs(self.record.sum(axis=1))
        total = image + record
        return np.divide(image, total, out=np.full(len(total), np.nan), where=total > 0)

    @property
    def additivity_error(self) -> float:
        """Largest difference between a margin and the sum of base and parts."""
        total = self.base + self.image + self.record.sum(axis=1)
        return float(np.abs(total - self.margin).max(initial=0.0))


@dataclass(frozen=True)
class Typical:
    """Values that stand for "not known": the mean training embedding, and one encoded row."""

    image: Float32[np.ndarray, " image"]
    patient: pd.DataFrame


def decompose(
    networks: FusionNetworks,
    typical: Typical,
    image: Float32[np.ndarray, "n image"],
    rows: pd.DataFrame,
    decided: Int[np.ndarray, " n"],
) -> Decomposed:
    """Decompose the margins of decisions on patches and their encoded records."""
    x, reference = (to_tensor(networks.patient.features, p) for p in (rows, typical.patient))
    own, mean = torch.from_numpy(image), torch.from_numpy(typical.image).expand(len(image), -1)
    network = WeightedLogits(networks).eval()
    with one_thread():
        with torch.inference_mode():
            weights, rivals = _weigh(network.compute_logits(x, own), decided)
            value = {
                (seen, known): network(records, patch, weights).double().numpy()
                for known, records in ((False, reference.expand_as(x)), (True, x))
                for seen, patch in ((False, mean), (True, own))
            }
        weights = weights.clone()  # outside inference mode, for gradients
        record = [
            explain_network(network, x.clone(), reference, (patch, weights)).values
            for patch in (own, mean)
        ]
    adds = [value[True, known] - value[False, known] for known in (False, True)]
    return Decomposed(
        base=value[False, False],
        image=(adds[0] + adds[1]) / 2,
        record=(record[0] + record[1]) / 2,
        margin=value[True, True],
        rivals=rivals,
    )


def _weigh(logits: Tensor, decided: Int[np.ndarray, " n"]) -> tuple[Tensor, np.ndarray]:
    """Find weights with which the logits sum to the margin, and the rival of each decision."""
    chosen = torch.from_numpy(decided)[:, None]
    rivals = logits.scatter(1, chosen, -torch.inf).argmax(dim=1)
    weights = torch.zeros_like(logits).scatter_(1, chosen, 1.0).scatter_(1, rivals[:, None], -1.0)
    return weights, rivals.numpy()
