"""The stage of the XGBoost study itself, with worker processes, down to MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from ruamel.yaml import YAML

from histofuse.core.artifacts import write_json
from histofuse.core.tables import write_table
from histofuse.features.encoding import ENCODED
from histofuse.models.tabular import name_table
from histofuse.params.base import load_section
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import apply_values
from histofuse.studies.objectives.folds import make_objective
from histofuse.studies.results import BEST_PARAMS, read_best_params, read_study
from histofuse.studies.trials import find_best
from histofuse.tracking.studies import publish_studies
from histofuse.training.tabular import load_table

ROOT = Path(__file__).parents[3]
TRIALS = 5


@pytest.fixture
def project(tmp_path, monkeypatch, encoded):
    """Encoded records of 400 admissions and the project's own params."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["tabular"]["xgboost"]["rounds"] = 100
    params["tune"]["xgboost"]["trials"] = TRIALS
    yaml.dump(params, Path("params.yaml"))
    table = encoded()
    write_table(table.rows, Path(f"data/encoded/{name_table('xgboost')}.parquet"), ENCODED)
    table.encoder.rename("data/encoded/encoder.json")
    write_json({"target": table.target, "source": table.source}, Path("data/cohort/meta.json"))
    return tmp_path


def test_two_workers_tune_xgboost_and_mlflow_shows_each_trial(project):
    command = [sys.executable, str(ROOT / "pipelines/tune_tabular.py"), "xgboost"]
    done = subprocess.run(
        [*command, "--workers", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    spec, trials = read_study(Path("studies/xgboost"))
    best: Any = find_best(spec, trials)
    assert f"best auroc {best.value:.4f} on stratified folds of the training" in done.stderr
    assert [t.number for t in trials] == list(range(TRIALS))

    base = load_section(TabularParams, "tabular.xgboost").root
    tuned = apply_values(base, read_best_params(Path("studies/xgboost") / BEST_PARAMS))
    table = load_table(Path("data/encoded"), Path("data/cohort/meta.json"), "xgboost")
    objective: Any = make_objective(table, base, spec.seed, spec.metric)
    again = objective(tuned, lambda step, value: None)
    assert again.value == best.value
    assert again.steps == best.steps
    assert trials[0].value == objective(base, lambda step, value: None).value

    publish_studies()
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlruns/mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments)
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == TRIALS
    assert len(runs) == TRIALS + 1
    found = next(r for r in children if r.data.metrics.get("search/auroc") == best.value)
    params = {key: json.loads(found.data.params[key]) for key in best.params}
    assert params == best.params
