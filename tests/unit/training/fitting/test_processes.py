"""Two processes under torchrun train as one does on the same batches."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from histofuse.training.fitting.checkpoints import LAST
from histofuse.training.fitting.processes import Draws, Share, report_idle_gpus

RANKS = Path(__file__).parent / "ranks.py"
ONE = [sys.executable, str(RANKS)]
TWO = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    str(RANKS),
]


def run(command: list[str], folder: Path, epochs: int) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*command, str(folder), str(epochs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, Any]:
    """Whole fits, and one that stops after its first epoch."""
    return run(ONE, folder / "one", epochs=1)


@pytest.fixture(scope="module")
def two(folder: Path, one: dict[str, Any]) -> dict[str, Any]:
    """The same whole fits, and the one that stopped, to its end."""
    shutil.copytree(folder / "one" / "checkpoints", folder / "two" / "checkpoints")
    return run(TWO, folder / "two", epochs=2)


@pytest.mark.parametrize("network", ["normed", "bare"])
def test_two_processes_give_the_metrics_and_weights_of_one(one, two, network):
    for ours, theirs in zip(one[network]["history"], two[network]["history"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-5)
    assert list(one[network]["state"]) == list(two[network]["state"])
    for name, values in one[network]["state"].items():
        torch.testing.assert_close(
            torch.tensor(two[network]["state"][name]),
            torch.tensor(values),
            atol=1e-5,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.usefixtures("one", "two")
def test_the_processes_gather_each_row_once_between_them(folder):
    (alone,) = (json.loads((folder / "one" / "rows0.json").read_text()),)
    shares = [json.loads((folder / "two" / f"rows{rank}.json").read_text()) for rank in (0, 1)]
    for whole, first, second in zip(alone, *shares, strict=True):
        assert first == whole[::2]
        assert second == whole[1::2]


def test_a_checkpoint_of_one_process_is_resumed_by_two(folder, one, two):
    state = torch.load(folder / "one" / "checkpoints" / LAST, weights_only=True)
    assert len(state["history"]) == 1
    for ours, theirs in zip(one["normed"]["history"], two["kept"]["history"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-5)


def test_a_row_gets_the_same_random_numbers_in_any_number_of_processes():
    def draw(share: Share) -> torch.Tensor:
        return Draws(torch.Generator().manual_seed(3), [5], share).uniform(2)

    whole = draw(Share())
    assert torch.equal(whole, torch.rand(5, 2, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(draw(Share(1, 2)), whole[1::2])


@pytest.mark.parametrize("launched", [False, True])
def test_idle_gpus_are_reported_with_the_command_that_uses_them(monkeypatch, capsys, launched):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    report_idle_gpus("pipelines/train_image.py resnet18")
    command = "torchrun --standalone --nproc-per-node 4 pipelines/train_image.py resnet18"
    assert (command in capsys.readouterr().err) is not launched
