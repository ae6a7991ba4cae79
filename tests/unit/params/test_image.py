"""Section image.<name>."""

import copy
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from histofuse.params.base import load_section
from histofuse.params.image import ImageParams

PARAMS = Path(__file__).parents[3] / "params.yaml"


def load_values(name: str = "resnet18") -> dict:
    return copy.deepcopy(YAML(typ="safe").load(PARAMS)["image"][name])


@pytest.mark.parametrize("name", YAML(typ="safe").load(PARAMS)["image"])
def test_the_sections_of_the_project_are_good(name):
    assert load_section(ImageParams, f"image.{name}", PARAMS).model_dump() == load_values(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "image_net"}, "path of a .safetensors file"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"minimum_map_px": 1}, "greater than or equal to 2"),
        ({"batch_size": "64"}, "valid integer"),
        ({"head_learning_rate": 0.0}, "greater than 0"),
        ({"threshold": "youden"}, "one of"),
        ({"depth": 18}, "Extra inputs"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ImageParams.model_validate({**load_values(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [1.1, 0.9]}, "least to the largest"),
        ({"scale": [0.9]}, "at least 2 items"),
        ({"hue": 0.6}, "less than or equal to 0.5"),
        ({"rotation_degrees": 200.0}, "less than or equal to 180"),
    ],
)
def test_nonsense_in_augmentation_is_refused(change, message):
    values = load_values()
    values["augmentation"] |= change
    with pytest.raises(ValidationError, match=message):
        ImageParams.model_validate(values)
