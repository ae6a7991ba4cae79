import os
import random
import subprocess
import sys

import pytest

from histofuse.core.errors import RegistryError
from histofuse.core.processes import describe_process
from histofuse.tracking.names import PROCESS_TAG
from histofuse.tracking.publish import publish_all
from histofuse.tracking.recorder import open_recorder
from histofuse.tracking.store import Store, open_store


def runs():
    store = open_store()
    return store.client.search_runs([store.experiment_id], order_by=["start_time ASC"])


def train(bundle, live_after_seconds=0.0):
    with open_recorder("mlp", live_after_seconds) as recorder:
        recorder.log_params({"epochs": 2, "augmentation": {"flips": True}, "seed": 1})
        for epoch in (1, 2):
            recorder.log_metrics({"train/loss": 1.0 / epoch}, step=epoch)
        recorder.finish(bundle)


def test_live_run_is_adopted_and_completed_by_publish(project, make):
    train(project / "models/mlp")
    (live,) = runs()
    assert live.data.params["augmentation.flips"] == "True"

    publish_all()

    (adopted,) = [r for r in runs() if r.info.run_name == "mlp"]
    assert adopted.info.run_id == live.info.run_id
    assert len(runs()) == 2
    history = open_store().client.get_metric_history(live.info.run_id, "curve/train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]


def test_second_training_of_the_same_bundle_leaves_no_second_run(project):
    publish_all()
    train(project / "models/mlp")
    assert len(runs()) == 2
    assert publish_all().written == []


def test_quick_training_is_left_to_publish(project, monkeypatch):
    monkeypatch.setattr(Store, "create_run", None)
    train(project / "models/mlp", live_after_seconds=60.0)


def test_failed_training_is_marked(project):
    with pytest.raises(ZeroDivisionError), open_recorder("mlp", 0.0) as recorder:
        recorder.log_metrics({"train/loss": 1.0}, step=1)
        raise ZeroDivisionError
    assert [r.info.status for r in runs()] == ["FAILED"]


def test_run_of_a_killed_process_is_marked_by_the_next(project):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = describe_process().replace(f":{os.getpid()}", f":{ended.pid}")
    open_store().create_run("mlp", {PROCESS_TAG: process})
    open_store().create_run("mlp", {PROCESS_TAG: describe_process()})

    train(project / "models/mlp")

    assert [r.info.status for r in runs()] == ["KILLED", "RUNNING", "FINISHED"]


def test_training_continues_when_the_store_fails(project, monkeypatch, capsys):
    def fail(*_, **__):
        raise RegistryError("the server went away.")

    monkeypatch.setattr(Store, "log_batch", fail)
    train(project / "models/mlp")
    shown = capsys.readouterr().err
    assert shown.count("the server went away") == 1
    assert "training goes on" in shown


def test_random_numbers_of_training_stay_as_they_were(project):
    random.seed(0)
    expected = [random.random() for _ in range(3)]
    random.seed(0)
    with open_recorder("mlp", 0.0) as recorder:
        drawn = []
        for step in range(3):
            recorder.log_metrics({"train/loss": 1.0}, step)
            drawn.append(random.random())
    assert drawn == expected
