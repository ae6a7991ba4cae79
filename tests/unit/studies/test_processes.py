"""Studies as processes run them: many at once, killed, interrupted, on files and on PostgreSQL."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest

from histofuse.studies.results import BEST_PARAMS, read_study
from histofuse.studies.search import LOST, RETRIES, WORKER
from histofuse.studies.storage import open_storage

STAGE = Path(__file__).parent / "toy_stage.py"
TRIALS = 12
JOURNAL = "studies.journal"
HOLD = "hold"  # while this file exists, toys' trials wait after their next report


@dataclass
class Toy:
    """A folder in which the toy's stage is run."""

    folder: Path
    storage: str = JOURNAL
    _opened: Any = field(default=None, repr=False)

    def start(self, *words: str, **settings: Any) -> subprocess.Popen[str]:
        """Start the stage; it leads a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, str(STAGE), "toy", *words],
            cwd=self.folder,
            env=os.environ | {"TOY": json.dumps(settings), "HISTOFUSE_STUDY_STORAGE": self.storage},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **settings: Any) -> str:
        """Run the stage to its end, which must be a good one."""
        return finish(self.start(*words, **settings))

    def read(self) -> list[Any]:
        """Read the trials of the results' folder."""
        return read_study(self.folder / "studies" / "toy")[1]

    def look(self) -> list[optuna.trial.FrozenTrial]:
        """Look at the trials in the storage; none before there is a study."""
        address = self.storage if "://" in self.storage else str(self.folder / self.storage)
        if address.endswith(JOURNAL) and not Path(address).exists():
            return []
        if self._opened is None:  # once: each has connections of its own, and databases few
            self._opened = open_storage(address)
        studies = self._opened.get_all_studies()
        return self._opened.get_all_trials(studies[0]._study_id) if studies else []

    def wait_for(self, condition: Any) -> list[optuna.trial.FrozenTrial]:
        """Wait until the trials in the storage are as wished."""
        deadline = time.monotonic() + 40
        while not condition(trials := self.look()):
            assert time.monotonic() < deadline, [t.state.name for t in trials]
            time.sleep(0.05)
        return trials


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a stage; its messages."""
    messages = process.communicate(timeout=60)[1]
    assert process.returncode == 0, messages
    return messages


def kill_in_a_trial(toy: Toy, after: int) -> optuna.trial.FrozenTrial:
    """Kill the worker of a running trial once enough have finished.

    All trials are held at their next report meanwhile: on a busy machine one may end between the
    look at the storage and the signal.
    """
    toy.wait_for(lambda trials: sum(t.state.is_finished() for t in trials) >= after)
    hold = toy.folder / HOLD
    hold.touch()

    def find_halfway(trials):
        return [t for t in trials if t.state.name == "RUNNING" and t.intermediate_values]

    toy.wait_for(find_halfway)
    time.sleep(0.5)  # a trial that was past its last report ends
    trial = find_halfway(toy.wait_for(find_halfway))[0]
    os.kill(int(trial.user_attrs[WORKER].rpartition(":")[2]), signal.SIGKILL)
    hold.unlink()
    return trial


def list_processes(group: int) -> list[str]:
    """List the living processes of a group."""
    found = subprocess.run(
        ["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in found.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def read_all(folder: Path) -> dict[str, bytes]:
    """Read all files of a study's folder."""
    return {
        p.name: p.read_bytes() for p in sorted((folder / "studies/toy").iterdir()) if p.is_file()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A study run by one process without an interruption."""
    toy = Toy(tmp_path_factory.mktemp("alone"))
    toy.run()
    return toy


def test_one_worker_and_one_seed_give_the_same_files_twice(alone, tmp_path):
    again = Toy(tmp_path)
    again.run()
    assert read_all(again.folder) == read_all(alone.folder)
    assert len(alone.read()) == TRIALS


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_a_trial_and_resumed_gives_the_same_files(alone, tmp_path, how):
    toy = Toy(tmp_path)
    stage = toy.start(seconds=0.4)
    trials = toy.wait_for(lambda t: len(t) == 5 and t[4].intermediate_values)
    os.killpg(stage.pid, how)
    messages = stage.communicate(timeout=20)[1]

    assert stage.returncode != 0
    assert trials[4].state.name == "RUNNING"
    assert not (tmp_path / "studies").exists()
    if how == signal.SIGINT:
        assert "study toy: stopped after 4 of 12 trials" in messages
        assert "Traceback" not in messages

    messages = toy.run()
    assert "study toy: 4 of 12 trials were there" in messages
    assert read_all(tmp_path) == read_all(alone.folder)
    assert [t.state.name for t in toy.look()].count("FAIL") == 1


def test_a_longer_study_continues_a_shorter_one(alone, tmp_path):
    toy = Toy(tmp_path)
    toy.run("--trials", "5")
    assert toy.read() == alone.read()[:5]
    assert "study toy: 5 of 12 trials were there" in toy.run()
    assert read_all(tmp_path) == read_all(alone.folder)


def test_workers_share_out_the_trials(tmp_path):
    toy = Toy(tmp_path)
    messages = toy.run("--workers", "4", seconds=0.5)
    trials = toy.look()

    assert "Traceback" not in messages
    assert [t.number for t in toy.read()] == list(range(TRIALS))
    assert len({json.dumps(t.params) for t in toy.read()}) == TRIALS
    assert len({t.user_attrs[WORKER] for t in trials}) == 4
    assert sum(LOST not in t.user_attrs for t in trials) == TRIALS
    assert toy.read()[0].params == {"depth": 7, "rate": 0.5, "widths": [8]}
    assert toy.read()[0].state == "COMPLETE"


def test_two_commands_at_once_share_one_study(tmp_path):
    """As two machines would: each writes the same results."""
    storage = str(tmp_path / JOURNAL)
    toys = [Toy(tmp_path / name, storage) for name in ("here", "there")]
    stages = [toy.start("--workers", "2", seconds=0.3) for toy in toys]
    for stage in stages:
        finish(stage)
    assert read_all(toys[0].folder) == read_all(toys[1].folder)
    assert len(toys[0].read()) == TRIALS
    assert [t.params["depth"] for t in toys[0].read()].count(7) >= 1
    assert len({t.user_attrs[WORKER] for t in toys[0].look()}) > 2


def test_killed_worker_loses_no_finished_trial_and_its_own_is_tried_again(tmp_path):
    toy = Toy(tmp_path)
    stage = toy.start("--workers", "2", seconds=0.5)
    killed = kill_in_a_trial(toy, after=3)
    before = {t.number: t for t in toy.look() if t.state.is_finished()}
    messages = finish(stage)
    trials = toy.look()

    assert "study toy: a worker was killed by signal 9" in messages
    assert len(toy.read()) == TRIALS
    for number, trial in before.items():
        assert (trials[number].value, trials[number].params) == (trial.value, trial.params)
    lost = [t for t in trials if t.user_attrs.get(LOST)]
    assert [t.number for t in lost] == [killed.number]
    assert lost[0].state.name == "FAIL"
    retried = [t for t in trials if t.user_attrs.get(RETRIES)]
    assert [t.params for t in retried] == [killed.params]
    assert retried[0].state.name in ("COMPLETE", "PRUNED")


def test_without_its_coordinator_a_worker_ends_after_its_trial(tmp_path):
    toy = Toy(tmp_path)
    stage = toy.start("--workers", "2", seconds=1.0, trials=40)
    toy.wait_for(lambda trials: sum(WORKER in t.user_attrs for t in trials) >= 2)
    stage.kill()
    stage.wait()
    deadline = time.monotonic() + 20
    while left := list_processes(stage.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    states = [t.state.name for t in toy.look()]
    assert 2 <= len(states) < 10
    assert set(states) == {"COMPLETE"}


def test_ctrl_c_is_for_the_coordinator_which_ends_its_workers(tmp_path):
    toy = Toy(tmp_path)
    stage = toy.start("--workers", "2", seconds=0.5, trials=100)
    trials = toy.wait_for(lambda trials: sum(WORKER in t.user_attrs for t in trials) >= 3)
    for worker in {t.user_attrs[WORKER] for t in trials if WORKER in t.user_attrs}:
        os.kill(int(worker.rpartition(":")[2]), signal.SIGINT)
    toy.wait_for(lambda now: sum(t.state.is_finished() for t in now) >= len(trials) + 2)
    os.killpg(stage.pid, signal.SIGINT)
    messages = stage.communicate(timeout=20)[1].strip().splitlines()
    assert stage.returncode == 1
    assert len(messages) == 1, messages
    assert "study toy: stopped after" in messages[0]
    assert list_processes(stage.pid) == []


def test_params_that_end_their_process_each_time_are_given_up(tmp_path):
    toy = Toy(tmp_path)
    messages = toy.run("--workers", "2", trials=6, deadly_depth=4)
    failed = [t for t in toy.read() if t.state == "FAIL"]
    assert failed
    assert {t.params["depth"] for t in failed} == {4}
    assert {t.reason for t in failed} == {"its process ended 4 times"}
    assert len(toy.read()) == 6
    assert f"{len(failed)} failed" in messages


def test_worker_of_another_study_tries_nothing(tmp_path):
    """Code or params were changed since the study it is to work for was begun."""
    toy = Toy(tmp_path)
    stage = toy.start("--worker-of", "0123")
    messages = stage.communicate(timeout=30)[1]
    assert stage.returncode == 1
    assert "study toy: code, params or inputs have changed" in messages
    assert not any(WORKER in t.user_attrs for t in toy.look())


def test_worker_that_cannot_work_ends_the_study_with_its_own_words(tmp_path):
    toy = Toy(tmp_path)
    stage = toy.start("--workers", "2", fault="data/encoded: no such file")
    messages = stage.communicate(timeout=30)[1]
    assert stage.returncode == 1
    assert "data/encoded: no such file" in messages
    assert "study toy: a worker ended with exit status 1." in messages
    assert messages.count("no such file") <= 2


# --- PostgreSQL ---------------------------------------------------------------------------------


def test_many_may_make_the_tables_at_the_same_time(postgres):
    address = postgres.make_database("toy_empty")
    with ThreadPoolExecutor(8) as pool:
        storages = list(pool.map(open_storage, [address] * 8))
    assert [s.get_all_studies() for s in storages] == [[]] * 8


def test_two_commands_at_once_on_an_empty_postgresql(postgres, tmp_path):
    address = postgres.make_database("toy_two")
    toys = [Toy(tmp_path / name, address) for name in ("here", "there")]
    stages = [toy.start("--workers", "2", seconds=0.3) for toy in toys]
    messages = [finish(stage) for stage in stages]
    assert read_all(toys[0].folder) == read_all(toys[1].folder)
    assert len(toys[0].read()) == TRIALS
    assert postgres.password not in "".join(messages)


def test_on_postgresql_too_a_killed_worker_loses_nothing(postgres, tmp_path):
    toy = Toy(tmp_path, postgres.make_database("toy_killed"))
    stage = toy.start("--workers", "2", seconds=0.5, trials=6)
    killed = kill_in_a_trial(toy, after=1)
    finish(stage)
    retried = [t for t in toy.look() if t.user_attrs.get(RETRIES)]
    assert [t.params for t in retried] == [killed.params]
    assert len(toy.read()) == 6


def test_one_worker_gives_the_same_trials_on_postgresql(alone, postgres, tmp_path):
    toy = Toy(tmp_path, postgres.make_database("toy_alone"))
    toy.run()
    assert toy.read() == alone.read()


def test_lost_database_is_named_and_the_study_continues_later(postgres, tmp_path):
    toy = Toy(tmp_path, postgres.make_database("toy_away"))
    stage = toy.start(seconds=0.5, trials=6)
    toy.wait_for(lambda trials: sum(t.state.is_finished() for t in trials) >= 2)
    with postgres.connect() as connection:
        connection.execute("ALTER DATABASE toy_away ALLOW_CONNECTIONS false")
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'toy_away'"
        connection.execute(ends)
        messages = stage.communicate(timeout=30)[1]
        connection.execute("ALTER DATABASE toy_away ALLOW_CONNECTIONS true")
    assert stage.returncode == 1
    assert "study storage: no longer answers" in messages
    assert "Traceback" not in messages
    assert postgres.password not in messages
    toy.run(trials=6)
    assert len(toy.read()) == 6


# --- Optuna's own programs ----------------------------------------------------------------------


def ask_optuna(folder: Path, *words: str) -> str:
    program = Path(sys.executable).with_name("optuna")
    storage = ["--storage", JOURNAL, "--storage-class", "JournalFileBackend"]
    done = subprocess.run(
        [program, *words, *storage], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_optunas_command_line_reads_the_journal(alone):
    studies = json.loads(ask_optuna(alone.folder, "studies", "-f", "json"))
    name = studies[0]["name"]
    assert len(studies) == 1
    assert (name.startswith("toy-"), studies[0]["n_trials"]) == (True, TRIALS)

    trials = json.loads(ask_optuna(alone.folder, "trials", "--study-name", name, "-f", "json"))
    assert [t["state"] for t in trials] == [t.state for t in alone.read()]

    best = ask_optuna(alone.folder, "best-trial", "--study-name", name, "-f", "json")
    params = json.loads((alone.folder / "studies" / "toy" / BEST_PARAMS).read_text())
    assert json.loads(best)["params"] == params | {"widths": json.dumps(params["widths"])}


def test_optuna_dashboard_shows_the_journal(alone):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [program, JOURNAL, "--port", str(port)],
        cwd=alone.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found = json.loads(fetch(f"http://127.0.0.1:{port}/api/studies", server))
        assert found["study_summaries"][0]["study_name"].startswith("toy-")
    finally:
        server.terminate()
        server.wait()


def fetch(url: str, server: subprocess.Popen[bytes]) -> bytes:
    """Fetch what a server that is about to start answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
