"""Fits: what they learn and record, and that killed ones resume to the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from histofuse.core.errors import InputError
from histofuse.training.fitting.batches import compute_logits
from histofuse.training.fitting.checkpoints import LAST
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.history import (
    measure,
    write_history,
)
from histofuse.training.fitting.recipe import (
    ParameterGroup,
    Recipe,
    Rows,
)
from histofuse.training.recorder import Recorder


def make_recipe(network: nn.Module, **changes) -> Recipe:
    values = {
        "epochs": 4,
        "batch_size": 16,
        "patience": 4,
        "monitor": "macro_f1",
        "seed": 1,
        "groups": (ParameterGroup("all", tuple(network.parameters()), 1e-2),),
    }
    return Recipe(**{**values, **changes})


class Recorded(Recorder):
    def __init__(self) -> None:
        self.epochs: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step) -> None:
        self.epochs.append((step, dict(metrics)))


def make_problem(n: int = 96) -> tuple[nn.Module, Rows, Rows]:
    torch.manual_seed(0)
    x = torch.randn(n, 4)
    y = (x[:, 0] > 0).long()
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    return network, Rows((x[: n // 2],), y[: n // 2]), Rows((x[n // 2 :],), y[n // 2 :])


def test_a_fit_learns_records_and_keeps_its_best_epoch():
    network, train, validation = make_problem()
    # The rate is thrown up in the last epoch, so that the best is not the last.
    recipe = make_recipe(network, epochs=8, patience=9, schedule=lambda e: 3.0 if e < 7 else 1e4)
    recorder = Recorded()
    result = fit(network, train, validation, recipe, recorder=recorder)

    best = result.history[result.best_epoch - 1]
    assert [row["epoch"] for row in result.history] == list(range(1, 9))
    assert best["validation_macro_f1"] > 0.85
    assert result.best_epoch < 8
    logits = compute_logits(network, validation.inputs)
    again = measure(logits, validation.labels.numpy())
    assert again["macro_f1"] == pytest.approx(best["validation_macro_f1"])
    assert again["loss"] == pytest.approx(best["validation_loss"], rel=1e-4)
    assert [step for step, _ in recorder.epochs] == list(range(1, 9))
    assert recorder.epochs[0][1]["validation/f1/macro"] == result.history[0]["validation_macro_f1"]
    assert recorder.epochs[7][1]["learning_rate/all"] == pytest.approx(100)


def test_the_loss_is_divided_by_the_weight_of_the_batch():
    network, train, validation = make_problem()
    weights = torch.tensor([3.0, 1.0])
    recipe = make_recipe(network, epochs=1, schedule=lambda _: 0.0, class_weights=weights)
    row = fit(network, train, validation, recipe).history[0]
    expected = nn.functional.cross_entropy(
        network(*validation.inputs), validation.labels, weight=weights
    )
    assert row["validation_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_split_without_rows_is_refused():
    network, train, _ = make_problem()
    empty = Rows((torch.empty(0, 4),), torch.empty(0, dtype=torch.long))
    with pytest.raises(InputError, match="'validation': holds no rows"):
        fit(network, train, empty, make_recipe(network))


class Killer(Recorded):
    """Kills its own process, as the kernel would, when an epoch is recorded."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def log_metrics(self, metrics, step) -> None:
        if step == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def run_fit(out: Path, kill_in_epoch: int = 0) -> None:
    """Fit three epochs with checkpoints under `out` and write what came of it."""
    network, train, validation = make_problem()
    recipe = make_recipe(network, epochs=3)
    checkpoints, recorder = out / "checkpoints", Killer(kill_in_epoch)
    result = fit(network, train, validation, recipe, checkpoints, recorder)
    write_history(result, out / "history.csv")
    save_file(network.state_dict(), out / "weights.safetensors")


def test_a_run_killed_and_resumed_ends_in_the_bytes_of_an_undisturbed_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    run_fit(whole)
    code = f"import test_fit, pathlib; test_fit.run_fit(pathlib.Path({str(broken)!r}), 2)"
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert killed.stderr == b""
    state = torch.load(broken / "checkpoints" / LAST, weights_only=True)
    assert len(state["history"]) == 1
    assert not (broken / "history.csv").exists()

    run_fit(broken)
    for name in ("weights.safetensors", "history.csv"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


def test_a_run_killed_after_its_last_epoch_trains_no_more(tmp_path):
    run_fit(tmp_path)
    first = (tmp_path / "weights.safetensors").read_bytes()
    before = (tmp_path / "checkpoints" / LAST).stat().st_mtime_ns
    run_fit(tmp_path)
    assert (tmp_path / "checkpoints" / LAST).stat().st_mtime_ns == before
    assert (tmp_path / "weights.safetensors").read_bytes() == first


class Interrupter(Recorded):
    """Interrupts the training, as Ctrl-C does, when the second epoch is recorded."""

    def log_metrics(self, metrics, step) -> None:
        if step == 2:
            raise KeyboardInterrupt


def test_an_interrupt_reaches_the_caller_and_the_run_resumes(tmp_path):
    network, train, validation = make_problem()
    with pytest.raises(KeyboardInterrupt):
        fit(network, train, validation, make_recipe(network), tmp_path, Interrupter())
    again, _, _ = make_problem()
    recorder = Recorded()
    resumed = fit(again, train, validation, make_recipe(again), tmp_path, recorder)
    whole, _, _ = make_problem()
    assert resumed == fit(whole, train, validation, make_recipe(whole))
    assert [step for step, _ in recorder.epochs] == [1, 2, 3, 4]
    for mine, other in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
