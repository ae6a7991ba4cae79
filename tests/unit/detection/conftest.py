from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from small_registry import empty_database, project

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import CONFIG, WEIGHTS, writing_bundle
from histofuse.detection.finder import THRESHOLD, NucleusFinder
from histofuse.detection.network import DetectorSpec, build_detector, describe_detector

__all__ = ["empty_database", "project"]
CLASSES = ["mitosis", "tumour", "non_tumour"]


@pytest.fixture(scope="session")
def finder() -> NucleusFinder:
    """A detector with random weights: its peaks are as local as those of a trained one."""
    torch.manual_seed(3)
    spec = DetectorSpec("resnet18", CLASSES, "imagenet", 8, [2], 0.0, 12.0, 1, 0.25)
    network = build_detector(spec, "none").eval()
    with torch.no_grad():
        network.head.weight.mul_(10)
        network.head.bias.zero_()
    return NucleusFinder(network, 0.5)


@pytest.fixture
def bundle(finder: NucleusFinder, tmp_path: Path) -> Path:
    path = tmp_path / "detector"
    with writing_bundle(path, "detector") as folder:
        state = {k: t.contiguous() for k, t in finder.network.state_dict().items()}
        (folder / WEIGHTS).write_bytes(save(state))
        config = {
            "kind": "detector",
            "name": "detector",
            "classes": CLASSES,
            "source": "simulated",
            "architecture": describe_detector(finder.network),
        }
        write_json(config, folder / CONFIG)
        write_json({"score": finder.threshold}, folder / THRESHOLD)
    return path


@pytest.fixture(scope="session")
def tissue() -> np.ndarray:
    """A pink image with dark blots, 361 x 530."""
    rng = np.random.default_rng(5)
    image = np.full((361, 530, 3), (225, 190, 210), np.uint8)
    y, x = np.mgrid[:361, :530]
    for row, column in rng.uniform((0, 0), (361, 530), (90, 2)):
        image[(y - row) ** 2 + (x - column) ** 2 < 100] = (90, 60, 140)
    return (image + rng.integers(-9, 9, image.shape)).clip(0, 255).astype(np.uint8)
