from pathlib import Path

import pytest
from ruamel.yaml import YAML

from histofuse.core.errors import InputError
from histofuse.params.base import load_section
from histofuse.params.promotion import AlarmParams, ControlParams

SECTIONS = YAML(typ="safe", pure=True).load(Path(__file__).parents[3] / "params.yaml")


@pytest.mark.parametrize(
    ("model", "section", "key", "value"),
    [
        (AlarmParams, "alarms", "feature_auroc", 0.4),
        (AlarmParams, "alarms", "feature_fewest_rows", 0),
        (AlarmParams, "alarms", "fit_tolerance", 0.5),
        (
            AlarmParams,
            "alarms",
            "validation_test_gap",
            {"patches": {"auc": 0.1}, "admissions": {"brier": 0.1}},
        ),
        (ControlParams, "controls", "repeats", 2),
        (ControlParams, "controls", "metrics", ["auroc/mitosis"]),
        (ControlParams, "controls", "tabular", "mlp"),
        (ControlParams, "controls", "gain_margin", 0),
        (ControlParams, "controls", "chance_margin", 0.5),
    ],
)
def test_nonsense_is_refused_by_its_key(tmp_path, model, section, key, value):
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump({section: {**SECTIONS[section], key: value}}, file)
    with pytest.raises(InputError, match=f"{section}.{key}"):
        load_section(model, section, path)
