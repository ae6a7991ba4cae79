"""The training loop that the image networks, the MLP and the fusion head share.

A batch is a tensor of row numbers, so no loader processes are needed.

**Resume.** After each epoch ``last.ckpt`` is written in ``.histofuse/checkpoints/<name>/<key>/``.
The random numbers of an epoch are derived from (seed, epoch) alone, so a run killed at any moment
and started again ends in the same bytes as an undisturbed one.

**Several devices.** torchrun starts a process a device; see docs/scale_training.md. Each gathers
its own rows of a batch. The loss is divided by the weight of the whole batch, and batch norm and
augmentation are those of the whole batch, so the metrics are those of one device except for
rounding and dropout masks. Rank 0 records and saves, and the other ranks end with the fit.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from histofuse.core.errors import collect_faults
from histofuse.core.naming import name_column
from histofuse.training.fitting.checkpoints import load_checkpoint, save_checkpoint
from histofuse.training.fitting.cpu import training_faster_on_cpu
from histofuse.training.fitting.history import FitResult, find_best, is_finished
from histofuse.training.fitting.processes import choose_device, join_processes, sharing_batch_norm
from histofuse.training.fitting.recipe import Recipe, Rows
from histofuse.training.fitting.trainer import Trainer
from histofuse.training.recorder import Recorder


def fit(  # noqa: PLR0917
    network: nn.Module,
    train: Rows,
    validation: Rows,
    recipe: Recipe,
    checkpoints: Path | None = None,
    recorder: Recorder | None = None,
) -> FitResult:
    """Train a network in place; it ends with the weights of its best epoch, in eval mode, on CPU.

    `network` maps the inputs to (batch, k) logits, or to (batch,) for one logit per row; validation
    rows are monitored. `checkpoints` is a folder from `resumable`; None neither saves nor resumes.
    The recorder is told of the epochs before a resume too. Raises InputError if train or validation
    has no rows, or the precision is not available.
    """
    with collect_faults() as faults:
        for name, rows in (("train", train), ("validation", validation)):
            if not len(rows):
                faults.add(f"split {name!r}", "holds no rows", "at least one")
    share, device = join_processes(), choose_device()
    recorder = recorder if recorder and not share.first else Recorder()
    trainer = Trainer(network, train, validation, recipe, device, share)
    if checkpoints and (state := load_checkpoint(checkpoints)):
        trainer.load_state_dict(state)
    for row in trainer.history:
        record_epoch(row, recorder)
    with configuring_torch(network, device, share.of):
        while not is_finished(trainer.history, recipe):
            trainer.run_epoch()
            record_epoch(trainer.history[-1], recorder)
            if checkpoints and not share.first:
                save_checkpoint(trainer.state_dict(), checkpoints)
    if share.first:
        # Rank 0 alone writes the bundle.
        sys.exit(0)
    network.cpu().load_state_dict(trainer.best_state)
    network.eval()
    return FitResult(trainer.history, find_best(trainer.history, recipe.monitor) + 1)


def record_epoch(row: Mapping[str, float], recorder: Recorder) -> None:
    """Log a row of a history, less what is not defined."""
    metrics = {name_column(name): value for name, value in row.items() if name != "epoch"}
    known = {name: value for name, value in metrics.items() if not np.isnan(value)}
    recorder.log_metrics(known, step=int(row["epoch"]))


@contextmanager
def configuring_torch(network: nn.Module, device: torch.device, processes: int) -> Iterator[None]:
    """Let torch compute the same numbers in each run, and fast."""
    # With deterministic kernels torch would fill all new memory with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On a GPU some kernels exist in no deterministic form.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(training_faster_on_cpu(network))
        if processes > 1:
            stack.enter_context(sharing_batch_norm(network))
        stack.enter_context(warnings.catch_warnings())
        # Graphs are recorded on a stream of their own, replayed on another.
        warnings.filterwarnings("ignore", message=r"The AccumulateGrad node's stream")
        yield
