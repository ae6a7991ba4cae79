"""A study of XGBoost over five folds, against one process a fold that makes its matrix anew.

Ours is the study itself: Optuna, its journal and its trials in one process, start-up included. The
peer is given the same trials and grows each fold in a fresh process, as many at a time as there
are cores, one thread each, which is the fastest way to do it so. Nothing is pruned, and every score
of every fold must be the same. The limit is the growing alone, in a process of its own: the same
trees on matrices that are made and binned, no study around.
Run: python benchmarks/study.py [--short]
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from claims import Claim, best_seconds, main
from histofuse.core.seeding import derive_seed
from histofuse.params.base import load_section
from histofuse.params.tabular import TabularParams, XgboostParams
from histofuse.params.tune import StudyParams, apply_values
from histofuse.studies.objectives.folds import XgboostObjective, choose_rounds
from histofuse.training.boosting import make_settings
from histofuse.training.folds import Folds, split_folds
from histofuse.training.rows import LabelledRows, score_logits, select_rows

SEED, FEATURES, BAR = 7, 90, 2.0
CORES = len(os.sched_getaffinity(0))
NAMES = [f"f{i}" for i in range(FEATURES)]


def make_table(patients: int) -> pd.DataFrame:
    """Make encoded rows: a third missing, a target that a few columns explain in part."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(patients, FEATURES)).astype(np.float32)
    logit = x[:, 0] + x[:, 1] * x[:, 2] + np.abs(x[:, 3]) - 2.5
    target = (rng.random(patients) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    x[rng.random(x.shape) < 1 / 3] = np.nan
    key = {"subject_id": np.arange(patients), "hadm_id": np.arange(patients), "target": target}
    split = pd.array(rng.choice(["train", "validation", "test"], patients, p=[0.7, 0.15, 0.15]))
    return pd.DataFrame({**key, "split": split.astype("str"), **dict(zip(NAMES, x.T, strict=True))})


def load_base() -> XgboostParams:
    base = load_section(TabularParams, "tabular.xgboost").root
    assert isinstance(base, XgboostParams)
    return base


def load_rows(table: Path, base: XgboostParams) -> tuple[LabelledRows, Folds]:
    rows = select_rows(pd.read_parquet(table), NAMES, "train")
    seed = derive_seed(SEED, "folds")
    return rows, split_folds(rows.target, rows.subjects, 2, base.folds, seed)


# --- ours ---------------------------------------------------------------------------------------


def run_study_here(table: str, trials: str, out: str) -> None:
    """Run the study in this process and leave its trials."""
    from histofuse.studies.results import read_study
    from histofuse.studies.run import Options, StudyJob, run_study

    base, folder = load_base(), Path(out).parent
    params = load_section(StudyParams, "tune.xgboost").model_copy(update={"pruner": "none"})
    rows = pd.read_parquet(table)
    job = StudyJob(
        name="xgboost",
        model="tabular.xgboost",
        base=base,
        params=params,
        seed=SEED,
        inputs={},
        source="simulated",
        measured_on="folds",
        make_objective=lambda seed, metric: XgboostObjective(rows, NAMES, base, seed, metric),
    )
    options = Options(1, str(folder / "studies.journal"), int(trials), None)
    run_study(job, options, folder / "study", None, lambda *_: None)
    _, found = read_study(folder / "study")
    Path(out).write_text(json.dumps([[trial.params, trial.steps] for trial in found]))


def grow_alone(table: str, tried: str, out: str) -> None:
    """Time the trials without the study and without the making of matrices."""
    base = load_base()
    objective = XgboostObjective(pd.read_parquet(table), NAMES, base, SEED, "auroc")
    objective(base.model_copy(update={"rounds": 1}), lambda *_: None)  # bins the matrices
    params = [apply_values(base, values) for values in json.loads(tried)]
    seconds = best_seconds(lambda: [objective(p, lambda *_: None) for p in params], repeats=1)
    Path(out).write_text(json.dumps(seconds))


# --- the peer -----------------------------------------------------------------------------------


def grow_fold(table: str, number: str, values: str, out: str) -> None:
    """Grow one fold in this process and leave its booster and the curve it stopped on."""
    import xgboost

    from histofuse.models.trees import make_matrix

    base = load_base()
    params = apply_values(base, json.loads(values))
    rows, folds = load_rows(Path(table), base)
    rest, held_out = (rows.take(part) for part in folds[int(number)])
    curves: dict = {}
    booster = xgboost.train(
        make_settings(params, rest, SEED) | {"eval_metric": "auc", "nthread": 1},
        make_matrix(rest.x, rest.target),
        num_boost_round=params.rounds,
        evals=[(make_matrix(held_out.x, held_out.target), "held_out")],
        evals_result=curves,
        early_stopping_rounds=params.early_stopping_rounds,
        verbose_eval=False,
    )
    booster.save_model(f"{out}.ubj")
    Path(f"{out}.json").write_text(json.dumps(curves["held_out"]["auc"]))


def run_peer(table: Path, folder: Path, trials: list[dict]) -> list[list[float]]:
    """Give the AUROC of each fold of each trial."""
    base = load_base()
    rows, folds = load_rows(table, base)

    def grow(job: tuple[dict, int]) -> None:
        values, number = job
        out = folder / f"fold_{number}"
        run_apart("fold", table, number, json.dumps(values), out)

    scores = []
    with ThreadPoolExecutor(CORES) as pool:
        for values in trials:
            list(pool.map(grow, [(values, number) for number in range(len(folds))]))
            scores.append(score_peer(rows, folds, folder))
    return scores


def score_peer(rows: LabelledRows, folds: list, folder: Path) -> list[float]:
    from histofuse.models.trees import load_booster, make_matrix

    outs = [folder / f"fold_{number}" for number in range(len(folds))]
    curves = [np.array(json.loads(Path(f"{out}.json").read_text())) for out in outs]
    until, scores = (0, choose_rounds(curves)), []
    for out, (_, index) in zip(outs, folds, strict=True):
        part, booster = rows.take(index), load_booster(Path(f"{out}.ubj"))
        matrix = make_matrix(part.x, part.target)
        margin = booster.predict(matrix, output_margin=True, iteration_range=until)
        scores.append(score_logits(margin, part.target)["auroc"])
    return scores


# --- both ---------------------------------------------------------------------------------------


def run_apart(*words: object) -> None:
    command = [sys.executable, __file__, *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def measure(short: bool) -> list[Claim]:
    patients, trials = (10_000, 3) if short else (10_000, 40)
    with TemporaryDirectory() as name:
        folder = Path(name)
        table, out, base = folder / "table.parquet", folder / "trials.json", load_base()
        make_table(patients).to_parquet(table)
        seconds = best_seconds(lambda: run_apart("study", table, trials, out), repeats=1)
        found = json.loads(out.read_text())
        tried = [values for values, _ in found]
        run_apart("limit", table, json.dumps(tried), folder / "limit.json")
        limit = json.loads((folder / "limit.json").read_text())
        scores: list[list[float]] = []
        peer = best_seconds(lambda: scores.extend(run_peer(table, folder, tried)), repeats=1)
    ours = [steps["cv/auroc/fold"] for _, steps in found]
    assert ours == scores, "not the same scores: nothing to compare"
    assert len({tuple(fold) for fold in ours}) == trials, "trials are alike: nothing to compare"
    return [
        Claim(
            number=6,
            work=f"XGBoost study, {base.folds} folds, {trials} trials, {patients:,} patients",
            ours=f"{seconds:.1f} s",
            peer=f"a process a fold, {CORES} at a time, {peer:.1f} s",
            limit=f"the folds alone {limit:.1f} s",
            ratio=peer / seconds,
            bar=f"≥ {BAR:.0f} × the peer",
            holds=peer >= BAR * seconds,
            note=f"The folds alone take {limit / peer:.0%} of the peer's time.",
        )
    ]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["study", table, trials, out]:
            run_study_here(table, trials, out)
        case ["limit", table, tried, out]:
            grow_alone(table, tried, out)
        case ["fold", table, number, values, out]:
            grow_fold(table, number, values, out)
        case _:
            main(measure)
