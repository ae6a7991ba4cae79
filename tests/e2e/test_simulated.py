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

# Stages that import the fusion model.
FUSION = {"tune_fusion", "train_fusion", "controls", "explain_fusion"}

# Run once more by other tests here, which compare their outputs as well.
REPEATED = {
    "code",
    "patches",
    "train_image",
    "publish_encoders",
    "embed",
    "pair",
    "train_fusion",
    "controls",
    "explain_fusion",
    *VIEWS,
}

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
paths = [
    mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")
    for version in versions
]
print(json.dumps({
    "folders": sorted({path.partition("/mlruns/")[0] for path in paths}),
    "models": sorted(v.name for v in versions),
    "digests": sorted(v.tags["histofuse.bundle_digest"] for v in versions),
    "runs": len(runs),
    "trials": sorted(r.info.run_name.removesuffix(" (pruned)") for r in studies),
}))
"""


def read_registry(project: Project) -> dict:
    """List the registered versions, whose artifacts all lie in the project."""
    project_uri = f"sqlite:///{project.root}/mlruns/mlflow.db"
    done = project.run(
        "python", "-c", f"import mlflow; mlflow.set_tracking_uri({project_uri!r})\n{LIST_REGISTRY}"
    )
    listed = json.loads(done.stdout.strip().splitlines()[-1])
    assert listed.pop("folders") == [str(project.root)]
    return listed


@pytest.fixture(scope="module")
def registry(built) -> dict:
    """What the built project has registered."""
    return read_registry(built)


def test_every_model_is_trained_evaluated_explained_and_registered(built, registry):
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


def test_second_run_elsewhere_only_shows_what_ran_and_adds_nothing(project, registry):
    moved = Project(project.root.rename(project.root.with_name("moved")))
    assert set(moved.repro()) == VIEWS
    assert read_registry(moved) == registry


def test_a_stage_of_each_kind_gives_the_same_bytes_again(project):
    before = project.lock
    again = {get_kind(name): name for name in project.digests if get_kind(name) not in REPEATED}
    assert len(again) > 20
    ran = project.repro("--force", "--single-item", *again.values())
    assert ran == [*again.values()]
    assert project.lock == before


def list_outs(project: Project) -> dict:
    """List what each stage wrote, but what the code itself is an input of."""
    named_by_code = {"code", "tune_fusion@fusion"}  # a study of other code is another study
    stages = project.digests.items()
    return {name: stage.get("outs") for name, stage in stages if name not in named_by_code}


def get_kind(stage: str) -> str:
    return stage.partition("@")[0]


def append(file: Path, text: str) -> None:
    with file.open("a") as source:
        source.write(text)


def test_edits_rerun_what_imports_them_and_nothing_that_follows(project):
    """A comment, a docstring, tracking, a model and a new import, all at once."""
    before, package = list_outs(project), project.root / "src/histofuse"
    append(package / "core/errors.py", "\n# An edit that changes nothing.\n")
    image = package / "training/image.py"
    image.write_text(image.read_text().replace('"""', '"""An edit that changes nothing. ', 1))
    for file in (*(package / "tracking").glob("*.py"), package / "models/fusion.py"):
        append(file, "\nUNUSED = 1\n")
    (package / "data/new.py").write_text("UNUSED = 1\n")
    append(project.root / "pipelines/pair.py", "\nimport histofuse.data.new\n")

    ran = {get_kind(name) for name in project.repro()}

    tracking, imported = {"publish_encoders"}, {"pair"}
    assert ran == {"code", *tracking, *imported, *FUSION, *VIEWS}
    assert list_outs(project) == before


def test_edit_of_the_fusion_model_reruns_fusion_and_what_follows(project):
    model = project.root / "src/histofuse/models/fusion.py"
    model.write_text(model.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    one = "train_fusion@label_blind"

    ran = project.repro(one)
    due = {get_kind(name) for name in project.repro("--dry")}

    assert ran == ["code", one]
    measured = {"evaluate", "assess", "alarms"}
    assert due == {*FUSION, *measured, *VIEWS}


def test_fusion_works_where_the_registry_was_lost(project):
    before = project.digests
    shutil.rmtree(project.root / "mlruns")
    project.drop_stages("embed")

    assert project.repro("--no-run-cache", "embed") == ["embed"]

    assert project.digests == before
    assert "histofuse-mlp" in read_registry(project)["models"]


def test_fresh_clone_with_the_shared_cache_trains_nothing(built, registry, tmp_path):
    clone = Project(tmp_path / "clone")
    built.run("git", "clone", "--quiet", str(built.root), str(clone.root))
    clone.run("dvc", "cache", "dir", "--local", str(built.root / ".dvc" / "cache"))

    clone.run("dvc", "checkout")
    assert set(clone.repro()) == VIEWS

    assert read_registry(clone) == registry


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

    assert project.digests == before


def test_deleted_store_comes_back_though_publishing_is_killed(project, registry):
    shutil.rmtree(project.root / "mlruns")

    project.kill_when(
        lambda: len(list((project.root / "mlruns/artifacts").rglob("manifest.json"))) >= 3,
        "histofuse",
        "publish",
    )
    assert set(project.repro()) == VIEWS

    assert read_registry(project) == registry
