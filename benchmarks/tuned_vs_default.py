"""What does a study bring on patients it never saw? XGBoost, tuned against the params.yaml values.

A study is run in a folder of its own, then both models are trained as the pipeline trains them:
rounds by cross-validation on the training patients, calibrator and threshold from validation. Both
are measured on the test patients; the difference is on the same patients, drawn together. One study
is one draw of a lottery: with more seeds, each gives folds, sampler and trees of its own.

Run: python benchmarks/tuned_vs_default.py [trials] [studies]   (dvc repro encode_ehr first)
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import CONFIG
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.predictions import Predictions, load_predictions
from histofuse.params.base import load_section, load_seed
from histofuse.params.intervals import IntervalParams
from histofuse.params.tabular import TabularParams, XgboostParams
from histofuse.params.tune import StudyParams, apply_values
from histofuse.studies.objectives.folds import make_job
from histofuse.studies.results import read_study
from histofuse.studies.run import Options, run_study
from histofuse.studies.trials import TrialRecord, find_best
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import EncodedTable, load_table, train_tabular

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
STUDIES = int(sys.argv[2]) if len(sys.argv) > 2 else 1
RESAMPLES, CONFIDENCE = 10_000, 0.95
METRICS = ("auroc", "auprc", "f1", "brier")


@dataclass(frozen=True)
class Case:
    """What is tuned, on what."""

    base: XgboostParams
    params: StudyParams
    table: EncodedTable
    seed: int

    def tune(self, folder: Path) -> tuple[list[TrialRecord], TrialRecord, float]:
        """Run the study; give its trials, the best of them, and seconds."""
        job = make_job("xgboost", self.table, self.base, self.params, self.seed)
        options = Options(1, str(folder / "studies.journal"), TRIALS, None)
        start = time.perf_counter()
        run_study(job, options, folder / "study", None, lambda *_: None)
        seconds = time.perf_counter() - start
        spec, trials = read_study(folder / "study")
        best = find_best(spec, trials)
        assert best is not None, "write_study writes no study without one"
        return trials, best, seconds

    def train(self, params: XgboostParams, path: Path) -> tuple[Predictions, float]:
        """Train on the training patients; give test predictions and cross-validated AUROC."""
        train_tabular(self.table, params, self.seed, Recorder(), path)
        found = load_json(path / CONFIG)["cross_validation"]
        return load_predictions(path).of("test"), found["auroc"]["mean"]


def load_case() -> Case:
    base = load_section(TabularParams, "tabular.xgboost").root
    assert isinstance(base, XgboostParams)
    table = load_table(Path("data/encoded"), Path("data/cohort/meta.json"), base.kind)
    return Case(base, load_section(StudyParams, "tune.xgboost"), table, load_seed())


def compare(case: Case, folder: Path) -> float:
    """Run one study, print what it gained, and return the difference in test AUROC."""
    trials, best, seconds = case.tune(folder)
    pruned = sum(t.state == "PRUNED" for t in trials)
    print(
        f"seed {case.seed}: {len(trials)} trials, {pruned} pruned, in {seconds:.0f} s,"
        f" {seconds / len(trials):.2f} s a trial; best is trial {best.number}"
    )
    before, default_cv = case.train(case.base, folder / "default")
    after, tuned_cv = case.train(apply_values(case.base, best.params), folder / "tuned")
    print(
        f"{case.params.metric} in the study: default {trials[0].value:.4f}, best {best.value:.4f}"
    )
    print(f"auroc of training's own folds: default {default_cv:.4f}, tuned {tuned_cv:.4f}")
    return print_table(before, after)


def print_table(before: Predictions, after: Predictions) -> float:
    positive = before.classes[1]
    names = {m: m if m == "brier" else f"{m}/{positive}" for m in METRICS}
    params = IntervalParams(
        resamples=RESAMPLES, confidence=CONFIDENCE, method="bca", fewest_groups=10
    )
    bootstrap = Bootstrap(params, seed=1)
    columns = [bootstrap.estimate_metrics(p, [*names.values()]) for p in (before, after)]
    differences = bootstrap.estimate_differences(after, before, [*names.values()])
    print(f"test, {before.describe_size()}, {int(before.labels.sum())} of them {positive}; 95 % CI")
    print(f"{'':8}{'default':>26}{'tuned':>26}{'tuned less default':>28}")
    for name, full in names.items():
        cells = [column[full] for column in columns] + [differences[full]]
        texts = [f"{c.value:.3f} ({c.low:.3f} to {c.high:.3f})" for c in cells[:2]]
        gain = cells[2]
        texts.append(f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
        print(f"{name:8}{texts[0]:>26}{texts[1]:>26}{texts[2]:>28}")
    gain = differences[names["auroc"]].value
    assert gain is not None, "the test split holds both classes"
    return gain


def main() -> None:
    base = load_case()
    gains = []
    for number in range(STUDIES):
        case = Case(base.base, base.params, base.table, base.seed + number)
        with tempfile.TemporaryDirectory() as folder:
            gains.append(compare(case, Path(folder)))
    if len(gains) > 1:
        higher = sum(g > 0 for g in gains)
        print(f"{len(gains)} studies: {mean(gains):+.4f} AUROC on average, above 0 in {higher}")


if __name__ == "__main__":
    main()
