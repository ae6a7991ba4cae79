import json

from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.tracking.model_card import write_card


def card(tmp_path, metrics=None, **config):
    with writing_bundle(tmp_path / "m", "m") as folder:
        (folder / "config.json").write_text(json.dumps({"kind": "fusion", **config}))
    return write_card("histofuse-fusion", open_bundle(tmp_path / "m"), metrics or {})


def test_simulation_and_leaks_are_said(tmp_path):
    text = card(tmp_path, source="simulated", leaky=True)
    assert "Trained on simulated data" in text
    assert "label leaks" in text


def test_real_and_honest_model_is_not_called_otherwise(tmp_path):
    text = card(tmp_path, source="brecahad", leaky=False)
    assert "simulated" not in text
    assert "leak" not in text


def test_scores_are_tabled_and_undefined_ones_shown_as_such(tmp_path):
    text = card(tmp_path, {"test/auroc/macro": 0.8125, "validation/auroc/macro": None})
    assert "| auroc/macro | – | 0.812 |" in text
    assert "brier" not in text


def test_card_fits_into_the_registry(tmp_path):
    assert len(card(tmp_path, classes=["c" * 100] * 100)) <= 5000
