from typing import Annotated

import pytest
from pydantic import Field

from histofuse.core.errors import InputError
from histofuse.params.base import (
    Section,
    check_names,
    load_keys,
    load_section,
    load_seed,
    load_value,
)


class FusionLike(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    epochs: int
    shuffle: bool


def write(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_yaml_is_read_as_version_1_2(tmp_path):
    path = write(tmp_path, "fusion: {learning_rate: 1e-3, epochs: 5, shuffle: true}\nanswer: no\n")
    assert load_section(FusionLike, "fusion", path).learning_rate == 0.001


def test_every_bad_key_is_named_with_its_value(tmp_path):
    path = write(tmp_path, "a: {fusion: {learning_rate: -1, epochs: '5', suffle: true}}")

    with pytest.raises(InputError) as error:
        load_section(FusionLike, "a.fusion", path)

    message = str(error.value)
    assert "a.fusion.learning_rate: is -1; expected greater than 0" in message
    assert "a.fusion.epochs: is '5'; expected a valid integer" in message
    assert "a.fusion.shuffle: missing" in message
    assert "a.fusion.suffle: unknown key" in message


def test_a_key_twice_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, "fusion:\n  epochs: 5\n  epochs: 6\n")
    with pytest.raises(InputError, match=r'(?s)duplicate key "epochs".*line 3'):
        load_section(FusionLike, "fusion", path)


def test_missing_section_lists_what_is_there(tmp_path):
    path = write(tmp_path, "image: {}\nfusion: {}")
    with pytest.raises(InputError, match=r"no section 'fusio'; expected one of: image, fusion"):
        load_section(FusionLike, "fusio", path)


def test_missing_and_broken_files_are_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_section(FusionLike, "fusion", tmp_path / "none.yaml")
    with pytest.raises(InputError, match="not YAML"):
        load_section(FusionLike, "fusion", write(tmp_path, "a: [1,"))


@pytest.mark.parametrize("text", ["seed: 1.5", "seed: -1", "seed: true", "seed: 'x'"])
def test_seed_is_a_whole_number(tmp_path, text):
    with pytest.raises(InputError, match="whole number"):
        load_seed(write(tmp_path, text))
    assert load_seed(write(tmp_path, "seed: 3")) == 3


def test_keys_are_listed_in_the_order_of_the_file(tmp_path):
    path = write(tmp_path, "image: {simple_cnn: {}, resnet18: {a: 1}}\nseed: 3")
    assert load_keys("image", path) == ["simple_cnn", "resnet18"]
    with pytest.raises(InputError, match="is 3; expected a mapping"):
        load_keys("seed", path)
    with pytest.raises(InputError, match="no section 'tabular'"):
        load_keys("tabular", path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("image: {'x; touch f': {}}", "params.yaml, image: the key 'x; touch f'"),
        ("tabular: {'../../x': {}}", "tabular: the key '../../x'"),
        ("pairing: {'$(id)': {}}", "pairing: the key '$(id)'"),
        ("image: {-rf: {}}", "image: the key '-rf'"),
        ("image: {a b: {}}", "image: the key 'a b'"),
        ("image: {a.b: {}}", "image: the key 'a.b'"),
        ("classes: {a/b: [x]}", "classes: the key 'a/b'"),
        ("tune: {'a\\n': {}}", "tune: the key"),
        ('image: {"a\\n": {}}', "image: the key"),
        ("image: {1: {}}", "image: the key 1"),
        (f"image: {{{'a' * 65}: {{}}}}", "at most 64"),
        ("studies: {image: ['a`id`']}", "studies.*: the name 'a`id`'"),
        ("image: {a: {study: ../b}}", "image.*.study: the name '../b'"),
        ("fusion: {study: a;b}", "fusion.study: the name 'a;b'"),
        ("encoders: {image: a/b, patient: mlp}", "encoders.*: the name 'a/b'"),
        ("evaluation: {primary_rule: '&'}", "evaluation.primary_rule: the name '&'"),
        ("explain: {shap_models: ['|', 3]}", "explain.shap_models: the name 3"),
        ("promotion: {margins: {'a b': 1}}", "promotion.margins: the key 'a b'"),
        ("a: [{'b c': 1}]", "params.yaml, a: the key 'b c'"),
    ],
)
def test_names_that_would_be_commands_or_other_paths_are_refused(tmp_path, text, named):
    path = write(tmp_path, f"{text}\nseed: 1\n")
    for load in (check_names, load_seed):
        with pytest.raises(InputError) as error:
            load(path)
        assert named in str(error.value)


def test_one_value_is_read_of_a_section_that_is_checked_whole(tmp_path):
    good = "fusion: {learning_rate: 1e-3, epochs: 5, shuffle: true}"
    assert load_value(FusionLike, "fusion.epochs", write(tmp_path, good)) == 5
