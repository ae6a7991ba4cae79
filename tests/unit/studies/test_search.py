"""Studies whose objective takes no time: what is tried, kept, given up and taken up again."""

import math
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from histofuse.core.errors import HistofuseError, InputError
from histofuse.core.processes import describe_process
from histofuse.params.base import load_section
from histofuse.params.fusion import FusionParams
from histofuse.params.tune import StudyParams
from histofuse.studies import search
from histofuse.studies.run import StudyJob, describe_study, make_spec
from histofuse.studies.search import Study, name_study
from histofuse.studies.space import from_stored
from histofuse.studies.storage import describe_storage, drop_half_line, open_storage
from histofuse.studies.trials import TrialRecord, TrialResult, find_best, list_ends

BASE = load_section(FusionParams, "fusion", Path(__file__).parents[3] / "params.yaml")
SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "hidden": {"type": "choice", "of": [[256, 128], [128]]},
    "batch_size": {"type": "int", "low": 64, "high": 512, "log": True},
}


def make_params(**changes):
    values = {"trials": 12, "metric": "auroc", "sampler": "tpe", "pruner": "median"}
    values |= {"pruner_warmup_trials": 3, "space": SPACE}
    return StudyParams.model_validate(values | changes)


def open_study(storage, seed=1, code="c", source="simulated", **changes):
    params = make_params(**changes)
    job = StudyJob(
        name="fusion", model="fusion", base=BASE, params=params, seed=seed, inputs={"pairs": "d"},
        source=source, measured_on="nothing", make_objective=lambda *_: score,
    )  # fmt: skip
    return Study(make_spec(job, code), params, str(storage))


def score(params, report):
    distance = abs(params.learning_rate - 0.003) / 0.003 + (len(params.hidden) == 1)
    for step in range(3):
        report(step, -distance * (3 - step))
    return TrialResult(-distance, {"cv/f1/macro": -distance}, {"cv/auroc/fold": [-distance] * 2})


def run(study, objective=score, most=1000):
    tried = 0
    while tried < most and study.try_next(objective, BASE):
        tried += 1
    return study.read_trials()


def test_one_worker_and_one_seed_try_the_same_twice(tmp_path):
    first, second = (run(open_study(tmp_path / name)) for name in ("a", "b"))
    assert first == second
    assert len(first) == 12
    assert [t.number for t in first] == list(range(12))
    assert any(t.state == "PRUNED" for t in first)
    assert run(open_study(tmp_path / "c", seed=2)) != first


def test_the_first_trial_is_that_of_the_params_and_the_best_no_worse(tmp_path):
    study = open_study(tmp_path / "j")
    trials = run(study)
    assert trials[0].params == {"learning_rate": 1e-4, "hidden": [256, 128], "batch_size": 256}
    best = find_best(study.spec, trials)
    assert best.value > trials[0].value
    assert best.scores == {"cv/f1/macro": best.value}
    assert best.steps == {"cv/auroc/fold": [best.value] * 2}


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(tmp_path):
    whole = run(open_study(tmp_path / "whole"))
    run(open_study(tmp_path / "parts"), most=5)

    def die(params, report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(open_study(tmp_path / "parts"), die)
    resumed = open_study(tmp_path / "parts")
    assert len(resumed.read_trials()) == 5
    assert run(resumed) == whole


def test_more_trials_continue_a_study(tmp_path):
    few = run(open_study(tmp_path / "j", trials=6))
    more = run(open_study(tmp_path / "j", trials=12))
    assert more[:6] == few
    assert run(open_study(tmp_path / "j", trials=6)) == few  # asked for fewer: the first of them


@pytest.mark.parametrize("change", [{"seed": 9}, {"code": "other"}, {"metric": "macro_f1"}])
def test_trials_that_cannot_be_compared_are_never_mixed(tmp_path, change):
    run(open_study(tmp_path / "j"))
    assert open_study(tmp_path / "j", **change).read_trials() == []


def test_the_objective_has_a_name_in_the_dashboard(tmp_path):
    for _ in range(2):
        study = open_study(tmp_path / "journal")
        assert study._study.metric_names == ["auroc on nothing"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "learning_rate",
            1.2e-5,
            ["the best learning_rate is near 1e-05, the low end of its range"],
        ),
        ("learning_rate", 9e-2, ["the best learning_rate is near 0.1, the high end of its range"]),
        ("learning_rate", 1e-3, []),
        ("batch_size", 512, ["the best batch_size is near 512, the high end of its range"]),
        ("hidden", [128], []),
        ("dropout", 0.0, []),
        ("dropout", 0.59, ["the best dropout is near 0.6, the high end of its range"]),
    ],
)
def test_a_best_value_near_an_end_of_its_range_is_said(tmp_path, key, value, said):
    dropout = {"type": "float", "low": 0.0, "high": 0.6, "log": False}
    spec = open_study(tmp_path / "journal", space=SPACE | {"dropout": dropout}).spec
    best = TrialRecord(3, "COMPLETE", 0.9, {key: value})
    assert list_ends(spec, best) == said
    lines = describe_study(spec, [best], tmp_path, "journal")
    assert [line for line in lines if "range" in line] == [
        f"{text}: widen tune.fusion.space" for text in said
    ]


def test_random_sampling_is_reproducible_too(tmp_path):
    first, second = (run(open_study(tmp_path / n, sampler="random", pruner="none")) for n in "ab")
    assert first == second
    assert all(t.state == "COMPLETE" for t in first)


def test_a_failing_trial_is_kept_with_its_reason_and_the_study_goes_on(tmp_path):
    def fail_sometimes(params, report):
        if len(params.hidden) == 1:
            raise RuntimeError("no memory left")
        return TrialResult(1.0)

    trials = run(open_study(tmp_path / "j", sampler="random"), fail_sometimes)
    failed = [t for t in trials if t.state == "FAIL"]
    assert failed
    assert all(t.reason == "RuntimeError: no memory left" and t.value is None for t in failed)
    assert len(trials) == 12


def test_a_reason_quotes_no_row_of_restricted_data(tmp_path):
    def fail_once(params, report):
        if params.learning_rate == BASE.learning_rate:
            raise ValueError("row 12: subject_id 10014729")
        return TrialResult(1.0)

    first = run(open_study(tmp_path / "j", source="restricted", trials=2), fail_once)[0]
    assert (first.state, first.reason) == ("FAIL", "ValueError")


def test_trial_after_trial_failing_ends_the_study(tmp_path):
    def fail(params, report):
        raise ValueError("broken")

    with pytest.raises(HistofuseError, match="last 5 trials failed, the last with: ValueError: br"):
        run(open_study(tmp_path / "j"), fail)
    mended = open_study(tmp_path / "j")
    mended.require_success()
    trials = run(mended)
    assert [t.reason for t in trials if t.state == "FAIL"] == ["ValueError: broken"] * 5
    assert len(trials) == 12


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_a_failure(tmp_path, value):
    trials = run(open_study(tmp_path / "j", trials=1), lambda params, report: TrialResult(value))
    assert (trials[0].state, trials[0].reason) == ("FAIL", f"ValueError: auroc is {value}")


def test_the_first_trial_is_never_given_up(tmp_path):
    """Other workers may overtake it, and it is what the best is compared with."""

    def be_worst(params, report):
        run(open_study(tmp_path / "j", pruner_warmup_trials=0), most=11)
        for step in range(3):
            report(step, -1e6)
        return TrialResult(-1e6)

    study = open_study(tmp_path / "j", pruner_warmup_trials=0)
    study.try_next(be_worst, BASE)
    assert [t.value for t in study.read_trials()][:1] == [-1e6]
    assert len(study.read_trials()) == 12


# --- workers ------------------------------------------------------------------------------------


def begin_elsewhere(study, worker, alive_at):
    """Leave a running trial behind, as another process would."""
    trial = study._ask()
    trial.set_user_attr(search.WORKER, worker)
    trial.set_user_attr(search.ALIVE_AT, alive_at)
    return trial


def describe_ended_process():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return f"{describe_process().split(':')[0]}:{ended.pid}"


@pytest.mark.parametrize(
    ("worker", "silent_seconds", "lost"),
    [("ended", 0, True), ("elsewhere:1", 600, True), ("elsewhere:1", 5, False), ("own", 5, False)],
)
def test_a_dead_or_silent_worker_s_trial_is_failed_and_tried_again(
    tmp_path, worker, silent_seconds, lost
):
    study = open_study(tmp_path / "j")
    name = {"ended": describe_ended_process(), "own": describe_process()}.get(worker, worker)
    params = begin_elsewhere(study, name, time.time() - silent_seconds).params

    assert study.recover_lost() == int(lost)
    assert study.recover_lost() == 0
    trials = run(study)
    if lost:
        assert from_stored(study.params.space, params) == trials[0].params
    states = [t.state.name for t in study._study.get_trials()]
    assert states.count("FAIL") == int(lost)
    assert states.count("RUNNING") == int(not lost)
    assert len(trials) == 12 - int(not lost)


@pytest.mark.parametrize(("seconds", "lost"), [(60, True), (0, False)])
def test_an_unsigned_trial_is_soon_lost(tmp_path, monkeypatch, seconds, lost):
    """It was begun by a process that was killed right then."""
    study = open_study(tmp_path / "j")
    monkeypatch.setattr(search, "_sign", lambda *given: None)
    study._ask()
    monkeypatch.undo()
    monkeypatch.setattr(search, "UNSIGNED_SECONDS", 10.0 - seconds)
    assert study.recover_lost() == int(lost)


def test_a_process_killed_before_it_drew_params_is_known_by_name(tmp_path, monkeypatch):
    study = open_study(tmp_path / "j")
    monkeypatch.setattr(search, "describe_process", describe_ended_process)
    monkeypatch.setattr(search, "derive_seed", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study._ask()
    monkeypatch.undo()
    assert study.recover_lost() == 1
    assert run(study)[0].params["learning_rate"] == BASE.learning_rate


def test_the_first_trial_is_queued_again_after_two_deaths(tmp_path):
    study = open_study(tmp_path / "j")
    trial = begin_elsewhere(study, describe_ended_process(), time.time())
    assert study._fail(trial._trial_id, search.LOST, value=True)
    trials = run(open_study(tmp_path / "j"))
    assert trials[0].params["learning_rate"] == BASE.learning_rate
    assert len(trials) == 12


@pytest.mark.parametrize("reports", [True, False])
def test_a_process_presumed_dead_drops_its_trial_and_continues(tmp_path, monkeypatch, reports):
    study, other = open_study(tmp_path / "j", trials=3), open_study(tmp_path / "j", trials=3)

    def be_silent(params, report):
        monkeypatch.setattr(search, "SILENT_SECONDS", -1.0)
        assert other.recover_lost() == 1
        monkeypatch.undo()
        if reports:
            report(0, 0.0)
        return TrialResult(0.0)

    assert study.try_next(be_silent, BASE)
    assert study.read_trials() == []
    trials = run(study)
    assert [t.number for t in trials] == [0, 1, 2]
    assert trials[0].params["learning_rate"] == BASE.learning_rate
    assert find_best(study.spec, trials).value != 0.0


def test_a_trial_that_finished_while_it_was_being_given_up_did_finish(tmp_path):
    study = open_study(tmp_path / "j", trials=1)

    def hold_on(params, report):
        running = study.list_kept()[0]
        study._storage.set_trial_user_attr(running._trial_id, search.LOST, value=True)
        return TrialResult(1.0)

    assert run(study, hold_on)[0].value == 1.0
    assert study.recover_lost() == 0


def test_params_that_end_their_process_each_time_are_given_up(tmp_path):
    study = open_study(tmp_path / "j", trials=3)
    for _ in range(search.MOST_RETRIES + 1):
        begin_elsewhere(study, describe_ended_process(), time.time())
        study.recover_lost()
    trials = run(study)
    assert [t.state for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].reason == "its process ended 4 times"


def test_no_trial_too_many_when_others_take_the_last_places(tmp_path):
    study = open_study(tmp_path / "j", trials=2)
    other = open_study(tmp_path / "j", trials=2)
    run(study, most=1)
    seen = study.has_room

    def has_room(before=None):
        if before is not None:
            return seen(before)
        begin_elsewhere(other, "elsewhere:1", time.time())
        return True

    study.has_room = has_room
    assert not study.try_next(score, BASE)
    study.has_room = seen
    assert not study.has_room()
    assert len(study.list_kept()) == 2


# --- storage ------------------------------------------------------------------------------------


def test_a_lock_left_by_a_killed_process_is_broken(tmp_path, monkeypatch):
    journal = tmp_path / "j"
    run(open_study(journal), most=1)
    Path(f"{journal}.lock").touch()
    assert len(run(open_study(journal, trials=2))) == 2


def test_half_a_line_of_a_killed_writer_is_dropped(tmp_path):
    """Optuna would append to it, and could never read the journal again."""
    journal = tmp_path / "j"
    trials = run(open_study(journal), most=5) and open_study(journal).read_trials()
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"kil')
    assert run(open_study(journal))[:5] == trials
    assert open_study(journal).count_finished() == 12


@pytest.mark.parametrize(
    ("content", "kept"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nbb\nccc", b"a\nbb\n"), (b"half", b""), (b"\n", b"\n")],
)
def test_a_file_ends_with_its_last_whole_line(tmp_path, content, kept):
    path = tmp_path / "file"
    path.write_bytes(content)
    drop_half_line(path)
    assert path.read_bytes() == kept


def test_a_password_is_not_shown():
    shown = describe_storage("postgresql+psycopg://me:secret@host/studies")
    assert shown == "--storage postgresql+psycopg://me:***@host/studies"


@pytest.mark.parametrize("storage", ["nosuch://x", "sqlite:////nowhere/at/all.db", "/proc/j/j"])
def test_a_storage_that_cannot_be_opened_is_named(storage):
    with pytest.raises(InputError, match=r"study_storage: cannot be (opened|reached)"):
        open_study(storage)


def test_a_database_holds_a_study_as_a_journal_does(tmp_path):
    journal = run(open_study(tmp_path / "j"))
    assert run(open_study(f"sqlite:///{tmp_path / 'db'}")) == journal


def test_optuna_s_own_commands_work_on_the_journal(tmp_path):
    study = open_study(tmp_path / "j", trials=4, pruner="none")
    best = find_best(study.spec, run(study))
    words = describe_storage(str(tmp_path / "j")).split()

    def ask(command, *more):
        done = subprocess.run(
            [Path(sys.executable).with_name("optuna"), command, *words, *more],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    name = name_study(study.spec)
    assert name in ask("studies")
    assert ask("trials", "--study-name", name).count("COMPLETE") == 4
    assert f"{best.params['learning_rate']}"[:8] in ask("best-trial", "--study-name", name)


def test_studies_of_other_tools_are_left_alone(tmp_path):
    other = optuna.create_study(storage=open_storage(str(tmp_path / "j")), study_name="mine")
    run(open_study(tmp_path / "j", trials=2))
    assert other.get_trials() == []
