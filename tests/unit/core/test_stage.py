import sys
import time
from unittest.mock import MagicMock

import pytest

from histofuse.core.errors import Fault, InputError
from histofuse.core.stage import StageTime, read_stage_times, run_stage


def nap(*_: str) -> None:
    time.sleep(0.05)


def fail(*_: str) -> None:
    raise InputError([Fault("a.csv", "is empty", "rows")])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pipelines/train_tabular.py", "mlp"])
    monkeypatch.setenv("DVC_STAGE", "train_tabular@mlp")
    monkeypatch.setattr("histofuse.core.stage.CodeList", MagicMock())  # see test_code.py
    return tmp_path


def test_a_stage_that_ends_well_notes_its_seconds(here):
    run_stage(nap)
    times = read_stage_times(here)
    assert list(times) == ["train_tabular@mlp"]
    assert 0.05 <= times["train_tabular@mlp"].work < 5
    assert times["train_tabular@mlp"].start_up > 0


def test_a_stage_that_fails_notes_nothing(here):
    with pytest.raises(SystemExit):
        run_stage(fail)
    assert read_stage_times(here) == {}


@pytest.mark.parametrize(("processes", "shared"), [("1", False), ("2", True)])
def test_torchrun_may_start_one_process_or_a_stage_that_is_shared(
    here, monkeypatch, processes, shared
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", processes)
    run_stage(nap, shared=shared)
    assert read_stage_times(here)


def test_torchrun_may_not_start_a_stage_twice(here, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match=r"torchrun: 2 processes for this stage; expected one"):
        run_stage(nap)
    assert read_stage_times(here) == {}


def test_a_stage_run_by_hand_notes_nothing(here, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    run_stage(nap)
    assert not (here / ".histofuse").exists()


def test_the_longest_stage_comes_first(here, monkeypatch):
    for name, pause in (("embed", 0.0), ("patches", 0.03)):
        monkeypatch.setenv("DVC_STAGE", name)
        run_stage(lambda *_, pause=pause: time.sleep(pause))
    assert list(read_stage_times(here)) == ["patches", "embed"]


def test_total_is_start_up_and_work():
    assert StageTime(start_up=1.5, work=2.0).total == 3.5
