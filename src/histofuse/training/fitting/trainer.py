"""Trains a network epoch by epoch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from histofuse.core.devices import send
from histofuse.core.progress import track
from histofuse.core.seeding import derive_seed
from histofuse.training.fitting.averaging import AveragedNetwork
from histofuse.training.fitting.batches import (
    Collected,
    as_columns,
    keep_resident,
    order_rows,
    split_batches,
)
from histofuse.training.fitting.history import find_best, measure
from histofuse.training.fitting.processes import Draws, Share
from histofuse.training.fitting.recipe import (
    Inputs,
    Recipe,
    Rows,
    make_adam,
    resolve_precision,
)
from histofuse.training.fitting.stored import iterate_rows

EVALUATION_BATCH = 256
# On a GPU the rows of several small batches are augmented at once.
AHEAD_ROWS = 1024


class ReadyBatch(NamedTuple):
    """One process's rows of a batch, as the network and the loss take them.

    All are on the device; `total` is the weight of the whole batch.
    """

    inputs: Inputs
    targets: Tensor
    weights: Tensor
    total: Tensor


def count_ahead(device: torch.device, batch_size: int) -> int:
    """Count the batches to prepare at once; on a CPU one, which then is still in its cache."""
    return 1 if device.type == "cpu" else max(1, AHEAD_ROWS // batch_size)


class Trainer:
    """A network in training, and all that a checkpoint keeps of it.

    `best_state` is of the best epoch so far, on the CPU, averaged if the recipe says so.
    """

    def __init__(  # noqa: PLR0917
        self,
        network: nn.Module,
        train: Rows,
        validation: Rows,
        recipe: Recipe,
        device: torch.device,
        share: Share,
    ) -> None:
        precision = resolve_precision(recipe.precision)
        self.history: list[dict[str, float]] = []
        self.best_state: dict[str, Tensor] = {}
        self._network = network.to(device)
        self._train, self._validation = train, validation
        self._recipe, self._device, self._share = recipe, device, share
        self._train_inputs = keep_resident(train.inputs, device)
        self._validation_inputs = keep_resident(validation.inputs, device)
        weights = recipe.class_weights
        self._class_weights = None if weights is None else weights.float()
        self._optimizer = make_adam(recipe.groups, recipe.weight_decay)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._autocast = torch.autocast(
            device.type,
            torch.float16 if precision == "fp16" else torch.bfloat16,
            enabled=precision != "fp32",
        )
        decay = recipe.weight_averaging
        self._average = AveragedNetwork(self._network, decay) if decay else None
        self._evaluated = self._average.network if self._average else self._network
        self._compute = self._wrap_network()

    def _wrap_network(self) -> Callable[..., Tensor]:
        if self._share.of > 1:
            # What is frozen changes from epoch to epoch, so unused parameters are looked for.
            return DistributedDataParallel(self._network, find_unused_parameters=True)
        return self._network

    def state_dict(self) -> dict[str, Any]:
        """Return the state after an epoch."""
        return {
            "history": self.history,
            "best_state": self.best_state,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self._average.state_dict() if self._average else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch of a state."""
        self.history, self.best_state = state["history"], state["best_state"]
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        if self._average:
            self._average.load_state_dict(state["average"])

    def run_epoch(self) -> None:
        """Train and validate once, add the epoch to the history, keep its weights if the best."""
        self._begin_epoch()
        trained = self._train_epoch()
        validated = self._validate()
        self.history.append(self._summarise(trained, validated))
        if find_best(self.history, self._recipe.monitor) == len(self.history) - 1:
            state = self._evaluated.state_dict()
            self.best_state = {k: tensor.to("cpu", copy=True) for k, tensor in state.items()}

    def _begin_epoch(self) -> None:
        """Seed, set rates and freeze for this epoch, whatever came before it."""
        epoch = len(self.history)
        torch.manual_seed(derive_seed(self._recipe.seed, "epoch", epoch, self._share.first))
        factor = self._recipe.schedule(epoch)
        for group, planned in zip(self._optimizer.param_groups, self._recipe.groups, strict=True):
            group["lr"] = planned.learning_rate * factor
        self._recipe.begin_epoch(self._network, epoch)

    def _train_epoch(self) -> Collected:
        rows = order_rows(len(self._train), self._recipe.row_weights, self._make_generator("order"))
        batches = split_batches(rows, self._recipe.batch_size)
        collected = Collected(self._share.take_all(rows, batches))
        shown = self._recipe.show_progress and not self._share.first
        label = f"epoch {len(self.history) + 1} of {self._recipe.epochs}"
        ready = self._iterate_ready(batches)
        for batch in track(ready, label, total=len(batches)) if shown else ready:
            with self._autocast:
                logits = as_columns(self._compute(*batch.inputs))
                losses = self._recipe.loss(logits, batch.targets)
                # DDP averages over processes: each takes its part of the sum times their number.
                loss = (batch.weights * losses).sum() / batch.total * self._share.of
            collected.add(logits)
            self._optimizer.zero_grad()
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            if self._average:
                self._average.update()
        return collected

    def _iterate_ready(self, batches: Sequence[Tensor]) -> Iterator[ReadyBatch]:
        # The same numbers in every process, which takes its share of them.
        augmentation = self._make_generator("augmentation", 0)
        ahead = count_ahead(self._device, self._recipe.batch_size)
        chunks = [batches[first : first + ahead] for first in range(0, len(batches), ahead)]
        mine = (torch.cat([self._share.take(rows) for rows in chunk]) for chunk in chunks)
        gathered = iterate_rows(self._train_inputs, mine, self._device)
        for chunk, inputs in zip(chunks, gathered, strict=True):
            yield from self._prepare_batches(chunk, inputs, augmentation)

    def _make_generator(self, *names: str | int) -> torch.Generator:
        seed = derive_seed(self._recipe.seed, "epoch", len(self.history), *names)
        return torch.Generator().manual_seed(seed)

    def _prepare_batches(
        self, batches: Sequence[Tensor], inputs: Inputs, augmentation: torch.Generator
    ) -> Iterator[ReadyBatch]:
        """Prepare this process's rows of some batches at once: many small kernels cost more."""
        mine = [self._share.take(rows) for rows in batches]
        labels = self._train.labels[torch.cat(mine)]
        draws = Draws(augmentation, [len(rows) for rows in batches], self._share)
        inputs = self._recipe.prepare(inputs, draws)
        totals = torch.stack([self._weigh(self._train.labels[rows]).sum() for rows in batches])
        targets, weights, totals = (
            send(t, self._device) for t in (labels, self._weigh(labels), totals)
        )
        sizes = [len(rows) for rows in mine]
        parts = (t.split(sizes) for t in (targets, weights))
        whole = zip(*(t.split(sizes) for t in inputs), strict=True)
        return map(ReadyBatch, whole, *parts, totals)

    def _weigh(self, labels: Tensor) -> Tensor:
        if self._class_weights is None:
            return torch.ones(len(labels))
        return self._class_weights[labels]

    @torch.inference_mode()
    def _validate(self) -> Collected:
        self._evaluated.eval()
        batches = split_batches(torch.arange(len(self._validation)), EVALUATION_BATCH)
        mine = [self._share.take(rows) for rows in batches]
        collected = Collected(torch.cat(mine))
        for inputs in iterate_rows(self._validation_inputs, mine, self._device):
            prepared = self._recipe.prepare(inputs, None)
            with self._autocast:
                collected.add(as_columns(self._evaluated(*prepared)))
        return collected

    def _summarise(self, trained: Collected, validated: Collected) -> dict[str, float]:
        weights = self._recipe.measured_weights
        weights = self._class_weights if weights is None else weights
        weights = None if weights is None else weights.numpy()
        train = measure(*self._gather(trained, self._train.labels), weights, rank=False)
        validation = measure(*self._gather(validated, self._validation.labels), weights)
        row = {"epoch": float(len(self.history) + 1)}
        for name in ("loss", "accuracy", "macro_f1"):
            row |= {f"train_{name}": train[name], f"validation_{name}": validation[name]}
        row["validation_auroc"] = validation["auroc"]
        for planned, group in zip(self._recipe.groups, self._optimizer.param_groups, strict=True):
            row[f"learning_rate_{planned.name}"] = float(group["lr"])
        return row

    def _gather(self, collected: Collected, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Bring the logits of all processes, and the labels of their rows, to the CPU."""
        mine = collected.logits.cpu(), labels[collected.rows]
        everyone: list[Any] = [mine]
        if self._share.of > 1:
            everyone *= self._share.of
            torch.distributed.all_gather_object(everyone, mine)
        logits, true = (torch.cat(parts).numpy() for parts in zip(*everyone, strict=True))
        return logits, true
