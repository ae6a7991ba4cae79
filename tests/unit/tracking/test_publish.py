import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import BundleError
from histofuse.tracking.connection import DATABASE
from histofuse.tracking.names import CONTENT_TAG, MODEL_NAME_TAG
from histofuse.tracking.publish import collect, publish_all, read_curves
from histofuse.tracking.store import Store, open_store

SHOWN = ("figures/", "explain/", "assessment/")


def count(store):
    runs = store.client.search_runs([store.experiment_id])
    return len(runs), len(store.client.search_model_versions())


def run_of(store, name):
    version = next(v for v in store.list_versions() if v.name == name)
    return store.client.get_run(version.run_id)


def test_everything_of_a_model_is_logged(project, artifacts_of):
    outcome = publish_all()

    assert outcome.written == ["histofuse-resnet18", "histofuse-mlp"]
    store = open_store()
    run = run_of(store, "histofuse-mlp")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/auroc/macro"] == 0.8
    assert "test/brier" not in run.data.metrics
    assert run.data.params["augmentation.flips"] == "True"
    assert run.data.params["seed"] == "1"
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["patches"]
    history = store.client.get_metric_history(run.info.run_id, "curve/train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.9), (2, 0.7)]
    assert [
        m.step
        for m in store.client.get_metric_history(run.info.run_id, "curve/validation/auroc/macro")
    ] == [2]
    files = artifacts_of(store, run.info.run_id)
    assert {"figures/roc.png", "explain/shap/waterfall_high.png", "provenance.json"} <= set(files)
    assert "assessment/reliability.png" in files
    assert "model/artifacts/bundle/predictions.parquet" in files
    version = store.client.get_model_version("histofuse-mlp", "1")
    assert "simulated data" in version.description
    assert version.run_id == run.info.run_id


def test_intervals_and_faithfulness_are_metrics(project):
    publish_all()
    store = open_store()
    mlp = run_of(store, "histofuse-mlp").data.metrics
    assert mlp["interval_low/test.auroc.macro"] == 0.7
    assert mlp["interval_high/test.auroc.macro"] == 0.9
    assert not [name for name in mlp if "brier" in name]
    image = run_of(store, "histofuse-resnet18").data.metrics
    assert image["faithfulness/cam_mass_inside"] == 0.2
    assert image["interval_low/faithfulness.cam_mass_inside"] == 0.1
    assert not [name for name in mlp if "faithfulness" in name]


def test_twice_adds_nothing_and_does_not_import_mlflow(project):
    publish_all()
    before = DATABASE.read_bytes()

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom histofuse.tracking.publish import publish_all\n"
            "o = publish_all()\nprint(o.written, 'mlflow' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "[] False"
    assert DATABASE.read_bytes() == before


def test_new_metrics_and_figures_update_the_run_and_make_no_version(project, make, artifacts_of):
    publish_all()
    store = open_store()
    before = count(store)
    make.reports(auroc=0.7)
    Path("reports/figures/mlp/roc.png").rename("reports/figures/mlp/curve.png")

    assert publish_all().written == ["histofuse-resnet18", "histofuse-mlp"]

    run = run_of(store, "histofuse-mlp")
    assert run.data.metrics["test/auroc/macro"] == 0.7
    files = artifacts_of(store, run.info.run_id)
    assert "figures/curve.png" in files
    assert "figures/roc.png" not in files
    assert "model/artifacts/bundle/weights.safetensors" in files
    assert count(store) == before
    assert publish_all().written == []


def test_metric_that_is_no_longer_defined_is_not_shown_as_it_was(project, make):
    publish_all()
    make.reports(auroc=None)
    publish_all()
    value = run_of(open_store(), "histofuse-mlp").data.metrics["test/auroc/macro"]
    assert value != value


def test_retrained_model_is_a_new_version(project, make):
    publish_all()
    make.bundle("mlp", "tabular", weights=b"other")

    assert publish_all().written == ["histofuse-mlp"]

    numbers = [v.number for v in open_store().list_versions() if v.name == "histofuse-mlp"]
    assert numbers == [1, 2]
    make.bundle("mlp", "tabular")
    assert publish_all().written == []


def test_a_retrained_model_carries_no_number_of_the_bundle_before(
    project, make, artifacts_of, capsys
):
    publish_all()
    make.bundle("mlp", "tabular", weights=b"other")
    make.bundle("resnet18", "image", weights=b"other")
    capsys.readouterr()
    publish_all()

    store = open_store()
    for name in ("mlp", "resnet18"):
        version = store.client.get_model_version(f"histofuse-{name}", "2")
        assert "0.800" not in version.description
        assert "explanations | tested" not in version.description
        run = store.client.get_run(version.run_id)
        assert not [m for m in run.data.metrics if not m.startswith("curve/")]
        assert not [f for f in artifacts_of(store, version.run_id) if f.startswith(SHOWN)]
    said = " ".join(capsys.readouterr().err.split())
    for of, report in (
        ("mlp", "metrics.json"),
        ("mlp", "assessment/assessment.json"),
        ("mlp", "explain/shap/mlp"),
        ("resnet18", "explain/gradcam/resnet18"),
    ):
        assert f"left out of histofuse-{of}: reports/{report}: is of bundle " in said

    make.reports(auroc=0.7)
    publish_all()
    assert "0.700" in store.client.get_model_version("histofuse-mlp", "2").description


@pytest.mark.parametrize("changed", [b"{}", b'{"digest": "0123456789ab"}'])
def test_one_file_of_another_bundle_leaves_its_folder_out(project, artifacts_of, changed):
    folder = Path("reports/explain/gradcam/resnet18")
    (folder / "summary.json").write_bytes(changed)
    publish_all()
    store = open_store()
    run = run_of(store, "histofuse-resnet18")
    assert "faithfulness/cam_mass_inside" not in run.data.metrics
    files = artifacts_of(store, run.info.run_id)
    assert "figures/roc.png" in files
    assert not [f for f in files if f.startswith("explain/")]


@pytest.mark.parametrize("retrained", [None, "resnet18", "fusion_permuted"])
def test_comparison_of_another_bundle_is_left_out(project, make, artifacts_of, retrained):
    fused = ("fusion_label_blind", "fusion_permuted")
    for name in fused:
        make.bundle(name, "fusion")
    known = make.metrics()
    for name in fused:
        known["declared"][name] = {"digest": open_bundle(Path("models") / name).digest}
    known["paired"] = {name: {"image_model": "resnet18"} for name in fused}
    write_json(known, Path("reports/metrics.json"))
    figure = Path("reports/figures/comparison/fusion_vs_resnet.png")
    figure.parent.mkdir()
    figure.write_bytes(b"figure")
    if retrained:
        make.bundle(retrained, "image" if retrained == "resnet18" else "fusion", weights=b"other")

    rule, bundle = "label_blind", open_bundle(Path("models/fusion_label_blind"))
    collected = collect(bundle, Path("reports"), rule)
    assert ("figures/fusion_vs_resnet.png" in collected.figures) == (retrained is None)
    assert bool(collected.left_out) == (retrained is not None)


def test_row_level_files_of_restricted_patients_stay_behind(project, make, artifacts_of):
    make.restricted()
    publish_all()

    store = open_store()
    files = artifacts_of(store, run_of(store, "histofuse-mlp").info.run_id)
    assert {"figures/roc.png", "assessment/reliability.png"} <= set(files)
    single = ("waterfall", "row_level", "predictions", "beeswarm", "confusion")
    assert not [f for f in files if any(word in f for word in single)]
    of_images = artifacts_of(store, run_of(store, "histofuse-resnet18").info.run_id)
    assert "model/artifacts/bundle/predictions.parquet" in of_images


def test_tissue_of_restricted_images_stays_behind(project, make, artifacts_of):
    make.bundle("resnet18", "image", source="restricted")
    make.reports()
    publish_all()

    store = open_store()
    files = artifacts_of(store, run_of(store, "histofuse-resnet18").info.run_id)
    assert {"figures/roc.png", "explain/gradcam/faithfulness.json"} <= set(files)
    tissue = ("Case_", "contact_sheet", "predictions")
    assert not [f for f in files if any(word in f for word in tissue)]
    of_records = artifacts_of(store, run_of(store, "histofuse-mlp").info.run_id)
    assert "explain/shap/beeswarm.png" in of_records


@pytest.mark.parametrize("step", ["log_batch", "log_folder", "create_version", "end_run"])
def test_publishing_cut_short_is_completed_without_doubles(project, monkeypatch, step):
    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, step, die)
        with pytest.raises(Killed):
            publish_all()

    assert publish_all().written == ["histofuse-resnet18", "histofuse-mlp"]
    store = open_store()
    assert count(store) == (2, 2)
    assert all(v.content for v in store.list_versions())
    assert publish_all().written == []


def test_lost_files_come_back_to_the_same_version(project):
    publish_all()
    shutil.rmtree("mlruns/artifacts")

    assert publish_all().written == ["histofuse-resnet18", "histofuse-mlp"]
    assert count(open_store()) == (2, 2)
    assert publish_all().written == []


def test_clone_without_a_store_gets_one_of_the_same_content(project, clone):
    publish_all()
    digests = {(v.name, v.digest) for v in open_store().list_versions()}
    clone()
    assert open_store().list_versions() == []

    publish_all()

    assert {(v.name, v.digest) for v in open_store().list_versions()} == digests


def test_moved_checkout_keeps_its_versions(project, monkeypatch):
    publish_all()
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)

    assert publish_all().written == []

    client = open_store().client
    source = client.get_model_version_download_uri("histofuse-mlp", "1")
    assert source.startswith(f"{moved}/mlruns/artifacts/")
    assert (Path(source) / "MLmodel").is_file()
    experiment = client.get_experiment_by_name("histofuse")
    assert experiment.artifact_location == f"{moved}/mlruns/artifacts"


def test_altered_bundle_is_refused(project):
    Path("models/mlp/weights.safetensors").write_bytes(b"altered")
    with pytest.raises(BundleError, match=r"weights\.safetensors has sha256"):
        publish_all()
    assert open_store().list_versions() == []


def test_model_left_over_from_earlier_params_stays_out(project, make):
    make.bundle("resnet50", "image")
    assert "histofuse-resnet50" not in publish_all().written


def test_six_processes_publish_at_once_to_a_fresh_store(project):
    shutil.rmtree("mlruns")
    command = [sys.executable, "-c", "from histofuse.tracking.publish import publish_all as p; p()"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    failed = [error for p in running if (error := p.communicate()[1]) and p.returncode]

    assert failed == []
    store = open_store()
    assert count(store) == (2, 2)
    assert {run_of(store, v.name).data.tags[CONTENT_TAG] for v in store.list_versions()}


def test_standard_deviations_are_not_curves(project, tmp_path):
    from histofuse.core.bundle import open_bundle, writing_bundle

    with writing_bundle(tmp_path / "xgboost", "xgboost") as folder:
        (folder / "history.csv").write_text("round,train_loss,train_loss_sd\n5,0.5,0.1\n")
    curves = read_curves(open_bundle(tmp_path / "xgboost"))
    assert curves == [(5, {"curve/cv/train/loss": 0.5})]


def test_runs_of_one_model_say_in_what_they_differ(project, make):
    publish_all()
    make.bundle("mlp", "tabular", weights=b"other", learning_rate=0.01)
    publish_all()
    make.bundle("mlp", "tabular", weights=b"third", learning_rate=0.01)
    publish_all()

    runs = open_store().find_runs(MODEL_NAME_TAG, "mlp")
    assert [run.info.run_name for run in runs] == [
        "mlp",
        "mlp (learning_rate 0.01)",
        "mlp (other data or code)",
    ]
    assert runs[1].data.tags["histofuse.differs_in"] == "learning_rate 0.01"
    make.reports(auroc=0.7)
    publish_all()
    again = open_store().find_runs(MODEL_NAME_TAG, "mlp")
    assert [run.info.run_name for run in again] == [run.info.run_name for run in runs]


def test_the_table_of_runs_links_to_their_versions(project):
    publish_all()
    store = open_store()
    assert run_of(store, "histofuse-mlp").data.tags["mlflow.log-model.history"] == "[]"
    [view] = [
        value
        for name, value in store.client.get_experiment(store.experiment_id).tags.items()
        if name.startswith("mlflow.sharedViewState.")
    ]
    assert "attributes.`Models`" in json.loads(view)["selectedColumns"]
