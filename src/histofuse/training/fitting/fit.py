"""The training loop that the image networks, the MLP and the fusion head share.

Data are held in memory as tensors; a batch is a tensor of row numbers, so no loader processes are
needed. The caller brings a network, `Rows` to train and to validate on, and a `Recipe`; `fit` runs
Lightning, stops early and leaves the network with the weights of its best epoch:

    torch.manual_seed(derive_seed(seed, "mlp", "init"))
    network = Mlp(...)                               # network(*inputs) -> logits
    recipe = Recipe(
        epochs=60, batch_size=256, patience=10, monitor="auroc", seed=seed,
        groups=(ParameterGroup("all", tuple(network.parameters()), 1e-3),),
        schedule=make_schedule("step", 60, step_epochs=20, step_factor=0.5, warmup_epochs=3),
        class_weights=compute_class_weights(labels, 2),
    )
    key = make_checkpoint_key(params.model_dump(), seed, {"encoded": digest}, digest_code(__name__))
    with resumable("mlp", key) as checkpoints:
        result = fit(network, Rows((x,), y), Rows((x_val,), y_val), recipe, checkpoints, recorder)
        ...                                          # write the bundle inside the block

**Resume.** After each epoch ``last.ckpt`` is written in ``.histofuse/checkpoints/<name>/<key>/``.
The random numbers of an epoch are derived from (seed, epoch) alone, so a run killed at any moment
and started again ends in the same bytes as an undisturbed one.

**Several devices.** Lightning takes all there are, or what torchrun has started. Each global batch
is split among the ranks, and each gathers only its own rows, in validation too. The loss is divided
by the weight of the global batch, and batch norm and augmentation are those of the whole batch, so
the metrics are those of one device except for rounding; only dropout masks are drawn by each rank
for itself. Rank 0 records and saves, and the other ranks end with the fit. A checkpoint of one
number of processes is resumed by any other.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from histofuse.core.errors import Fault, InputError
from histofuse.training.fitting.history import FitResult
from histofuse.training.fitting.recipe import Recipe, Rows
from histofuse.training.recorder import NullRecorder, Recorder


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
        network: ``network(*inputs) -> (batch, k)`` logits, or ``(batch,)`` for one logit per row.
        train: Rows to learn from.
        validation: Rows to monitor.
        recipe: Epochs, rates, weights and the rest.
        checkpoints: Folder from `resumable`; None neither saves nor resumes.
        recorder: Receives the metrics of each epoch, including epochs before a resume.

    Raises:
        InputError: If train or validation has no rows, or the precision is not available.
    """
    faults = [
        Fault(f"split {name!r}", "holds no rows", "at least one")
        for name, rows in (("train", train), ("validation", validation))
        if not len(rows)
    ]
    if faults:
        raise InputError(faults)
    # Lightning takes seconds to import: code that only reads models does not pay for it.
    from histofuse.training.fitting.trainer import run_fit

    recorder = recorder or NullRecorder()
    return run_fit(network, train, validation, recipe, checkpoints=checkpoints, recorder=recorder)
