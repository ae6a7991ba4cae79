import json

from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.tracking.model_card import write_card
from histofuse.tracking.names import name_end


def card(tmp_path, metrics=None, **config):
    with writing_bundle(tmp_path / "m", "m") as folder:
        (folder / "config.json").write_text(json.dumps({"kind": "fusion", **config}))
    return write_card("histofuse-fusion", open_bundle(tmp_path / "m"), metrics or {})


def test_simulation_and_leaks_are_stated(tmp_path):
    text = card(tmp_path, source="simulated", leaky=True)
    assert "Trained on simulated data" in text
    assert "label leaks" in text


def test_real_data_without_leaks_give_no_warning(tmp_path):
    text = card(tmp_path, source="brecahad", leaky=False)
    assert "simulated" not in text
    assert "leak" not in text


def test_undefined_scores_are_marked(tmp_path):
    text = card(tmp_path, {"test/auroc/macro": 0.8125, "validation/auroc/macro": None})
    assert "| auroc/macro | – | 0.812 |" in text
    assert "brier" not in text


def test_card_fits_into_the_registry(tmp_path):
    assert len(card(tmp_path, classes=["c" * 100] * 100)) <= 5000


def test_mitosis_leads_with_its_interval_and_accuracy_comes_last(tmp_path):
    metrics = {
        "test/accuracy": 0.99,
        "test/auroc/macro": 0.9,
        "test/auprc/mitosis": 0.25,
        "test/ece/mitosis": 0.04,
        "test/ece/top_label": 0.01,
        name_end("test/auprc/mitosis", "low"): 0.125,
        name_end("test/auprc/mitosis", "high"): 0.5,
    }
    text = card(tmp_path, metrics, classes=["mitosis", "tumour"], focus_class="mitosis")
    rows = [line for line in text.splitlines() if line.startswith(("| a", "| e"))]
    assert "its interval is a basic bootstrap interval" in text
    assert rows == [
        "| auprc/mitosis | – | 0.250 [0.125, 0.500] |",
        "| ece/mitosis | – | 0.040 |",
        "| auroc/macro | – | 0.900 |",
        "| accuracy | – | 0.990 |",
    ]


def test_card_shows_the_tests_of_explanations(tmp_path):
    text = card(tmp_path, {"faithfulness/cam_mass_inside": 0.25})
    assert "| cam mass inside | 0.250 |" in text
    assert "explanations" not in card(tmp_path / "other", {})


def test_card_counts_the_calibration_rows(tmp_path):
    with writing_bundle(tmp_path / "m", "m") as folder:
        (folder / "config.json").write_text(json.dumps({"kind": "image", "classes": ["a", "b"]}))
        fitted = {"n": 1200, "per_class": [34, 1166]}
        choice = {"method": "temperature_bias"}
        calibrator = {"method": "auto", "fitted_on": fitted, "choice": choice}
        (folder / "calibrator.json").write_text(json.dumps(calibrator))
    text = write_card("histofuse-m", open_bundle(tmp_path / "m"), {})
    assert "validation rows (1,200: 34 a, 1,166 b), by auto (temperature_bias)" in text


def test_first_line_says_what_distinguishes_the_version(tmp_path):
    ends = {"low": 0.21, "high": 0.345}
    metrics = {"test/auprc/mitosis": 0.25, "test/brier": 0.2, "test/accuracy": 0.9}
    metrics |= {name_end("test/auprc/mitosis", end): value for end, value in ends.items()}
    config = {
        "focus_class": "mitosis",
        "source": "simulated",
        "leaky": True,
        "pairing": {"rule": "label_aligned"},
        "encoders": {"image": {"name": "resnet18"}, "patient": {"name": "mlp"}},
    }
    line = card(tmp_path, metrics, **config).splitlines()[0]
    digest = open_bundle(tmp_path / "m").digest
    assert line == (
        "Test: auprc/mitosis 0.250 [0.210, 0.345], brier 0.200; resnet18 + mlp; "
        f"pairs label_aligned; leaky; simulated data; bundle {digest[:12]}."
    )


def test_version_without_metrics_is_not_evaluated_yet(tmp_path):
    assert card(tmp_path, source="brecahad").startswith("Not evaluated yet; brecahad data; bundle ")


def test_card_names_the_patients_of_a_crosswalk_and_what_their_encoder_knows(tmp_path):
    text = card(tmp_path, kind="patient", source="published", cohort="crosswalk")
    assert "Trained on: published data, patients whom a crosswalk links to their own tissue" in text
    assert "learnt from nuclei of its own train patients" in text
    assert "crosswalk" not in card(tmp_path / "simulated", kind="patient", source="simulated")
