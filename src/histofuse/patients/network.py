"""What the networks of fusion share: the vector of each side, missing sides, and training.

A network sees a patient as a padded bag of nuclei, the fixed aggregates of them, the encoded record
and which sides are given. In training a share of patients, drawn anew in each epoch, lack one side;
a learnt vector stands for it, so that one network answers for image, record and both.

Source: Neverova et al. 2016, ModDrop (modality dropout).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from histofuse.core.bundle import WEIGHTS
from histofuse.core.seeding import derive_seed
from histofuse.models.mlp import one_thread
from histofuse.models.standardiser import Components, Standardiser
from histofuse.params.patients import NetworkSection
from histofuse.patients.attention import AttentionPool
from histofuse.patients.fusion.interface import Fitted, PatientModel
from histofuse.patients.learners import Logits
from histofuse.patients.rows import VIEWS, PatientRows
from histofuse.training.fitting.batches import compute_logits
from histofuse.training.fitting.fit import fit as fit_loop
from histofuse.training.fitting.processes import Draws
from histofuse.training.fitting.recipe import Inputs, ParameterGroup, Recipe, Rows, read_recipe
from histofuse.training.recorder import Recorder

_ROWS_AT_ONCE: Final = 256


class FusionNetwork(nn.Module):
    """Both sides -> one logit; subclasses say how the sides meet.

    Attributes:
        image_token: Stands for the image vector where there is no image.
        record_token: Likewise of the record.
    """

    def __init__(self, dims: dict[str, int], params: NetworkSection) -> None:
        super().__init__()
        pooled = "attention" in params.aggregators
        self.components = Components(dims["nuclei"], params.components)
        self.fixed_scaler = Standardiser(dims["fixed"])
        self.pool = AttentionPool(params.components, params.attention_units) if pooled else None
        described = dims["fixed"] + (params.components if pooled else 0)
        self.image_layer = _make_layer(described, params)
        self.record_layer = _make_layer(dims["record"], params)
        self.image_token = nn.Parameter(torch.zeros(params.width))
        self.record_token = nn.Parameter(torch.zeros(params.width))

    def forward(
        self,
        nuclei: Float[Tensor, "batch most dim"],
        held: Bool[Tensor, "batch most"],
        fixed: Float[Tensor, "batch fixed"],
        record: Float[Tensor, "batch record"],
        given: Float[Tensor, "batch 2"],
    ) -> Float[Tensor, " batch"]:
        """Compute logits."""
        image = self.describe_image(nuclei, held.bool(), fixed)
        image = torch.where(given[:, :1] > 0, image, self.image_token)
        described = torch.where(given[:, 1:] > 0, self.record_layer(record), self.record_token)
        return self.combine(image, described).squeeze(-1)

    def describe_image(self, nuclei: Tensor, held: Tensor, fixed: Tensor) -> Tensor:
        """Compute the image vector."""
        parts = [self.fixed_scaler(fixed)]
        if self.pool is not None:
            parts.append(self.pool(self.components(nuclei), held))
        return self.image_layer(torch.cat(parts, dim=1))

    def combine(
        self, image: Float[Tensor, "batch width"], record: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch 1"]:
        """Let the vectors of both sides meet."""
        raise NotImplementedError

    def attend(self, inputs: Inputs) -> Float[Tensor, "batch most"] | None:
        """Compute the weights of nuclei; None without attention."""
        nuclei, held, *_ = inputs
        return None if self.pool is None else self.pool.weigh(self.components(nuclei), held)


def _make_layer(inputs: int, params: NetworkSection) -> nn.Module:
    return nn.Sequential(nn.Dropout(params.dropout), nn.Linear(inputs, params.width), nn.ReLU())


MakeNetwork = Callable[[dict[str, int], Any], FusionNetwork]


@dataclass(frozen=True)
class NetworkModel(PatientModel):
    """A network at inference."""

    params: NetworkSection
    network: FusionNetwork

    @property
    def parameters(self) -> int:
        """Learnt weights."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def most_nuclei(self) -> int:
        """Nuclei of a patient that it attends to at most."""
        return self.params.most_nuclei

    def logits(self, rows: PatientRows) -> Logits:
        """Compute log-odds; an image is given only where there are nuclei."""
        with one_thread():
            inputs = make_inputs(rows, self.params)
            logits = compute_logits(self.network, inputs, batch_size=_ROWS_AT_ONCE)
        return logits[:, 1].astype(np.float64)

    @torch.inference_mode()
    def attend(self, rows: PatientRows) -> Float32[np.ndarray, " n"] | None:
        """Compute each nucleus's weight; those that were thinned out have none, so 0."""
        weights = np.zeros(len(rows.embeddings), dtype=np.float32)
        places = _place_nuclei(rows, self.params.most_nuclei)
        computed = self.network.attend(make_inputs(rows, self.params))
        if computed is None:
            return None
        weights[places[places >= 0]] = computed.numpy()[places >= 0]
        return weights

    def write(self, folder: Path) -> None:
        """Write the weights as safetensors."""
        save_file(self.network.state_dict(), folder / WEIGHTS)


def make_inputs(rows: PatientRows, params: NetworkSection) -> Inputs:
    """Make what a network takes: nuclei, padding, fixed aggregates, record and given sides."""
    places = _place_nuclei(rows, params.most_nuclei)
    held = places >= 0
    dim = rows.embeddings.shape[1] if params.reads_nuclei else 0
    padding = np.zeros((1, dim), dtype=np.float32)  # where a place is -1
    nuclei = np.concatenate([rows.embeddings[:, :dim], padding])[places]
    given = rows.given & np.column_stack([rows.sizes > 0, np.ones(len(rows), dtype=bool)])
    arrays = (nuclei, held, rows.describe_image(params.aggregators), rows.record)
    return tuple(torch.tensor(array) for array in (*arrays, given.astype(np.float32)))


def _place_nuclei(rows: PatientRows, most: int) -> np.ndarray:
    """Find the nuclei of each patient, (patients, most in a bag); -1 is padding."""
    widest = max(1, min(most, int(rows.sizes.max(initial=0))))
    places = np.full((len(rows), widest), -1, dtype=np.int64)
    starts = np.cumsum(rows.sizes) - rows.sizes
    for patient, (start, size) in enumerate(zip(starts, rows.sizes, strict=True)):
        kept = min(size, widest)
        places[patient, :kept] = start + np.arange(kept) * size // max(1, kept)
    return places


def drop_sides(share: float, inputs: Inputs, draws: Draws | None) -> Inputs:
    """Take one side, either as often, from a share of the patients; none in evaluation."""
    if draws is None or not share:
        return inputs
    *others, given = inputs
    drawn = draws.uniform(1).to(given.device)
    kept = torch.cat((drawn >= share / 2, drawn < 1 - share / 2), dim=1)
    dropped = given * kept
    # A patient with one side keeps it.
    alone = (given.sum(dim=1, keepdim=True) < 2).float()
    return (*others, alone * given + (1 - alone) * dropped)


def fit_network(  # noqa: PLR0917
    make: MakeNetwork,
    train: PatientRows,
    validation: PatientRows,
    params: NetworkSection,
    seed: int,
    recorder: Recorder,
) -> Fitted:
    """Train a network; the lowest loss on validation, over all three views, chooses the epoch."""
    torch.manual_seed(derive_seed(seed, "patients", "init"))
    inputs = make_inputs(train, params)
    nuclei, held, fixed, record, _ = inputs
    dims = {"nuclei": nuclei.shape[2], "fixed": fixed.shape[1], "record": record.shape[1]}
    network = make(dims, params)
    network.fixed_scaler.fit(fixed)
    if params.reads_nuclei:
        network.components.fit(nuclei[held])
    labels = torch.from_numpy(train.outcome)
    views = [make_inputs(validation.show(view), params) for view in VIEWS]
    watched = Rows(
        tuple(torch.cat(parts) for parts in zip(*views, strict=True)),
        torch.from_numpy(np.tile(validation.outcome, len(VIEWS))),
    )
    recipe = Recipe(
        **read_recipe(params, labels, 2),
        monitor="loss",
        seed=derive_seed(seed, "patients"),
        groups=(ParameterGroup("all", tuple(network.parameters()), params.learning_rate),),
        prepare=partial(drop_sides, params.modality_dropout),
        show_progress=False,
    )
    with one_thread():
        result = fit_loop(network, Rows(inputs, labels), watched, recipe, None, recorder)
    network.requires_grad_(False)
    return Fitted(
        NetworkModel(params, network),
        pd.DataFrame(result.history).astype({"epoch": "int64"}),
        {"dims": dims},
        {"best_epoch": result.best_epoch, "monitor": recipe.monitor},
    )


def load_network(make: MakeNetwork, folder: Path, params: Any, architecture: Any) -> NetworkModel:
    """Load what `NetworkModel.write` wrote."""
    network = make(architecture["dims"], params)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return NetworkModel(params, network.eval().requires_grad_(False))
