"""No stage imports at its start what takes long and only part of its work needs."""

import subprocess
import sys
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"
NETWORKS = {
    *("controls", "crossval", "embed", "embed_linked", "evaluate_detector", "explain_fusion"),
    *("explain_image", "protocol", "train_detector", "train_fusion", "train_image"),
    *("tune_fusion", "tune_image", "tune_patients"),
}
STAGES = {path.stem for path in PIPELINES.glob("[a-z]*.py")}
ON_FIRST_USE = (
    *("captum", "lightning", "mapie", "matplotlib.pyplot", "mlflow", "optuna", "scipy.stats"),
    *("shap", "sklearn", "timm", "torch._dynamo", "torchvision", "xgboost"),
)


@pytest.mark.parametrize(
    ("stages", "heavy"),
    [(NETWORKS, ON_FIRST_USE), (STAGES - NETWORKS, ("torch", *ON_FIRST_USE))],
    ids=["networks", "others"],
)
def test_stages_import_on_first_use_what_takes_long(stages, heavy):
    code = (
        f"import sys; sys.path.insert(0, {str(PIPELINES)!r})\n"
        f"for stage in {sorted(stages)}:\n"
        "    __import__(stage)\n"
        f"    if loaded := [name for name in {heavy} if name in sys.modules]:\n"
        "        sys.exit(f'{stage} imports {loaded}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
