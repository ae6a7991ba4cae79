"""The training loop that the image networks, the MLP and the fusion head share.

Data are held in memory as tensors; a batch is a tensor of row numbers, so no loader processes are
needed. The caller brings a network, `Rows` to train and to validate on, and a `Recipe`; `fit` runs
Lightning, stops early, keeps the best epoch and leaves the network with its weights:

    torch.manual_seed(derive_seed(seed, "mlp", "init"))
    network = Mlp(...)                               # network(*inputs) -> logits
    recipe = Recipe(
        epochs=60, batch_size=256, patience=10, monitor="auroc", seed=seed,
        groups=(ParameterGroup("all", tuple(network.parameters()), 1e-3),),
        weight_decay=1e-4,
        schedule=make_schedule("step", 60, step_epochs=20, step_factor=0.5, warmup_epochs=3),
        class_weights=compute_class_weights(labels, 2),
    )
    key = make_checkpoint_key(params.model_dump(), seed, {"encoded": digest})
    with resumable("mlp", key) as checkpoints:
        result = fit(network, Rows((x,), y), Rows((x_val,), y_val), recipe, checkpoints, recorder)
        write_history(result, folder / "history.csv")
        logits = compute_logits(network, (x_all,))   # (n, k) float32
        ...                                          # write the bundle inside the block

**Resume.** After each epoch ``last.ckpt`` is written in ``.histofuse/checkpoints/<name>/<key>/``.
The random numbers of an epoch are derived from (seed, epoch) alone, so a run killed at any moment
and started again ends in the same bytes as an undisturbed one. The key holds params, seed, input
digests and the digest of the package's own code, so no state outlives what it was made from.

**Several devices.** Lightning takes all there are, or what torchrun has started. Each global batch
is dealt out among the ranks, and each gathers its own rows alone, in validation too. The loss is
divided by the weight of the global batch, batch norm and augmentation are those of the whole batch,
so the metrics are those of one device but for rounding; dropout's masks alone are drawn by each
rank for itself. Rank 0 alone records and saves, and the other ranks end with the fit. A checkpoint
of one number of processes is resumed by any other.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from histofuse.core.artifacts import digest_text, to_json, write_text
from histofuse.core.devices import send
from histofuse.core.errors import Fault, InputError
from histofuse.training.code import digest_code
from histofuse.training.fitting.processes import Draws
from histofuse.training.recorder import NullRecorder, Recorder

CHECKPOINTS = Path(".histofuse/checkpoints")
LAST = "last.ckpt"

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Monitor = Literal["macro_f1", "auroc", "loss"]
ScheduleKind = Literal["constant", "step", "cosine"]
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Rows:
    """Examples in memory.

    Attributes:
        inputs: What the network takes, each with one row an example, in any dtype.
        labels: (n,) int64 class numbers.
    """

    inputs: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: As in the column ``learning_rate_<name>`` of the history.
        parameters: The tensors; frozen ones may be among them.
        learning_rate: Rate where the schedule's factor is 1.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float


def keep_inputs(inputs: Inputs, _: Draws | None) -> Inputs:
    """Prepare nothing: the network takes the rows as they are."""
    return inputs


def train_everything(network: nn.Module, _: int) -> None:
    """Train all parameters in every epoch."""
    network.train()


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the loss is cross-entropy (for one logit a row: binary).

    Attributes:
        epochs: The most there will be.
        batch_size: Rows a step, over all devices. The rows of an epoch are dealt out evenly, so
            batches may be a little smaller and none is left with a single row.
        patience: Epochs without a better `monitor` after which training stops.
        monitor: Validation metric that decides on the best epoch; of equals the least loss.
        seed: Seeds order, augmentation and dropout, anew in each epoch.
        groups: Parameters and their learning rates, for Adam.
        weight_decay: L2 penalty.
        schedule: Epoch (from 0) -> factor on the learning rates.
        class_weights: (k,) weights of the classes in the loss, in training and validation.
        row_weights: (n_train,) chances of being drawn, with replacement; None visits each row once.
        prepare: Called on a batch on its device, in float32 precision, before the network: with
            random numbers in training (augment), with None in evaluation.
        begin_epoch: Called with the network and the epoch (from 0); sets train and eval mode and
            freezes or unfreezes.
        precision: ``auto`` is bf16 where the machine computes in it, else fp32.
        devices: Number of devices, or ``auto`` for all.
        show_progress: Whether a terminal gets a progress bar.
    """

    epochs: int
    batch_size: int
    patience: int
    monitor: Monitor
    seed: int
    groups: tuple[ParameterGroup, ...]
    weight_decay: float = 0.0
    schedule: Callable[[int], float] = field(default=lambda _: 1.0)
    class_weights: Float[Tensor, " k"] | None = None
    row_weights: Float[Tensor, " n"] | None = None
    prepare: Callable[[Inputs, Draws | None], Inputs] = keep_inputs
    begin_epoch: Callable[[nn.Module, int], None] = train_everything
    precision: Precision = "fp32"
    devices: int | Literal["auto"] = "auto"
    show_progress: bool = True


@dataclass(frozen=True)
class FitResult:
    """What training left behind, beside the network with the best epoch's weights.

    Attributes:
        history: One mapping an epoch: epoch (from 1), train_loss, validation_loss, train_accuracy,
            validation_accuracy, train_macro_f1, validation_macro_f1, validation_auroc,
            learning_rate_<group>.
        best_epoch: The epoch (from 1) whose weights were kept.
    """

    history: list[dict[str, float]]
    best_epoch: int


def fit(  # noqa: PLR0917
    network: nn.Module,
    train: Rows,
    validation: Rows,
    recipe: Recipe,
    checkpoints: Path | None = None,
    recorder: Recorder | None = None,
) -> FitResult:
    """Train a network in place; it ends with the weights of its best epoch, in eval mode, on CPU.

    Args:
        network: ``network(*inputs) -> (batch, k)`` logits, or ``(batch,)`` for one logit a row.
        train: Rows to learn from.
        validation: Rows to monitor.
        recipe: How.
        checkpoints: Folder from `resumable`; None neither saves nor resumes.
        recorder: Told of each epoch; of the epochs before a resume too.

    Raises:
        InputError: If train or validation has no rows, or the precision does not exist here.
    """
    faults = [
        Fault(f"split {name!r}", "holds no rows", "at least one")
        for name, rows in (("train", train), ("validation", validation))
        if not len(rows)
    ]
    if faults:
        raise InputError(faults)
    # Lightning takes seconds to import: those who only read models back never pay for it.
    from histofuse.training.fitting.lightning_fit import run_fit

    recorder = recorder or NullRecorder()
    return run_fit(network, train, validation, recipe, checkpoints=checkpoints, recorder=recorder)


# --- checkpoints --------------------------------------------------------------------------------


def make_checkpoint_key(params: Mapping[str, Any], seed: int, inputs: Mapping[str, str]) -> str:
    """Name the state of a run by all it depends on: params, seed, inputs' digests and the code."""
    parts = {"params": params, "seed": seed, "inputs": inputs, "code": digest_code()}
    return digest_text(to_json({**parts, "torch": torch.__version__}))[:16]


@contextmanager
def resumable(name: str, key: str, root: Path = CHECKPOINTS) -> Iterator[Path]:
    """Yield the folder for a run's checkpoints; remove all of the name's once the block succeeds.

    Do the bundle's writing inside the block: what fails there starts from the last epoch again.
    """
    folder = root / name / key
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(root / name, ignore_errors=True)


# --- schedules, weights, precision --------------------------------------------------------------


def make_schedule(
    kind: ScheduleKind,
    epochs: int,
    *,
    step_epochs: int = 1,
    step_factor: float = 1.0,
    warmup_epochs: int = 0,
) -> Callable[[int], float]:
    """Make a schedule: epoch (from 0) -> factor on the learning rates.

    Args:
        kind: ``step`` multiplies by `step_factor` every `step_epochs`; ``cosine`` falls from 1
            towards 0 over the epochs after the warm-up.
        epochs: Epochs in all.
        step_epochs: Length of a step, counted from the end of the warm-up.
        step_factor: Factor of a step.
        warmup_epochs: Epochs of a linear rise that reaches 1 with the first epoch after it.
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


def compute_class_weights(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, " k"]:
    """Compute inverse-frequency weights n / (k * n_class); 0 for a class without rows.

    Source: paper 3.1.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


def compute_row_weights(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, " n"]:
    """Compute chances with which a weighted sampler draws each class equally often."""
    return compute_class_weights(labels, classes)[labels]


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """Settle ``auto``: bf16 on GPUs and processors that compute in it, else fp32.

    Raises:
        InputError: If fp16 is asked for without a GPU.
    """
    cuda = torch.cuda.is_available()
    if precision == "fp16" and not cuda:
        fault = Fault("precision", "is fp16, but there is no GPU", "auto, bf16 or fp32 here")
        raise InputError([fault])
    if precision != "auto":
        return precision
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_has_bf16()
    return "bf16" if fast else "fp32"


def _cpu_has_bf16() -> bool:
    # Private to torch, hence the guard: without an answer fp32 is right, only slower.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


# --- batches ------------------------------------------------------------------------------------


def split_batches(rows: Int[Tensor, " n"], batch_size: int) -> Sequence[Int[Tensor, " batch"]]:
    """Split rows into batches of nearly equal size, none larger than `batch_size`."""
    return torch.tensor_split(rows, max(1, math.ceil(len(rows) / batch_size)))


def order_rows(
    n: int, row_weights: Float[Tensor, " n"] | None, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Draw the order of an epoch: a permutation, or n draws with replacement by weight."""
    if row_weights is None:
        return torch.randperm(n, generator=generator)
    return torch.multinomial(row_weights.double(), n, replacement=True, generator=generator)


def select_rows(inputs: Inputs, rows: Int[Tensor, " batch"], device: torch.device) -> Inputs:
    """Gather rows of each input, where it lies, and move them to the device."""
    return tuple(send(t.index_select(0, send(rows, t.device)), device) for t in inputs)


def keep_resident(inputs: Inputs, device: torch.device) -> Inputs:
    """Move inputs to a GPU if they take no more than half of its free memory, else leave them.

    Batches gathered there need no copying; the other half is for the network.
    """
    if device.type != "cuda":
        return inputs
    free, _ = torch.cuda.mem_get_info(device)
    if 2 * sum(t.nbytes for t in inputs) > free:
        return inputs
    return tuple(t.to(device) for t in inputs)


def as_columns(logits: Tensor) -> Float[Tensor, "batch k"]:
    """Bring logits to float32 and one column a class; a single logit l becomes (0, l).

    The softmax of (0, l) is the sigmoid of l, and its cross-entropy the binary one.
    """
    logits = logits.float()
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    single = logits.reshape(-1)
    return torch.stack((torch.zeros_like(single), single), dim=1)


@torch.inference_mode()
def compute_logits(
    network: nn.Module,
    inputs: Inputs,
    *,
    batch_size: int = 256,
    prepare: Callable[[Inputs, Draws | None], Inputs] = keep_inputs,
) -> Float[np.ndarray, "n k"]:
    """Compute logits in eval mode and fp32, on the device the network is on.

    Returns:
        float32, one column a class; a single logit l becomes (0, l).
    """
    network.eval()
    device = next(network.parameters()).device
    batches = split_batches(torch.arange(len(inputs[0])), batch_size)
    logits = [
        as_columns(network(*prepare(select_rows(inputs, rows, device), None))).cpu()
        for rows in batches
    ]
    return torch.cat(logits).numpy()


# --- metrics of an epoch ------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics over the rows of one split in one epoch."""

    loss: float
    accuracy: float
    macro_f1: float
    auroc: float


def measure(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    class_weights: Float[np.ndarray, " k"] | None = None,
    *,
    rank: bool = True,
) -> EpochMetrics:
    """Measure weighted cross-entropy, accuracy, macro-F1 and macro one-vs-rest AUROC.

    Macro means are over the classes that occur among the labels (or, for F1, the predictions).
    AUROC, for which all rows are sorted, is NaN where no class can be told from the rest, and
    without `rank`.
    """
    k = logits.shape[1]
    predicted = logits.argmax(axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    weights = np.ones(len(labels)) if class_weights is None else class_weights[labels]
    losses = -log_p[np.arange(len(labels)), labels]
    total = weights.sum()
    return EpochMetrics(
        loss=float((weights * losses).sum() / total) if total > 0 else math.nan,
        accuracy=float((predicted == labels).mean()),
        macro_f1=_macro_f1(predicted, labels, k),
        auroc=_macro_auroc(log_p, labels) if rank else math.nan,
    )


def _macro_f1(predicted: np.ndarray, labels: np.ndarray, k: int) -> float:
    confusion = np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)
    support = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * np.diag(confusion)[support > 0] / support[support > 0]).mean())


def _macro_auroc(log_p: np.ndarray, labels: np.ndarray) -> float:
    k = log_p.shape[1]
    # Of two classes the second is the positive one.
    areas = [_auroc(log_p[:, c], labels == c) for c in ((1,) if k == 2 else range(k))]
    known = [a for a in areas if not math.isnan(a)]
    return float(np.mean(known)) if known else math.nan


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Compute the chance that a positive outranks a negative, ties counting half."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return math.nan
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(size) - (size - 1) / 2
    ranks = mean_rank[group][positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


# --- early stopping -----------------------------------------------------------------------------


def score_epoch(row: Mapping[str, float], monitor: Monitor) -> float:
    """Read the monitored validation metric from a row of the history; more is better.

    A metric that is not a number (diverged, or not defined on this split) is the worst there is.
    """
    value = row[f"validation_{monitor}"]
    if math.isnan(value):
        return -math.inf
    return -value if monitor == "loss" else value


def find_best(history: Sequence[Mapping[str, float]], monitor: Monitor) -> int:
    """Find the index of the best epoch; of equals that of least validation loss, then the first."""

    def rank(index: int) -> tuple[float, float]:
        row = history[index]
        return score_epoch(row, monitor), score_epoch(row, "loss")

    return max(range(len(history)), key=rank)


def is_finished(history: Sequence[Mapping[str, float]], recipe: Recipe) -> bool:
    """Say whether training is over: all epochs done, or patience at its end."""
    if len(history) >= recipe.epochs:
        return True
    if not history:
        return False
    return len(history) - 1 - find_best(history, recipe.monitor) >= recipe.patience


def write_history(result: FitResult, path: Path) -> None:
    """Write ``history.csv``: one row an epoch, numbers to six significant digits, NaN empty."""
    columns = list(result.history[0])
    lines = [",".join(columns)]
    lines += [",".join(_render(row[c]) for c in columns) for row in result.history]
    write_text("\n".join(lines) + "\n", path)


def _render(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
