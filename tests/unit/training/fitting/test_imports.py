"""What a training process imports: what takes a second and is not needed stays out."""

import subprocess
import sys
from pathlib import Path

PIPELINES = Path(__file__).parents[4] / "pipelines"
STAGES = ("train_tabular", "train_fusion", "train_image")
HEAVY = ("lightning", "torchvision", "timm", "mlflow", "matplotlib", "shap")
TRAIN = """
import sys, torch
sys.path.insert(0, {folder!r})
for stage in {stages!r}:
    __import__(stage)
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.recipe import ParameterGroup, Recipe, Rows
network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
rows = Rows((torch.randn(8, 4),), torch.arange(8) % 2)
groups = (ParameterGroup("all", tuple(network.parameters()), 1e-2),)
fit(network, rows, rows, Recipe(1, 4, 1, "auroc", 1, groups, precision="bf16"))
print([name for name in {heavy!r} if name in sys.modules])
"""


def test_a_training_imports_no_frameworks():
    code = TRAIN.format(folder=str(PIPELINES), stages=STAGES, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
