"""ImageNet weights from a file, on real frames, three folds by case."""

import pandas as pd
import pytest
import torch
from project import Project, copy_sources
from safetensors.torch import load_file

pytestmark = [pytest.mark.e2e, pytest.mark.real]

# One frozen epoch: enough to see that the weights are the file's; how good they are is a matter
# for benchmarks/squeezenet_by_case.py.
SHORT = {
    "backbone": "torchvision/squeezenet1_0",
    "input_px": 64,
    "epochs": 1,
    "batch_size": 32,
    "frozen_epochs": 1,
}


@pytest.fixture(scope="module")
def trained(real_data, tmp_path_factory) -> tuple[Project, list[pd.DataFrame]]:
    """The project, and the predictions of each fold on all patches."""
    project = copy_sources(tmp_path_factory.mktemp("pretrained") / "histofuse")
    weights = str(real_data / "weights" / "squeezenet1_0_imagenet.safetensors")
    section = project.get_param("image.resnet18") | SHORT | {"weights": weights}
    project.set_image_model("squeezenet", section)
    project.set_params(
        {
            "data.brecahad": str(real_data / "brecahad"),
            "splits.images.folds": 3,
            "splits.images.validation_unit": "frame",
            # Case 11 has no mitosis.
            "splits.images.classes_required": ["tumour", "non_tumour"],
        }
    )
    tables = []
    for fold in range(3):
        project.set_params({"splits.images.test_fold": fold})
        project.repro("train_image@squeezenet")
        tables.append(pd.read_parquet(project.root / "models/squeezenet/predictions.parquet"))
    return project, tables


def test_each_case_is_tested_once_by_a_model_that_never_saw_it(trained):
    _, predictions = trained
    tested = [set(t.loc[t["split"] == "test", "case_id"]) for t in predictions]
    seen = [set(t.loc[t["split"] != "test", "case_id"]) for t in predictions]
    assert sorted(map(tuple, tested)) == [("Case_10",), ("Case_11",), ("Case_12",)]
    assert all(not t & s for t, s in zip(tested, seen, strict=True))


def test_frozen_backbone_is_the_one_in_the_file(trained, real_data):
    project, _ = trained
    given = load_file(real_data / "weights" / "squeezenet1_0_imagenet.safetensors")
    kept = load_file(project.root / "models/squeezenet/weights.safetensors")
    features = {name: value for name, value in given.items() if name.startswith("features.")}
    assert len(features) > 40
    assert all(torch.equal(kept[f"backbone.{name}"], value) for name, value in features.items())
