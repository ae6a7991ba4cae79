"""A project with two small models, and an MLflow store of its own."""

import json
import shutil
from pathlib import Path

import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.features.encoding import Binary, Encoder
from histofuse.tracking.store import DATABASE, Store

ENCODER = Encoder((), (Binary("metastatic_cancer", 0),), (), (), 2)
PARAMS = """
evaluation: {split: test, primary_rule: label_blind}
image: {resnet18: {}}
tabular: {mlp: {}}
pairing: {label_blind: {}, permuted: {}}
"""
HISTORY = """epoch,train_loss,validation_macro_f1,validation_auroc,learning_rate_head
1,0.9,0.5,,0.001
2,0.7,0.6,0.8,0.0005
"""


def make_bundle(name, kind, source="simulated", models=Path("models"), weights=b"weights"):
    config = {
        "kind": kind,
        "name": name,
        "classes": ["no_death", "death"],
        "params": {"epochs": 2, "augmentation": {"flips": True}},
        "seed": 1,
        "inputs": {"patches": "a" * 64},
        "source": source,
        "architecture": {"kind": name, "patch_px": 8},
    }
    with writing_bundle(models / name, name) as folder:
        write_json(config, folder / "config.json")
        (folder / "weights.safetensors").write_bytes(weights)
        (folder / "history.csv").write_text(HISTORY)
        (folder / "predictions.parquet").write_bytes(b"rows")
        if kind == "tabular":
            write_json(ENCODER.to_dict(), folder / "encoder.json")
    return open_bundle(models / name)


NO_INTERVAL = {"low": None, "high": None}


def make_reports(auroc=0.8):
    models = {name: {"test/auroc/macro": auroc, "test/brier": None} for name in ("resnet18", "mlp")}
    intervals = {"mlp": {"test/auroc/macro": {"low": 0.7, "high": 0.9}, "test/brier": NO_INTERVAL}}
    known = {"models": models, "intervals": {"models": intervals}}
    write_json(known, Path("reports/metrics.json"))
    inside = {"cam_mass_inside": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9}}
    write_json(inside, Path("reports/explain/gradcam/resnet18/faithfulness.json"))
    for name in (
        "figures/resnet18/roc.png",
        "figures/mlp/roc.png",
        "assessment/figures/mlp/reliability.png",
        "explain/shap/mlp/beeswarm.png",
        "explain/shap/mlp/waterfall_high.png",
        "explain/shap/mlp/row_level/values.csv",
    ):
        file = Path("reports") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database as MLflow makes it; migrating takes seconds, so it is made once and copied."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert Store(f"sqlite:///{path}").client
    return path


@pytest.fixture
def project(tmp_path, monkeypatch, empty_database):
    """The working directory of a project whose store is empty."""
    root = tmp_path / "project"
    (root / DATABASE).parent.mkdir(parents=True)
    shutil.copy(empty_database, root / DATABASE)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("params.yaml").write_text(PARAMS)
    make_bundle("resnet18", "image")
    make_bundle("mlp", "tabular")
    make_reports()
    return root


@pytest.fixture
def clone(project, monkeypatch, empty_database):
    """Go to a copy of the project without its store, as after a clone and ``dvc checkout``."""

    def copy():
        root = project.with_name("clone")
        shutil.copytree(project, root, ignore=shutil.ignore_patterns("mlruns", ".histofuse"))
        (root / DATABASE).parent.mkdir()
        shutil.copy(empty_database, root / DATABASE)
        monkeypatch.chdir(root)

    return copy


@pytest.fixture
def make():
    """Makers of bundles and reports."""

    class Make:
        bundle = staticmethod(make_bundle)
        reports = staticmethod(make_reports)

        @staticmethod
        def restricted():
            make_bundle("mlp", "tabular", source="restricted")
            write_json({"source": "restricted"}, Path("data/cohort/meta.json"))

        @staticmethod
        def metrics():
            return json.loads(Path("reports/metrics.json").read_text())

    return Make


def list_artifacts(store, run_id, path=None):
    """List all files of a run."""
    found = []
    for item in store.client.list_artifacts(run_id, path):
        found += list_artifacts(store, run_id, item.path) if item.is_dir else [item.path]
    return sorted(found)


@pytest.fixture
def artifacts_of():
    return list_artifacts
