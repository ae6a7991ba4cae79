"""Multilayer perceptron on encoded health records, whose last hidden layer is the embedding."""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Mlp(nn.Module):
    """Blocks of linear, ReLU, batch norm and dropout; then one linear layer of one or two logits.

    Source: paper 3.2 (256 -> 128, each with ReLU, batch normalisation and dropout 0.3; the
    activations before the output layer are the patient embedding).
    """

    def __init__(self, n_features: int, hidden: list[int], outputs: int, dropout: float) -> None:
        super().__init__()
        widths = itertools.pairwise([n_features, *hidden])
        self.blocks = nn.Sequential(*(_make_block(i, o, dropout) for i, o in widths))
        self.output = nn.Linear(hidden[-1], outputs)

    def embed(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch embedding"]:
        """Compute the activations before the output layer."""
        return self.blocks(x)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch outputs"]:
        """Compute the raw outputs: one logit, or one per class."""
        return self.output(self.embed(x))

    def copy_trainable(self) -> "Mlp":
        """Copy the network at inference, with gradients: for explainers that hook into layers."""
        return copy.deepcopy(self).eval().requires_grad_(True)

    def compute_logit(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """Compute the log-odds of the positive class from one or two outputs."""
        outputs = self(x)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0]


def _make_block(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    layers = nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs), nn.Dropout(dropout)
    return nn.Sequential(*layers)


ROWS_AT_ONCE = 8192


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums depend on their number, and small networks gain nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compute_logits(model: Mlp, x: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
    """Compute logits at inference: running batch statistics and no dropout."""
    return _apply(model, model.compute_logit, x)


def compute_embeddings(
    model: Mlp, x: Float[np.ndarray, "n features"]
) -> Float[np.ndarray, "n embedding"]:
    """Compute embeddings at inference: running batch statistics and no dropout."""
    return _apply(model, model.embed, x)


def _apply(
    model: Mlp, function: Callable[[Tensor], Tensor], x: Float[np.ndarray, "n features"]
) -> np.ndarray:
    model.eval()
    with torch.inference_mode(), one_thread():
        chunks = torch.from_numpy(np.require(x, requirements=["C", "W"])).split(ROWS_AT_ONCE)
        return torch.cat([function(chunk) for chunk in chunks]).numpy()


def load_mlp(path: Path, architecture: dict[str, Any]) -> Mlp:
    """Rebuild a network from ``config.json`` and fill in its weights, at inference."""
    model = Mlp(*(architecture[key] for key in ("n_features", "hidden", "outputs", "dropout")))
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def write_mlp(model: Mlp, path: Path) -> None:
    """Write the weights and running statistics as safetensors."""
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path)
