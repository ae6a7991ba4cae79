"""What does it cost a study to be recorded in MLflow? The same XGBoost trials with and without.

Each study runs in a process of its own, one kind after the other, and its time ends when the last
trial is written: importing MLflow and waiting for it are in. Making the store, once a project, is
not. The peer is the usual recipe: a call for each param, metric and tag, made by the study itself.
Wall-clock time shows what the user waits for; processor time what is taken from other workers.
Run: python benchmarks/study_tracking.py [trials] [repeats]   (dvc repro encode_ehr first)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from histofuse.params.base import load_section, load_seed
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import StudyParams
from histofuse.studies.objectives.folds import make_job
from histofuse.studies.results import read_study
from histofuse.studies.run import Options, StudyJob, run_study
from histofuse.studies.trials import Observe, StudySpec, TrialRecord
from histofuse.tracking.names import STUDIES_EXPERIMENT, STUDY_TAG, TRIAL_TAG
from histofuse.tracking.store import Store, open_store
from histofuse.tracking.studies import PARENT_TAG, STATUS, open_observer
from histofuse.training.tabular import load_table

LIMIT = 0.05
UNRECORDED, RECORDED, PEER = "unrecorded", "recorded", "call by call"
STUDY = "study"


@dataclass(frozen=True)
class Cost:
    """Seconds a study took: by the clock, of processor, and of waiting after its last trial."""

    wall: float
    processor: float
    waited: float


class CallByCall:
    """The usual recipe: one call a value, while the study waits."""

    def __init__(self) -> None:
        self.store, self.parent, self.known = open_store(STUDIES_EXPERIMENT), "", set()

    def observe(self, spec: StudySpec, trials: Sequence[TrialRecord]) -> None:
        if not self.parent:
            self.parent = self.store.create_run(spec.name, {STUDY_TAG: spec.study_id}).info.run_id
        for trial in trials:
            if trial.number not in self.known:
                self.known.add(trial.number)
                self._write(spec, trial)

    def _write(self, spec: StudySpec, trial: TrialRecord) -> None:
        client = self.store.client
        run_id = self.store.create_run(
            f"trial {trial.number}", {PARENT_TAG: self.parent}
        ).info.run_id
        for key, text in ((STUDY_TAG, spec.study_id), (TRIAL_TAG, str(trial.number))):
            client.set_tag(run_id, key, text)
        for key, value in trial.params.items():
            client.log_param(run_id, key, value)
        for name, value in trial.scores.items():
            client.log_metric(run_id, name, value)
        for name, values in trial.steps.items():
            for step, value in enumerate(values):
                client.log_metric(run_id, name, value, step=step)
        client.set_terminated(run_id, STATUS[trial.state])


@contextmanager
def observing(kind: str) -> Iterator[Observe | None]:
    if kind == RECORDED:
        with open_observer(0.0) as observer:
            yield observer.observe
    else:
        yield CallByCall().observe if kind == PEER else None


def load_job() -> StudyJob:
    base = load_section(TabularParams, "tabular.xgboost").root
    table = load_table(Path("data/encoded"), Path("data/cohort/meta.json"), base.kind)
    params = load_section(StudyParams, "tune.xgboost")
    return make_job("xgboost", table, base, params, load_seed())


def run_here(kind: str, folder: Path, trials: int) -> Cost:
    """Run a study in this process."""
    job, options = load_job(), Options(1, str(folder / "studies.journal"), trials, None)
    wall, processor = time.perf_counter(), time.process_time()
    with observing(kind) as observe:
        run_study(job, options, folder / STUDY, observe, lambda *_: None)
        finished = time.perf_counter()
    end = time.perf_counter()
    return Cost(end - wall, time.process_time() - processor, end - finished)


def run_apart(kind: str, store: Path, trials: int) -> tuple[Cost, list[TrialRecord]]:
    """Run a study in a process, journal and store of its own; give its cost and its trials."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(store, folder / store.name)
        uri = f"sqlite:///{folder / store.name}"
        command = [sys.executable, __file__, kind, name, str(trials)]
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
        spec, found = read_study(folder / STUDY)
        written = Store(uri, STUDIES_EXPERIMENT).find_runs(STUDY_TAG, spec.study_id)
        numbers = {int(r.data.tags[TRIAL_TAG]) for r in written if TRIAL_TAG in r.data.tags}
        assert numbers == (set() if kind == UNRECORDED else set(range(trials))), (kind, numbers)
        return Cost(**json.loads((folder / "cost.json").read_text())), found


def time_import() -> float:
    """Seconds of processor that importing MLflow costs a process once, however many the trials."""
    code = "import mlflow, mlflow.artifacts, mlflow.store.tracking.sqlalchemy_store as _; "
    # pandas, numpy and the like are there already in a process that runs a study.
    before = "import time, xgboost, sklearn, pandas, sqlalchemy; start = time.process_time(); "
    command = [sys.executable, "-c", f"{before}{code}print(time.process_time() - start)"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(trials: int, repeats: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {UNRECORDED: [], RECORDED: [], PEER: []}
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "mlflow.db"
        assert Store(f"sqlite:///{store}").client  # made, and MLflow's files in the page cache
        for _ in range(repeats):
            for kind, found in costs.items():
                cost, outcome = run_apart(kind, store, trials)
                found.append(cost)
                outcomes.append(outcome)
    assert all(o == outcomes[0] for o in outcomes), "not the same trials: nothing to compare"
    return costs


def main(trials: int, repeats: int) -> None:
    costs = measure(trials, repeats)
    print(f"{trials} trials, {repeats} times; medians, and shares of the unrecorded study's time")
    print(f"{'':13}{'seconds':>9}{'share':>9}{'processor':>11}{'share':>9}{'waited':>9}")
    base = costs[UNRECORDED]
    for kind, found in costs.items():
        row = f"{kind:13}"
        for field, width in (("wall", 9), ("processor", 11)):
            seconds = [getattr(c, field) for c in found]
            share = median(seconds) / median(getattr(c, field) for c in base) - 1
            row += f"{median(seconds):{width}.2f}{share:9.1%}"
        print(f"{row}{median(c.waited for c in found):9.2f}")
    walls = [c.wall for c in base]
    print(f"unrecorded, repeated: {min(walls):.2f} to {max(walls):.2f} s; limit {LIMIT:.0%}")
    print(f"importing MLflow, once a study, beside its trials: {time_import():.2f} s of processor")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        kind, name, trials = sys.argv[1:]
        cost = run_here(kind, Path(name), int(trials))
        (Path(name) / "cost.json").write_text(json.dumps(asdict(cost)))
    else:
        counts = [int(word) for word in sys.argv[1:]]
        main(*[*counts, *[40, 3][len(counts) :]])
