from pathlib import Path

import pytest
from ruamel.yaml import YAML

from histofuse.core.errors import InputError
from histofuse.params.base import load_section
from histofuse.params.promotion import PromotionParams, is_lower_better

ROOT = Path(__file__).parents[3]
SECTION = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")["promotion"]


def load(tmp_path, **changes):
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump({"promotion": {**SECTION, **changes}}, file)
    return load_section(PromotionParams, "promotion", path)


def test_section_of_the_project_holds_the_minority_to_the_production_version(tmp_path):
    params = load(tmp_path)
    assert any("minority" in metric for metric in params.margins.patches)
    assert any("minority" in metric for metric in params.margins.admissions)
    assert params.alarm_at == 0.98


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interval", "basic"),
        ("few_groups", "ignore"),
        ("fewest_groups", 1),
        ("resamples", 10),
        ("confidence", 1.0),
        ("tolerance", 0.0),
        ("split_units", []),
        ("split_units", ["patch"]),
        ("alarm_at", 1.5),
        ("alarm_metrics", ["brier"]),
        ("external_validation", "needed"),
        ("external_validation", ["image", "patient"]),
    ],
)
def test_nonsense_is_refused_by_its_key(tmp_path, key, value):
    with pytest.raises(InputError, match=f"promotion.{key}"):
        load(tmp_path, **{key: value})


def test_errors_have_upper_limits():
    assert all(is_lower_better(m) for m in ("brier", "ece/macro", "ece/mitosis"))
    assert not any(is_lower_better(m) for m in ("auroc/ece", "recall/mitosis", "accuracy"))


@pytest.mark.parametrize(
    "bars", [{"ece": 0.1}, {"auroc/mitosis": 0.1}, {"auc/macro": 0.1}, {"auroc/macro": -0.1}, {}]
)
def test_bars_are_known_metrics_and_no_negative_margins(tmp_path, bars):
    margins = {**SECTION["margins"], "patches": bars}
    with pytest.raises(InputError, match=r"promotion\.margins\.patches"):
        load(tmp_path, margins=margins)


@pytest.mark.parametrize("metric", ["recall/minority", "precision/macro", "f1/macro", "accuracy"])
def test_metrics_of_decisions_are_not_compared_between_models(tmp_path, metric):
    margins = {**SECTION["margins"], "patches": {metric: 0.1}}
    with pytest.raises(InputError, match=r"promotion\.margins.*thresholds of its own"):
        load(tmp_path, margins=margins)
    with pytest.raises(InputError, match=r"promotion\.encoder_margins"):
        load(tmp_path, encoder_margins={metric: 0.1})
