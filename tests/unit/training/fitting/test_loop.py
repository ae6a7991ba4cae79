"""The shared loop: what is pure by value, and fits that are killed and resumed."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from torch import nn

from histofuse.core.errors import InputError
from histofuse.training.fitting.loop import (
    LAST,
    FitResult,
    ParameterGroup,
    Recipe,
    Rows,
    as_columns,
    compute_class_weights,
    compute_logits,
    compute_row_weights,
    find_best,
    fit,
    is_finished,
    make_checkpoint_key,
    make_schedule,
    measure,
    order_rows,
    resolve_precision,
    resumable,
    split_batches,
    write_history,
)

# --- what is pure -------------------------------------------------------------------------------


def test_schedules_by_value():
    step = make_schedule("step", 10, step_epochs=3, step_factor=0.5)
    assert [step(e) for e in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    cosine = make_schedule("cosine", 4)
    assert [cosine(e) for e in range(5)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    warm = make_schedule("step", 10, step_epochs=2, step_factor=0.1, warmup_epochs=3)
    assert [warm(e) for e in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1])


def test_class_weights_are_inverse_frequency_and_zero_for_an_absent_class():
    labels = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1])
    assert compute_class_weights(labels, 2).tolist() == pytest.approx([4, 4 / 7])
    assert compute_class_weights(labels, 3).tolist() == pytest.approx([8 / 3, 8 / 21, 0])


def test_the_weighted_sampler_draws_classes_equally():
    labels = torch.tensor([0] * 20 + [1] * 980)
    weights = compute_row_weights(labels, 2)
    order = order_rows(1000, weights, torch.Generator().manual_seed(0))
    assert len(order) == 1000
    assert labels[order].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_without_weights_each_row_is_visited_once_in_an_order_of_the_seed():
    orders = [order_rows(50, None, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert sorted(orders[0].tolist()) == list(range(50))
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()


@pytest.mark.parametrize(("n", "sizes"), [(65, [33, 32]), (64, [64]), (3, [3]), (129, [43] * 3)])
def test_batches_are_even_and_none_is_a_single_row(n, sizes):
    assert [len(b) for b in split_batches(torch.arange(n), 64)] == sizes


def test_a_single_logit_becomes_two_columns():
    logits = torch.tensor([-1.0, 2.0])
    expected = torch.sigmoid(logits)
    torch.testing.assert_close(as_columns(logits).softmax(dim=1)[:, 1], expected)
    assert as_columns(logits[:, None]).tolist() == as_columns(logits).tolist()


@pytest.mark.parametrize("k", [2, 3])
def test_metrics_equal_those_of_scikit_learn(k):
    rng = np.random.default_rng(k)
    labels = rng.integers(0, k, 200)
    logits = rng.normal(size=(200, k)) + np.eye(k)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = np.arange(1.0, k + 1)
    found = measure(logits, labels, weights)

    assert found.accuracy == pytest.approx((p.argmax(axis=1) == labels).mean())
    assert found.macro_f1 == pytest.approx(f1_score(labels, p.argmax(axis=1), average="macro"))
    assert found.loss == pytest.approx(log_loss(labels, p, sample_weight=weights[labels]))
    scores = p[:, 1] if k == 2 else p
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))


def test_ties_count_half_in_auroc():
    logits = np.array([[0.0, s] for s in (0.1, 0.5, 0.5, 0.5, 0.9)])
    # Pairs of a positive and a negative: 0.5 > 0.1, 0.5 = 0.5 twice, 0.9 above all three.
    assert measure(logits, np.array([0, 0, 1, 0, 1])).auroc == pytest.approx((1 + 2 * 0.5 + 3) / 6)


def test_auroc_without_a_second_class_is_not_a_number():
    found = measure(np.zeros((3, 2)), np.array([0, 0, 0]))
    assert math.isnan(found.auroc)
    assert found.macro_f1 == 1


def make_history(*scores: float, losses: tuple[float, ...] = ()) -> list[dict[str, float]]:
    losses = losses or (1.0,) * len(scores)
    rows = zip(scores, losses, strict=True)
    return [{"validation_macro_f1": s, "validation_loss": loss} for s, loss in rows]


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


def test_the_best_epoch_is_the_first_of_equals_but_for_a_lower_loss():
    assert find_best(make_history(0.1, 0.7, 0.7, 0.6), "macro_f1") == 1
    assert find_best(make_history(0.7, 0.7, losses=(0.9, 0.8)), "macro_f1") == 1
    assert find_best(make_history(0.1, math.nan), "macro_f1") == 0
    assert find_best(make_history(0.9, 0.1, losses=(0.9, 0.8)), "loss") == 1


def test_training_ends_with_patience_or_epochs():
    recipe = make_recipe(nn.Linear(1, 1), epochs=10, patience=2)
    assert not is_finished([], recipe)
    assert not is_finished(make_history(0.5, 0.4), recipe)
    assert is_finished(make_history(0.5, 0.4, 0.3), recipe)
    assert not is_finished(make_history(0.5, 0.4, 0.6), recipe)
    assert is_finished(make_history(*np.linspace(0, 1, 10)), recipe)


def test_the_checkpoint_key_hangs_on_all_it_should():
    keys = {
        make_checkpoint_key({"a": 1}, 1, {"x": "1"}),
        make_checkpoint_key({"a": 2}, 1, {"x": "1"}),
        make_checkpoint_key({"a": 1}, 2, {"x": "1"}),
        make_checkpoint_key({"a": 1}, 1, {"x": "2"}),
    }
    assert len(keys) == 4
    assert make_checkpoint_key({"a": 1}, 1, {"x": "1"}) in keys


def test_checkpoints_go_when_the_run_succeeds_and_stay_when_it_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), resumable("m", "old", tmp_path) as folder:
        (folder / LAST).write_text("state")
        raise ZeroDivisionError
    assert (tmp_path / "m" / "old" / LAST).read_text() == "state"
    with resumable("m", "new", tmp_path) as folder:
        assert list(folder.iterdir()) == []
    assert not (tmp_path / "m").exists()


def test_history_is_written_as_csv_with_gaps_for_what_is_not_a_number(tmp_path):
    history = [{"epoch": 1.0, "train_loss": 1 / 3}, {"epoch": 2.0, "train_loss": math.nan}]
    write_history(FitResult(history, 1), tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text() == "epoch,train_loss\n1,0.333333\n2,\n"


def test_fp16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="fp16, but there is no GPU"):
        resolve_precision("fp16")
    assert resolve_precision("auto") in ("fp32", "bf16")


# --- fits ---------------------------------------------------------------------------------------


class Recorded:
    def __init__(self) -> None:
        self.epochs: list[tuple[int, dict[str, float]]] = []

    def log_params(self, params) -> None: ...

    def finish(self, bundle) -> None: ...

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
    assert again.macro_f1 == pytest.approx(best["validation_macro_f1"])
    assert again.loss == pytest.approx(best["validation_loss"], rel=1e-4)
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
    code = f"import test_loop, pathlib; test_loop.run_fit(pathlib.Path({str(broken)!r}), 2)"
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert killed.stderr == b""
    state = torch.load(broken / "checkpoints" / LAST, weights_only=True)
    assert len(state["histofuse"]["history"]) == 1
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
