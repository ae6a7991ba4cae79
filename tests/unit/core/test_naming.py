import pytest

from histofuse.core.naming import (
    is_fusion,
    name_check,
    name_fusion,
    name_metric,
    name_model,
    name_pairing,
    show_count,
    show_ends,
    show_interval,
    spell_metrics,
)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "validation_test_gap[auroc/mortality_1y]",
            "validation-test gap (mortality 1y AUROC)",
        ),
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
    assert show_interval(0.5) == "0.500"
    assert show_interval(0.5, 0.25, 1.0) == "0.500 [0.250, 1.000]"
    assert show_interval(None, 0.25, 1.0) == "–"
    assert show_ends(None, 1.0) == ""
    assert show_ends(-0.25, 1.0, "+") == "[-0.250, +1.000]"


def test_metrics_are_named():
    assert name_metric("auprc/non_tumour") == "Non-tumour AUPRC"
    assert name_metric("brier") == "brier"


def test_fusion_model_is_named_by_its_pairing_and_back():
    assert name_fusion("label_blind") == "fusion_label_blind"
    assert name_pairing(name_fusion("label_blind")) == "label_blind"
    assert is_fusion("fusion_label_blind")
    assert not is_fusion("resnet18")
    assert name_model("fusion_label_blind") == "Fusion, label-blind"
    assert name_model("resnet18") == "ResNet-18"


@pytest.mark.parametrize(
    ("number", "of", "expected"),
    [
        (1, "frames", "1 frame"),
        (0, "frames", "0 frames"),
        (1204, "frames", "1,204 frames"),
        (1, "nuclei", "1 nucleus"),
        (1, "test patches", "1 test patch"),
        (2, "studies", "2 studies"),
        (1, "cases", "1 case"),
        (1204, "", "1,204"),
    ],
)
def test_a_count_agrees_with_what_is_counted(number, of, expected):
    assert show_count(number, of) == expected
