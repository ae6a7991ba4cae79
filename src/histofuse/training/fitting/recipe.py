"""What a training is made of: rows, and a recipe of how to learn from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from histofuse.core.errors import InputError
from histofuse.training.fitting.losses import Loss, compute_cross_entropy
from histofuse.training.fitting.processes import Draws
from histofuse.training.fitting.stored import Source

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Monitor = Literal["macro_f1", "auroc", "loss", "last"]
Inputs = tuple[Tensor, ...]
Sources = tuple[Source, ...]


@dataclass(frozen=True)
class Rows:
    """Examples: inputs in memory or on disk, one row each, and (n,) int64 class numbers."""

    inputs: Sources
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate, the one where the schedule's factor is 1."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float


def make_adam(groups: Sequence[ParameterGroup], weight_decay: float) -> torch.optim.Adam:
    """Make Adam with an L2 penalty, all parameters of a group in one kernel."""
    rates = [{"params": g.parameters, "lr": g.learning_rate} for g in groups]
    return torch.optim.Adam(rates, weight_decay=weight_decay, fused=True)


def keep_inputs(inputs: Inputs, _: Draws | None) -> Inputs:
    """Prepare nothing: the network takes the rows as they are."""
    return inputs


def train_everything(network: nn.Module, _: int) -> None:
    """Train all parameters in every epoch."""
    network.train()


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    epochs: int
    # rows per step, over all devices. The rows of an epoch are split evenly, so batches may be a
    # little smaller and none is left with a single row.
    batch_size: int
    patience: int  # epochs without a better `monitor` after which training stops
    # validation metric that selects the best epoch; ties go to the lower loss. ``last`` trains for
    # all epochs and keeps the last.
    monitor: Monitor
    seed: int
    groups: tuple[ParameterGroup, ...]
    weight_decay: float = 0.0  # l2 penalty
    # epoch (from 0) -> factor on the learning rates
    schedule: Callable[[int], float] = field(default=lambda _: 1.0)
    # logits and targets -> loss of each row (binary for one logit per row). Histories show the
    # cross-entropy, whatever the loss.
    loss: Loss = compute_cross_entropy
    # (k,) weights of the classes in the loss, in training and validation
    class_weights: Float[Tensor, " k"] | None = None
    # those in the cross-entropy that histories show; None: `class_weights`
    measured_weights: Float[Tensor, " k"] | None = None
    # (n_train,) probabilities of being drawn, with replacement; None visits each row once
    row_weights: Float[Tensor, " n"] | None = None
    # decay of the moving average of the weights, per step; 0 averages nothing
    weight_averaging: float = 0.0
    # called on a batch on its device before the network: with random numbers in training
    # (augmentation), with None in evaluation
    prepare: Callable[[Inputs, Draws | None], Inputs] = keep_inputs
    # called with the network and the epoch (from 0); sets modes and freezes
    begin_epoch: Callable[[nn.Module, int], None] = train_everything
    precision: Precision = "fp32"  # ``auto`` is bf16 where the hardware computes in it, else fp32
    show_progress: bool = True


def compute_class_weights(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, " k"]:
    """Compute n / (k * n_class), 0 for a class without rows. Source: paper 3.1."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


def read_recipe(params: Any, labels: Int[Tensor, " n"], classes: int) -> dict[str, Any]:
    """Read what the sections of all networks state alike: epochs, batches and class balance."""
    weights = compute_class_weights(labels, classes)
    sampled = params.imbalance in ("weighted_sampler", "balanced_sampling")
    shared = ("epochs", "batch_size", "patience", "weight_decay")
    return {name: getattr(params, name) for name in shared} | {
        "class_weights": weights if params.imbalance == "class_weights" else None,
        "row_weights": weights[labels] if sampled else None,
    }


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """Resolve ``auto``: bf16 on GPUs and processors that compute in it, else fp32.

    Raises InputError if fp16 is requested without a GPU.
    """
    cuda = torch.cuda.is_available()
    if precision == "fp16" and not cuda:
        raise InputError.of("precision", "is fp16, but there is no GPU", "auto, bf16 or fp32 here")
    if precision != "auto":
        return precision
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_has_bf16()
    return "bf16" if fast else "fp32"


def _cpu_has_bf16() -> bool:
    # PyTorch may be told to use less than the processor has: ATEN_CPU_CAPABILITY.
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    # Private to torch, so its absence is tolerated: fp32 is then correct, only slower.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


ScheduleKind = Literal["constant", "step", "cosine"]


def make_schedule(
    kind: ScheduleKind,
    epochs: int,
    *,
    step_epochs: int = 1,
    step_factor: float = 1.0,
    warmup_epochs: int = 0,
) -> Callable[[int], float]:
    """Make a schedule: epoch (from 0) -> factor on the learning rates.

    After a linear warm-up, ``step`` multiplies by `step_factor` every `step_epochs`, and ``cosine``
    falls from 1 towards 0 over the other epochs.
    """

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        done = epoch - warmup_epochs
        if kind == "step":
            return step_factor ** (done // step_epochs)
        if kind == "cosine":
            return (1 + math.cos(math.pi * done / max(1, epochs - warmup_epochs))) / 2
        return 1.0

    return factor
