"""Fits that test_processes.py runs in one process and in two: `python ranks.py OUT EPOCHS`."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from histofuse.training.fitting import trainer
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.processes import Draws
from histofuse.training.fitting.recipe import (
    Inputs,
    ParameterGroup,
    Recipe,
    Rows,
    Sources,
    compute_class_weights,
)
from histofuse.training.fitting.stored import iterate_rows

ROWS, BATCH = 37, 12  # batches of 10 and 9: shares differ within a batch


def make_rows(n: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 2, 5, 5, generator=generator)
    return Rows((images,), (images.mean(dim=(1, 2, 3)) > 0.05).long())


def make_network(*, normed: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if normed else nn.Identity()
    # A bias before a batch norm has a gradient of rounding errors alone, which Adam scales up.
    layers = [
        nn.Conv2d(2, 4, 3, bias=False),
        norm,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(4, 2))


def shake(inputs: Inputs, draws: Draws | None) -> Inputs:
    """Change each row by random numbers of its own."""
    (images,) = inputs
    return (images if draws is None else images + draws.uniform(1)[:, :, None, None],)


def freeze_at_first(network: nn.Module, epoch: int) -> None:
    network.train()
    network[0].requires_grad_(epoch > 0)


def run(*, normed: bool, epochs: int, checkpoints: Path | None = None) -> dict[str, object]:
    network, train = make_network(normed=normed), make_rows(ROWS, 1)
    recipe = Recipe(
        epochs=epochs,
        batch_size=BATCH,
        patience=9,
        monitor="auroc",
        seed=5,
        groups=(ParameterGroup("all", tuple(network.parameters()), 1e-2),),
        class_weights=compute_class_weights(train.labels, 2),
        prepare=shake,
        begin_epoch=freeze_at_first,
        show_progress=False,
    )
    result = fit(network, train, make_rows(23, 2), recipe, checkpoints)
    state: dict[str, Tensor] = network.state_dict()
    return {"history": result.history, "state": {k: v.tolist() for k, v in state.items()}}


WHOLE = {
    "normed": lambda: run(normed=True, epochs=2),
    "bare": lambda: run(normed=False, epochs=2),
}


def run_all(fits: Mapping[str, Callable[[], dict[str, object]]]) -> dict[str, object]:
    """Rank 0 gets all results; the others leave each fit through `SystemExit`."""
    found = {}
    for name, work in fits.items():
        try:
            found[name] = work()
        except SystemExit:
            continue
    return found


def note_rows(noted: list[list[int]]) -> None:
    """Note the rows that each gathering takes."""

    def iterate(inputs: Sources, batches: Iterable[Tensor], device: torch.device):
        for rows in batches:
            noted.append(rows.tolist())
            yield from iterate_rows(inputs, [rows], device)

    trainer.iterate_rows = iterate


if __name__ == "__main__":
    noted: list[list[int]] = []
    note_rows(noted)
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    found = run_all(WHOLE)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (folder / f"rows{rank}.json").write_text(json.dumps(noted))
    kept = folder / "checkpoints"
    found |= run_all({"kept": lambda: run(normed=True, epochs=epochs, checkpoints=kept)})
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
