"""A network, its data and its recipe as a Lightning module."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from histofuse.core.devices import send
from histofuse.core.naming import name_column
from histofuse.core.progress import track
from histofuse.core.seeding import derive_seed
from histofuse.training.fitting.batches import (
    as_columns,
    keep_resident,
    order_rows,
    select_rows,
    split_batches,
)
from histofuse.training.fitting.graphs import GraphedNetwork
from histofuse.training.fitting.history import find_best, is_finished, measure
from histofuse.training.fitting.processes import Draws, Share
from histofuse.training.fitting.recipe import Inputs, Recipe, Rows
from histofuse.training.recorder import Recorder

EVALUATION_BATCH = 256
# On a GPU the rows of several small batches are augmented at once.
AHEAD_ROWS = 1024
STATE = "histofuse"
GRAPHS_VARIABLE = "HISTOFUSE_CUDA_GRAPHS"


class EpochBatches:
    """The row numbers of each batch of an epoch, under a progress bar."""

    def __init__(self, module: FitModule) -> None:
        self.module = module

    def __len__(self) -> int:
        return len(self._split(torch.arange(len(self.module.train_rows))))

    def __iter__(self) -> Iterator[Tensor]:
        module, recipe = self.module, self.module.recipe
        generator = module.make_generator("order")
        rows = order_rows(len(module.train_rows), recipe.row_weights, generator)
        batches = module.batches = self._split(rows)
        if not recipe.show_progress or module.global_rank:
            return iter(batches)
        label = f"epoch {module.epoch + 1} of {recipe.epochs}"
        return iter(track(batches, label, total=len(batches)))

    def _split(self, rows: Tensor) -> Any:
        return split_batches(rows, self.module.recipe.batch_size)


class ValidationBatches:
    """The row numbers of each validation batch; a bare list would be several loaders."""

    def __init__(self, n: int) -> None:
        self.batches = split_batches(torch.arange(n), EVALUATION_BATCH)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


class ReadyBatch(NamedTuple):
    """One rank's rows of a batch, as the network and the loss take them.

    Attributes:
        inputs: Prepared, on the device.
        labels: On the CPU.
        targets: The labels, on the device.
        weights: Of the rows in the loss, on the device.
        total: Weight of the whole batch, on the device.
    """

    inputs: Inputs
    labels: Tensor
    targets: Tensor
    weights: Tensor
    total: Tensor


def count_ahead(device: torch.device, batch_size: int) -> int:
    """Count the batches to prepare at once; on a CPU one, which then is still in its cache."""
    return 1 if device.type == "cpu" else max(1, AHEAD_ROWS // batch_size)


class FitModule(pl.LightningModule):
    """A network, its data and its recipe, as Lightning wants them."""

    def __init__(
        self, network: nn.Module, train: Rows, validation: Rows, recipe: Recipe, recorder: Recorder
    ) -> None:
        super().__init__()
        self.network = network
        self.train_rows, self.validation_rows = train, validation
        self.recipe, self.recorder = recipe, recorder
        self.history: list[dict[str, float]] = []
        self.best_state: dict[str, Tensor] = {}
        self.batches: Sequence[Tensor] = ()
        self._ready: deque[ReadyBatch] = deque()
        self._graphed: GraphedNetwork | None = None
        self._train_outputs: list[tuple[Tensor, Tensor]] = []
        self._validation_outputs: list[tuple[Tensor, Tensor]] = []
        weights = recipe.class_weights
        self._class_weights = None if weights is None else weights.float()

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0; Lightning's own count is one behind while it resumes."""
        return len(self.history)

    @property
    def share(self) -> Share:
        """What this rank takes of each batch."""
        return Share(self.global_rank, self.trainer.world_size)

    # --- data -----------------------------------------------------------------------------------

    def train_dataloader(self) -> EpochBatches:
        """Return the row numbers of the training batches."""
        return EpochBatches(self)

    def val_dataloader(self) -> ValidationBatches:
        """Return the row numbers of the validation batches."""
        return ValidationBatches(len(self.validation_rows))

    def transfer_batch_to_device(self, batch: Tensor, *_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leave row numbers on the CPU."""
        return batch

    def make_generator(self, *names: str | int) -> torch.Generator:
        """Make a generator for a named stream of the epoch under way."""
        seed = derive_seed(self.recipe.seed, "epoch", self.epoch, *names)
        return torch.Generator().manual_seed(seed)

    # --- steps ----------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Move the data to the GPU, if there is one and they fit."""
        alone = self.device.type == "cuda" and self.share.of == 1
        wanted = os.environ.get(GRAPHS_VARIABLE, "1") != "0"
        self._graphed = GraphedNetwork(self.network) if alone and wanted else None
        self._train_inputs = keep_resident(self.train_rows.inputs, self.device)
        self._validation_inputs = keep_resident(self.validation_rows.inputs, self.device)

    def on_fit_end(self) -> None:
        """Release GPU memory."""
        self._graphed = None

    def on_train_epoch_start(self) -> None:
        """Seed, set rates and freeze for this epoch, whatever came before it."""
        epoch = self.epoch
        torch.manual_seed(derive_seed(self.recipe.seed, "epoch", epoch, self.global_rank))
        # The same numbers on every rank, which takes its share of them.
        self._augmentation = self.make_generator("augmentation", 0)
        factor = self.recipe.schedule(epoch)
        for group, planned in zip(self._optimizer.param_groups, self.recipe.groups, strict=True):
            group["lr"] = planned.learning_rate * factor
        self.recipe.begin_epoch(self.network, epoch)
        if self._graphed:
            self._graphed.refresh()
        self._ready.clear()
        self._train_outputs.clear()

    def training_step(self, _: Tensor, number: int) -> Tensor:
        """Compute this rank's part of the mean loss of the global batch."""
        if not self._ready:
            ahead = count_ahead(self.device, self.recipe.batch_size)
            self._ready.extend(self._prepare(self.batches[number : number + ahead]))
        batch = self._ready.popleft()
        logits = as_columns((self._graphed or self.network)(*batch.inputs))
        # They stay on the device until the epoch ends: copying them would wait for it.
        self._train_outputs.append((logits.detach(), batch.labels))
        losses = cross_entropy(logits, batch.targets, reduction="none")
        # DDP averages over ranks, so each takes its share of the sum times their number.
        return (batch.weights * losses).sum() / batch.total * self.share.of

    def _prepare(self, batches: Sequence[Tensor]) -> list[ReadyBatch]:
        """Prepare this rank's rows of some batches at once: many small kernels cost more."""
        mine = [self.share.take(rows) for rows in batches]
        labels = self.train_rows.labels[torch.cat(mine)]
        draws = Draws(self._augmentation, [len(rows) for rows in batches], self.share)
        inputs = self._prepare_inputs(self._train_inputs, torch.cat(mine), draws)
        totals = torch.stack([self._weigh(self.train_rows.labels[rows]).sum() for rows in batches])
        targets, weights, totals = (
            send(t, self.device) for t in (labels, self._weigh(labels), totals)
        )
        sizes = [len(rows) for rows in mine]
        parts = (t.split(sizes) for t in (labels, targets, weights))
        whole = zip(*(t.split(sizes) for t in inputs), strict=True)
        return [ReadyBatch(*part) for part in zip(whole, *parts, totals, strict=True)]

    def _weigh(self, labels: Tensor) -> Tensor:
        if self._class_weights is None:
            return torch.ones(len(labels))
        return self._class_weights[labels]

    def _prepare_inputs(self, held: Inputs, rows: Tensor, draws: Draws | None) -> Inputs:
        inputs = select_rows(held, rows, self.device)
        with torch.autocast(self.device.type, enabled=False):
            return self.recipe.prepare(inputs, draws)

    def validation_step(self, batch: Tensor, _: int) -> None:
        """Collect the logits of this rank's validation rows."""
        mine = self.share.take(batch)
        inputs = self._prepare_inputs(self._validation_inputs, mine, None)
        self._validation_outputs.append((as_columns(self.network(*inputs)), mine))

    def on_validation_epoch_start(self) -> None:
        """Forget the logits of the last epoch."""
        self._validation_outputs.clear()

    def on_train_epoch_end(self) -> None:
        """Add the epoch to the history, keep its weights if they are the best, stop if due."""
        self.history.append(self._summarise())
        if find_best(self.history, self.recipe.monitor) == len(self.history) - 1:
            state = self.network.state_dict()
            self.best_state = {k: tensor.to("cpu", copy=True) for k, tensor in state.items()}
        self._record(self.history[-1])
        if is_finished(self.history, self.recipe):
            self.trainer.should_stop = True

    def _summarise(self) -> dict[str, float]:
        logits, labels = (part.numpy() for part in self._gather(self._train_outputs))
        weights = None if self._class_weights is None else self._class_weights.numpy()
        train = measure(logits, labels, weights, rank=False)
        collected, rows = (part.numpy() for part in self._gather(self._validation_outputs))
        validation = measure(collected, self.validation_rows.labels.numpy()[rows], weights)
        row = {"epoch": float(self.epoch + 1)}
        for name in ("loss", "accuracy", "macro_f1"):
            row |= {f"train_{name}": train[name], f"validation_{name}": validation[name]}
        row["validation_auroc"] = validation["auroc"]
        for planned, group in zip(self.recipe.groups, self._optimizer.param_groups, strict=True):
            row[f"learning_rate_{planned.name}"] = float(group["lr"])
        return row

    def _gather(self, outputs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        mine = [torch.cat(parts).cpu() for parts in zip(*outputs, strict=True)]
        if self.share.of == 1:
            return mine
        everyone: list[Any] = [None] * self.share.of
        torch.distributed.all_gather_object(everyone, mine)
        return [torch.cat(parts) for parts in zip(*everyone, strict=True)]

    def _record(self, row: dict[str, float]) -> None:
        if self.global_rank:
            return
        metrics = {name_column(name): value for name, value in row.items() if name != "epoch"}
        known = {name: value for name, value in metrics.items() if not np.isnan(value)}
        self.recorder.log_metrics(known, step=int(row["epoch"]))

    # --- optimiser and state --------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make Adam over all groups; parameters without a gradient stay as they are."""
        groups = [
            {"params": list(group.parameters), "lr": group.learning_rate}
            for group in self.recipe.groups
        ]
        decay = self.recipe.weight_decay
        self._optimizer = torch.optim.Adam(groups, weight_decay=decay, fused=True)
        return self._optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the history and the best weights so far."""
        checkpoint[STATE] = {"history": self.history, "best_state": self.best_state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take history and best weights from a checkpoint; record its epochs again."""
        if self.history:
            return
        self.history = list(checkpoint[STATE]["history"])
        self.best_state = {k: v.clone() for k, v in checkpoint[STATE]["best_state"].items()}
        for row in self.history:
            self._record(row)
