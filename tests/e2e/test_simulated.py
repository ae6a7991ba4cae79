"""The whole pipeline on small simulated data: what runs, what does not, what survives a kill."""

import html
import json
import shutil
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.e2e

REGISTERED = {
    "histofuse-detector",
    "histofuse-simple-cnn",
    "histofuse-resnet18",
    "histofuse-logistic-regression",
    "histofuse-gradient-boosting",
    "histofuse-mlp",
    "histofuse-xgboost",
    "histofuse-fusion",
    "histofuse-fusion-permuted",
    "histofuse-fusion-label-aligned",
    *(f"histofuse-patient-{side}" for side in ("image", "record")),
    *(f"histofuse-patient-{how}" for how in ("early-logistic", "early-xgboost", "late-mean")),
    *(f"histofuse-patient-{how}" for how in ("late-stacked", "intermediate", "gated")),
    *(f"histofuse-patient-{how}" for how in ("bilinear", "cross-attention")),
}

# Stages that show what ran: they always run, and write only what is new.
VIEWS = {"report", "publish"}

STUDIES = [
    "fusion trial 0",
    "fusion trial 1",
    "study fusion",
    "study xgboost",
    "xgboost trial 0",
    "xgboost trial 1",
    "xgboost trial 2",
]

LIST_REGISTRY = """
import json, mlflow
client = mlflow.MlflowClient()
versions = client.search_model_versions()
runs = mlflow.search_runs(experiment_names=["histofuse"], output_format="list")
studies = mlflow.search_runs(experiment_names=["histofuse-studies"], output_format="list")
for version in versions:
    path = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")
print(json.dumps({
    "models": sorted(v.name for v in versions),
    "digests": sorted(v.tags["histofuse.bundle_digest"] for v in versions),
    "runs": len(runs),
    "trials": sorted(r.info.run_name.removesuffix(" (pruned)") for r in studies),
}))
"""


def read_registry(project: Project) -> dict:
    """List the registered versions, after downloading the artifacts of each."""
    project_uri = f"sqlite:///{project.root}/mlruns/mlflow.db"
    done = project.run(
        "python", "-c", f"import mlflow; mlflow.set_tracking_uri({project_uri!r})\n{LIST_REGISTRY}"
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_model_is_trained_evaluated_explained_and_registered(built):
    metrics = json.loads((built.root / "reports/metrics.json").read_text())["models"]
    patients = json.loads((built.root / "reports/patients/metrics.json").read_text())["models"]
    trained = {p.parent.name for p in (built.root / "models").rglob("manifest.json")}
    assert {*metrics, *patients, "detector"} == trained
    assert metrics["resnet18"]["test/auroc/mitosis"] is not None
    shown = json.loads(built.run("dvc", "metrics", "show", "--json").stdout)
    headline = shown[""]["data"]["reports/headline.json"]["data"]
    assert set(headline) == set(metrics)
    assert str(headline).count(":") - len(headline) <= 30
    assert built.run("dvc", "metrics", "diff").returncode == 0

    registry = read_registry(built)
    assert set(registry["models"]) == REGISTERED
    assert registry["runs"] == len(REGISTERED)
    assert registry["trials"] == STUDIES

    for table in ("table1_image", "table2_tabular", "table3_all"):
        assert (built.root / f"reports/tables/{table}.md").read_text().count("|") > 10
    assert list((built.root / "reports/explain/gradcam/resnet18").rglob("*.png"))
    assert list((built.root / "reports/explain/shap/xgboost").rglob("*.png"))
    assert list((built.root / "reports/explain/fusion/fusion_label_blind").glob("case_card*.png"))


def test_the_report_is_one_page_that_says_what_is_simulated_and_what_leaks(built):
    page = (built.root / "reports/index.html").read_text()
    assert "<html lang" in page
    assert "Simulated data" in page
    alarms = json.loads((built.root / "reports/alarms.json").read_text())["alarms"]
    assert [a["model"] for a in alarms if a["severity"] == "leak"] == ["fusion_label_aligned"]
    assert alarms[0]["detail"] in html.unescape(page)


def test_second_run_only_shows_what_ran_and_adds_nothing(project):
    before = read_registry(project)
    assert set(project.repro()) == VIEWS
    assert read_registry(project) == before


def test_forced_run_gives_the_same_bytes(project):
    before = project.lock
    ran = project.repro("--force")
    assert len(ran) > 20
    assert project.lock == before
    assert read_registry(project)["runs"] == len(REGISTERED)


def append(file: Path, text: str) -> None:
    with file.open("a") as source:
        source.write(text)


def test_edit_of_a_comment_or_docstring_reruns_code_alone(project):
    append(project.root / "src/histofuse/core/errors.py", "\n# An edit that changes nothing.\n")
    image = project.root / "src/histofuse/training/image.py"
    image.write_text(image.read_text().replace('"""', '"""An edit that changes nothing. ', 1))
    assert set(project.repro()) == {"code", *VIEWS}


def test_edit_of_the_fusion_model_reruns_fusion_and_what_follows(project):
    model = project.root / "src/histofuse/models/fusion.py"
    fusion = {"tune_fusion", "train_fusion", "controls", "explain_fusion"}

    append(model, "\nUNUSED = 1\n")
    ran = {name.split("@")[0] for name in project.repro()}
    assert ran == {"code", *fusion, *VIEWS}, "same bytes: nothing that follows is due"

    model.write_text(model.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    ran = {name.split("@")[0] for name in project.repro()}
    measured = {"evaluate", "assess", "alarms"}
    assert ran == {"code", *fusion, *measured, *VIEWS}


def test_edit_of_tracking_trains_nothing(project):
    for file in (project.root / "src/histofuse/tracking").glob("*.py"):
        append(file, "\nUNUSED = 1\n")
    assert set(project.repro()) == {"code", "publish_encoders", *VIEWS}


def test_new_import_needs_no_edit_of_the_pipeline(project):
    module = project.root / "src/histofuse/data/new.py"
    module.write_text("UNUSED = 1\n")
    append(project.root / "pipelines/pair.py", "\nimport histofuse.data.new\n")
    ran = {name.split("@")[0] for name in project.repro()}
    assert ran == {"code", "pair", *VIEWS}


def test_deleted_store_comes_back(project):
    before = read_registry(project)
    shutil.rmtree(project.root / "mlruns")

    assert set(project.repro()) == VIEWS

    assert read_registry(project) == before


def test_fusion_works_where_the_registry_was_lost(project):
    before = project.digests
    shutil.rmtree(project.root / "mlruns")
    project.drop_stages("embed")

    assert project.repro("--no-run-cache", "embed") == ["embed"]

    assert project.digests == before
    assert "histofuse-mlp" in read_registry(project)["models"]


def test_fresh_clone_with_the_shared_cache_trains_nothing(built, tmp_path):
    clone = Project(tmp_path / "clone")
    built.run("git", "clone", "--quiet", str(built.root), str(clone.root))
    clone.run("dvc", "cache", "dir", "--local", str(built.root / ".dvc" / "cache"))

    clone.run("dvc", "checkout")
    assert set(clone.repro()) == VIEWS

    assert read_registry(clone) == read_registry(built)


def test_moved_checkout_keeps_its_registry(project):
    before = read_registry(project)
    moved = Project(project.root.rename(project.root.with_name("moved")))

    assert set(moved.repro()) == VIEWS

    assert read_registry(moved) == before


@pytest.mark.parametrize(
    ("stage", "sign"),
    [
        ("patches", "data/.patches.*.tmp/*"),
        ("train_image@resnet18", ".histofuse/checkpoints/resnet18/*/*.ckpt"),
    ],
)
def test_killed_stage_completes_with_the_same_bytes(project, stage, sign):
    before = project.digests
    project.drop_stages(stage)

    repro = ("--no-run-cache", stage)
    project.kill_when(lambda: any(project.root.glob(sign)), "dvc", "repro", *repro)
    assert project.repro(*repro) == [stage]
    project.repro()

    assert project.digests == before


def test_killed_publishing_completes_without_doubles(project):
    before = read_registry(project)
    shutil.rmtree(project.root / "mlruns")

    project.kill_when(
        lambda: len(list((project.root / "mlruns/artifacts").rglob("manifest.json"))) >= 3,
        "histofuse",
        "publish",
    )
    project.run("histofuse", "publish")

    assert read_registry(project) == before
