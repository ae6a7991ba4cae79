"""The multilayer perceptron's recipe for the shared training loop."""

from dataclasses import replace
from pathlib import Path

import torch

from histofuse.core.progress import report
from histofuse.core.seeding import derive_seed
from histofuse.models.mlp import Mlp, one_thread
from histofuse.params.tabular import MlpParams
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.history import FitResult
from histofuse.training.fitting.recipe import (
    Monitor,
    ParameterGroup,
    Recipe,
    Rows,
    make_schedule,
    read_recipe,
)
from histofuse.training.recorder import Recorder
from histofuse.training.rows import LabelledRows

# With fewer validation rows of a class, ranking metrics jump from 0 to 1 on a single patient.
MONITOR_MINIMUM = 5


def fit_mlp(
    train: LabelledRows,
    validation: LabelledRows,
    params: MlpParams,
    seed: int,
    *,
    recorder: Recorder,
    checkpoints: Path | None = None,
    show_progress: bool = True,
) -> tuple[Mlp, FitResult, Monitor]:
    """Train with Adam, warm-up, step decay and early stopping.

    If the validation set is too small to rank on, its loss is monitored instead, with a warning.
    Returns the network with the weights of its best epoch, in eval mode on the CPU; the history;
    and the validation metric that chose the epoch.
    """
    torch.manual_seed(derive_seed(seed, "mlp", "init"))
    outputs = 1 if params.loss == "bce" else 2
    network = Mlp(train.x.shape[1], params.hidden, outputs, params.dropout)
    monitor = choose_monitor(validation, params)
    recipe = make_recipe(network, train, params, seed, monitor)
    recipe = replace(recipe, show_progress=show_progress)
    with one_thread():
        rows = _to_rows(train), _to_rows(validation)
        result = fit(network, *rows, recipe, checkpoints, recorder)
    return network, result, monitor


def make_recipe(
    network: Mlp, train: LabelledRows, params: MlpParams, seed: int, monitor: Monitor
) -> Recipe:
    """Translate the params into a recipe for the loop; weighted rows are drawn by their weight."""
    shared = read_recipe(params, torch.from_numpy(train.target), 2)
    if train.weight is not None:
        drawn, weight = shared["row_weights"], torch.from_numpy(train.weight)
        shared["row_weights"] = weight if drawn is None else weight * drawn
    steps = {k: getattr(params, k) for k in ("step_epochs", "step_factor", "warmup_epochs")}
    return Recipe(
        **shared,
        monitor=monitor,
        seed=derive_seed(seed, "mlp"),
        groups=(ParameterGroup("all", tuple(network.parameters()), params.learning_rate),),
        schedule=make_schedule("step", params.epochs, **steps),
    )


def choose_monitor(validation: LabelledRows, params: MlpParams) -> Monitor:
    """Choose the requested metric, or the loss if a class has too few validation rows."""
    fewest = min(validation.positives, len(validation) - validation.positives)
    if params.monitor == "loss" or fewest >= MONITOR_MINIMUM:
        return params.monitor
    report(
        f"warning: {fewest} validation rows of the rarer class, fewer than {MONITOR_MINIMUM}:"
        f" early stopping monitors the loss, not {params.monitor}"
    )
    return "loss"


def _to_rows(rows: LabelledRows) -> Rows:
    return Rows((torch.from_numpy(rows.x),), torch.from_numpy(rows.target))
