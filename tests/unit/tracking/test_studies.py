"""Studies as nested runs: whole, idempotent, rebuilt from what DVC holds."""

import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from histofuse.core.errors import RegistryError
from histofuse.studies.results import write_study
from histofuse.studies.trials import State, StudySpec, TrialRecord
from histofuse.tracking.names import STATE_TAG, STUDIES_EXPERIMENT, STUDY_TAG, TRIAL_TAG
from histofuse.tracking.store import Store, open_store
from histofuse.tracking.studies import (
    PARENT_TAG,
    StudyRecorder,
    StudyWriter,
    open_observer,
    publish_studies,
)

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "augmentation.hue": {"type": "float", "low": 0.0, "high": 0.1, "log": False},
}
SPEC = StudySpec(
    "resnet18", "ab" * 32, "macro_f1", "validation", "maximize", SPACE, {},
    {"trials": 4, "sampler": "tpe"}, 1, {"patches": "cd" * 32}, "simulated",
)  # fmt: skip


def make_trial(number, state: State = "COMPLETE", value=None, **more):
    params = {"learning_rate": 0.01 * (number + 1), "augmentation.hue": 0.05}
    return TrialRecord(number, state, value, params, **more)


TRIALS = [
    make_trial(0, value=0.5, scores={"cv/auroc": 0.9}, steps={"cv/auroc/fold": [0.8, 1.0]}),
    make_trial(1, "PRUNED", steps={"search/macro_f1": [0.1, 0.2]}),
    make_trial(2, "FAIL", reason="ValueError: no"),
    make_trial(3, value=0.7),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(STUDIES_EXPERIMENT)


def write_study_runs(spec, trials, store):
    return StudyWriter(store).write(spec, trials)


def read(store):
    runs = store.find_runs(STUDY_TAG, SPEC.study_id)
    (parent,) = [r for r in runs if TRIAL_TAG not in r.data.tags]
    trials = {int(r.data.tags[TRIAL_TAG]): r for r in runs if TRIAL_TAG in r.data.tags}
    assert len(trials) == len(runs) - 1
    return parent, trials


def test_a_study_is_a_run_and_its_trials_are_nested_in_it(store):
    write_study_runs(SPEC, TRIALS, store)
    parent, trials = read(store)

    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["search/macro_f1"] == 0.7
    assert parent.data.metrics["trials/pruned"] == 1
    assert parent.data.tags["histofuse.best.learning_rate"] == "0.04"
    assert parent.data.params["space.learning_rate.high"] == "0.1"
    assert [d.dataset.name for d in parent.inputs.dataset_inputs] == ["patches"]
    assert {r.data.tags[PARENT_TAG] for r in trials.values()} == {parent.info.run_id}
    statuses = {n: (r.info.status, r.data.tags[STATE_TAG]) for n, r in trials.items()}
    assert statuses == {
        0: ("FINISHED", "COMPLETE"), 1: ("FINISHED", "PRUNED"),
        2: ("FAILED", "FAIL"), 3: ("FINISHED", "COMPLETE"),
    }  # fmt: skip
    names = [trials[n].info.run_name for n in (0, 1)]
    assert names == ["resnet18 trial 0", "resnet18 trial 1 (pruned)"]
    assert trials[0].data.params == {"learning_rate": "0.01", "augmentation.hue": "0.05"}
    assert trials[0].data.metrics["cv/auroc"] == 0.9
    assert store.read_steps(trials[0].info.run_id, "cv/auroc/fold") == {0, 1}
    assert trials[2].data.tags["histofuse.reason"] == "ValueError: no"


def test_trials_observed_again_are_not_written_again(store):
    write_study_runs(SPEC, TRIALS[:2], store)
    parent, before = read(store)
    assert parent.info.status == "RUNNING"
    write_study_runs(SPEC, TRIALS, store)
    write_study_runs(SPEC, TRIALS, store)
    parent, after = read(store)
    assert len(after) == 4
    assert all(after[n].info.run_id == before[n].info.run_id for n in before)
    assert parent.info.status == "FINISHED"


def describe(store):
    """Describe each study's run: trials, best value, the best's own params, status."""
    runs = store.find_runs(STUDY_TAG, SPEC.study_id)
    nested = [r for r in runs if TRIAL_TAG in r.data.tags]
    return [
        (
            sorted(
                int(r.data.tags[TRIAL_TAG])
                for r in nested
                if r.data.tags[PARENT_TAG] == parent.info.run_id
            ),
            parent.data.metrics["search/macro_f1"],
            parent.data.metrics["trials/complete"],
            parent.data.tags["histofuse.best.learning_rate"],
            parent.info.status,
        )
        for parent in runs
        if TRIAL_TAG not in parent.data.tags
    ]


SHORT_RUN = ([0, 1, 2, 3], 0.7, 2.0, "0.04", "FINISHED")
LONG_RUN = ([0, 1, 2, 3, 4], 0.9, 3.0, "0.05", "FINISHED")


def test_a_study_restored_after_a_longer_one_is_not_mixed_with_it(store):
    longer = replace(SPEC, settings={**SPEC.settings, "trials": 5})
    folder = Path("studies/resnet18")
    write_study(longer, [*TRIALS, make_trial(4, value=0.9)], folder, lambda *_: None)
    publish_studies()
    write_study(SPEC, TRIALS, folder, lambda *_: None)
    publish_studies()
    assert describe(store) == [LONG_RUN, SHORT_RUN]
    write_study(longer, [*TRIALS, make_trial(4, value=0.9)], folder, lambda *_: None)
    assert publish_studies() == ([], ["resnet18"])


def test_a_longer_study_is_a_run_of_its_own(store):
    write_study_runs(SPEC, TRIALS, store)
    longer = replace(SPEC, settings={**SPEC.settings, "trials": 5})
    write_study_runs(longer, [*TRIALS, make_trial(4, value=0.9)], store)
    assert describe(store) == [SHORT_RUN, LONG_RUN]


def test_a_study_run_again_with_other_results_is_a_run_of_its_own(store):
    write_study_runs(SPEC, TRIALS, store)
    other = [*TRIALS[:3], make_trial(3, value=0.6)]
    for count in (1, 4, 4):
        write_study_runs(SPEC, other[:count], store)
    write_study_runs(SPEC, TRIALS, store)
    assert describe(store) == [SHORT_RUN, ([0, 1, 2, 3], 0.6, 2.0, "0.04", "FINISHED")]


def test_an_incomplete_trial_is_written_again(store):
    parent = write_study_runs(SPEC, TRIALS[:1], store)
    tags = {STUDY_TAG: SPEC.study_id, TRIAL_TAG: "1", PARENT_TAG: parent}
    half = store.create_run("resnet18 trial 1", tags).info.run_id
    write_study_runs(SPEC, TRIALS, store)
    _, trials = read(store)
    assert len(trials) == 4
    assert trials[1].info.run_id != half
    assert trials[1].info.status == "FINISHED"


def test_a_trial_that_took_the_number_of_a_lost_one_is_put_right(store):
    # Trial 2 runs, so the one after it is told as 3; when 2 is lost, that one becomes the third.
    third = make_trial(3, value=0.6)
    write_study_runs(SPEC, [*TRIALS[:2], third], store)
    told = [*TRIALS[:2], replace(third, number=2), make_trial(3, value=0.8)]
    write_study_runs(SPEC, told, store)

    _, trials = read(store)
    values = {n: r.data.metrics.get("search/macro_f1") for n, r in trials.items()}
    assert values == {0: 0.5, 1: 0.2, 2: 0.6, 3: 0.8}
    assert trials[2].data.params["learning_rate"] == str(third.params["learning_rate"])


def test_two_writers_of_one_study_write_it_once(store, monkeypatch):
    create = Store.create_run

    def write_slowly(*args, **kwargs):
        time.sleep(0.1)  # long enough for the other to look in between
        return create(*args, **kwargs)

    assert store.experiment_id
    monkeypatch.setattr(Store, "create_run", write_slowly)
    servers = [open_store(STUDIES_EXPERIMENT) for _ in range(2)]
    for server in servers:
        server.database = None  # a server has no file to lock
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda server: write_study_runs(SPEC, TRIALS, server), servers))

    assert sorted(read(store)[1]) == [0, 1, 2, 3]


def test_a_trial_of_many_epochs_is_written_to_its_last(store):
    curves = {f"val/{name}/epoch": [float(step) for step in range(900)] for name in "abc"}
    write_study_runs(SPEC, [make_trial(0, value=0.5, steps=curves)], store)
    run_id = read(store)[1][0].info.run_id
    for name in curves:
        assert store.read_steps(run_id, name) == set(range(900))


class Counting:
    """Counts the calls of MLflow's client."""

    def __init__(self, client):
        self._client, self.calls = client, Counter()

    def __getattr__(self, name):
        self.calls[name] += 1
        return getattr(self._client, name)


def test_a_trial_costs_three_calls_and_one_known_already_none(store):
    writer, long = StudyWriter(store), replace(SPEC, settings={**SPEC.settings, "trials": 20})
    writer.write(long, TRIALS[:2])
    counting = Counting(store.client)
    store.__dict__["client"] = counting
    more = [*TRIALS[:2], *(make_trial(n, value=0.1) for n in range(2, 12))]
    writer.write(long, more)
    assert counting.calls == {
        "get_run": 1,  # is the study still this one's?
        "create_run": 10, "log_batch": 10 + 1, "set_terminated": 10,  # and the study's own counts
    }  # fmt: skip

    counting.calls.clear()
    writer.write(long, more)
    assert counting.calls == {"get_run": 1}


def test_alternating_writers_write_each_trial_once(store):
    one, other = StudyWriter(store), StudyWriter(store)
    for writer, count in ((one, 1), (other, 3), (one, 4), (other, 4)):
        writer.write(SPEC, TRIALS[:count])
    assert sorted(read(store)[1]) == [0, 1, 2, 3]


def test_a_writer_completes_what_a_killed_one_left(store, monkeypatch):
    here, elsewhere = StudyWriter(store), StudyWriter(store)
    here.write(SPEC, TRIALS[:1])
    with monkeypatch.context() as patch:
        patch.setattr(Store, "end_run", kill)
        with pytest.raises(KeyboardInterrupt):
            elsewhere.write(SPEC, TRIALS[:2])
    half = read(store)[1][1].info
    assert half.status == "RUNNING"
    here.write(SPEC, TRIALS)

    _, trials = read(store)
    assert sorted(trials) == [0, 1, 2, 3]
    assert trials[1].info.run_id != half.run_id
    assert trials[1].info.status == "FINISHED"


def kill(*_, **__):
    raise KeyboardInterrupt


def test_a_study_with_a_deleted_run_is_written_again(store):
    writer = StudyWriter(store)
    writer.write(SPEC, TRIALS[:2])
    for run in store.find_runs(STUDY_TAG, SPEC.study_id):
        store.client.delete_run(run.info.run_id)
    writer.write(SPEC, TRIALS)
    assert len(read(store)[1]) == 4


def test_queued_observations_are_written_once(store, monkeypatch):
    told, go_on = [], threading.Event()

    def write(_, __, trials):
        assert go_on.wait(30)
        told.append(len(trials))

    monkeypatch.setattr(StudyWriter, "write", write)
    recorder = StudyRecorder(store, 0.0)
    for count in (1, 2, 3, 4):
        recorder.observe(SPEC, TRIALS[:count])
    go_on.set()
    recorder.close()
    assert told[-1] == 4
    assert len(told) <= 2  # the one under way when the others came, and the last


def test_reasons_of_failure_are_hidden_for_restricted_data(store):
    spec = replace(SPEC, source="restricted")
    failed = make_trial(2, "FAIL", reason="ValueError: subject_id 10004235 has no weight")
    trials = [*TRIALS[:2], failed, TRIALS[3]]
    write_study(spec, trials, Path("studies/resnet18"), lambda *_: None)
    publish_studies()

    parent, runs = read(store)
    assert runs[2].data.tags["histofuse.reason"] == "ValueError"
    folder = Path(parent.info.artifact_uri.removeprefix("file://"))
    table = (folder / "study" / "trials.csv").read_text()
    assert "ValueError" in table
    assert not any("10004235" in f.read_text() for f in folder.rglob("*") if f.is_file())


def test_an_interrupted_study_continues_in_the_same_runs(store):
    with open_observer(0.0) as recorder:
        recorder.observe(SPEC, TRIALS[:2])
    parent, before = read(store)
    with open_observer(0.0) as recorder:
        recorder.observe(SPEC, TRIALS)
    after = read(store)
    assert after[0].info.run_id == parent.info.run_id
    assert {n: after[1][n].info.run_id for n in before} == {
        n: r.info.run_id for n, r in before.items()
    }


def test_publishing_skips_what_was_recorded_live(store):
    odd = make_trial(
        4, value=0.1, scores={"cv/rounds": 12.0}, steps={"cv/loss/fold": [float("nan"), 1e-17]}
    )
    odd = replace(odd, params={**odd.params, "hidden": [256, 128], "flips": True, "name": "a,b"})
    spec = replace(SPEC, settings={**SPEC.settings, "trials": 5})
    with open_observer(0.0) as recorder:
        recorder.observe(spec, [*TRIALS, odd])
    before = {n: r.info.run_id for n, r in read(store)[1].items()}
    write_study(spec, [*TRIALS, odd], Path("studies/resnet18"), lambda *_: None)
    assert publish_studies() == (["resnet18"], [])

    assert {n: r.info.run_id for n, r in read(store)[1].items()} == before


def test_the_recorder_closes_after_writing_all(store):
    with open_observer(0.0) as recorder:
        recorder.observe(SPEC, TRIALS[:2])
        recorder.observe(SPEC, TRIALS)
    assert len(read(store)[1]) == 4


def test_a_short_study_is_left_to_publish(store):
    with open_observer(60.0) as recorder:
        recorder.observe(SPEC, TRIALS)
    assert store.find_runs(STUDY_TAG) == []
    write_study(SPEC, TRIALS, Path("studies/resnet18"), lambda *_: None)
    assert publish_studies(Path("studies/resnet18")) == (["resnet18"], [])
    assert len(read(store)[1]) == 4


def test_publishing_without_news_does_not_import_mlflow(store):
    write_study(SPEC, TRIALS, Path("studies/resnet18"), lambda *_: None)
    publish_studies()
    command = "import sys; from histofuse.tracking.studies import publish_studies as publish\n"
    command += "print(publish().unchanged, 'mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['resnet18'] False"


def test_a_store_that_fails_does_not_stop_a_study(store, monkeypatch, capsys):
    def fail(*_, **__):
        raise RegistryError("gone")

    monkeypatch.setattr(StudyWriter, "write", fail)
    recorder = StudyRecorder(store, 0.0)
    for _ in range(3):
        recorder.observe(SPEC, TRIALS)
    recorder.close()
    assert capsys.readouterr().err.count("gone") == 1


def test_polars_is_complete_before_the_thread_that_imports_mlflow_starts(store, monkeypatch):
    present = []
    monkeypatch.setattr(StudyWriter, "write", lambda *_: present.append("polars" in sys.modules))
    monkeypatch.delitem(sys.modules, "polars", raising=False)
    recorder = StudyRecorder(store, 0.0)
    recorder.observe(SPEC, TRIALS)
    recorder.close()
    assert present == [True]


def test_publishing_rebuilds_what_dvc_holds_and_writes_nothing_twice(store):
    def draw(spec, trials, folder):
        (folder / "history.png").write_bytes(b"png")

    assert publish_studies() == ([], [])
    write_study(SPEC, TRIALS, Path("studies/resnet18"), draw)
    assert publish_studies() == (["resnet18"], [])
    parent, trials = read(store)
    assert len(trials) == 4
    folder = Path(parent.info.artifact_uri.removeprefix("file://")) / "study"
    assert (folder / "figures" / "history.png").is_file()
    assert (folder / "trials.csv").is_file()
    assert publish_studies() == ([], ["resnet18"])

    store.client.delete_run(trials[0].info.run_id)
    Path("studies/resnet18/figures/history.png").write_bytes(b"other")
    assert publish_studies() == (["resnet18"], [])
    assert len(read(store)[1]) == 4


def test_models_are_not_drowned_in_trials(store):
    write_study_runs(SPEC, TRIALS, store)
    assert open_store().find_runs(STUDY_TAG, SPEC.study_id) == []
