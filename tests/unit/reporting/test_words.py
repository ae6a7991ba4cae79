import pytest

from histofuse.reporting.words import name_check, name_model, show_interval, spell_metrics


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("apart[auroc/mortality_1y]", "validation and test apart (mortality 1y AUROC)"),
        ("shared[images]", "shared (images)"),
        ("split_unit", "split unit"),
    ],
)
def test_checks_are_named_for_readers(name, shown):
    assert name_check(name) == shown


def test_metrics_within_a_sentence_are_spelled():
    text = "Above it: auprc/non_tumour +0.068, recall/mitosis 0.1; chance is 0.5."
    assert spell_metrics(text) == (
        "Above it: non-tumour AUPRC +0.068, mitosis recall 0.1; chance is 0.5."
    )


def test_value_without_interval_stands_alone():
    assert show_interval(0.5, {"low": None, "high": None}) == "0.500"
    assert show_interval(0.5, {"low": 0.25, "high": 1.0}) == "0.500 [0.250, 1.000]"
    assert show_interval(None, {}) == "–"


def test_fusion_is_named_by_its_pairing():
    assert name_model("fusion_label_blind") == "Fusion, label-blind"
