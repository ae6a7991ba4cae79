import pytest

from histofuse.core.errors import InputError
from histofuse.evaluation.performance.comparison import (
    compare_fusion,
    describe_pairs,
)
from histofuse.evaluation.performance.results import evaluate_model, find_focus, summarise


def evaluate(models, context):
    return [evaluate_model(model, context) for model in models]


def test_every_split_is_measured(models, context):
    image, tabular, *_ = evaluate(models, context())
    assert image.metrics["test/accuracy"] == 0.7
    assert image.metrics["test/recall/mitosis"] == 0.0
    assert image.metrics["validation/accuracy"] == 0.7
    assert tabular.metrics["test/recall/death"] == 1.0
    assert tabular.metrics["test/precision/death"] == pytest.approx(2 / 3)
    assert "validation/accuracy" not in tabular.metrics


def test_titles_are_for_readers(models, context):
    assert [r.title for r in evaluate(models, context())] == [
        "ResNet-18",
        "MLP",
        "Fusion (ResNet-18 + MLP), aligned",
        "Fusion (ResNet-18 + MLP), label-blind",
    ]


def test_leaks_are_declared_by_the_rule_not_the_name(models, context):
    assert [r.leaky for r in evaluate(models, context())] == [
        "",
        "",
        "pairing follows the label",
        "",
    ]
    by_patch = evaluate(models, context(patch_audit={"leaky": True}))
    assert [r.leaky for r in by_patch] == [
        "patches split by patch",
        "",
        "patches split by patch; pairing follows the label",
        "patches split by patch",
    ]


def test_data_are_named_by_modality(models, context):
    real = context(image_source="brecahad", patient_source="mimic-iv-demo")
    results = evaluate(models, real)
    assert [r.data for r in results[:3]] == [
        "brecahad",
        "mimic-iv-demo",
        "brecahad + mimic-iv-demo",
    ]
    assert not any(r.simulated for r in results)
    half = evaluate(models, context(image_source="brecahad"))
    assert [r.simulated for r in half] == [False, True, True, True]


def test_comparison_puts_the_primary_rule_first(models, context):
    comparison = compare_fusion(evaluate(models, context()), context())
    assert comparison is not None
    assert comparison.image.name == "resnet18"
    assert [r.name for r in comparison.fused] == ["fusion_label_blind", "fusion_aligned"]
    assert compare_fusion(evaluate(models[:2], context()), context()) is None
    assert compare_fusion(evaluate(models[1:], context()), context()) is None


def test_summary_holds_metrics_sizes_and_pairs(models, context):
    results = evaluate(models, context())
    paired = describe_pairs(compare_fusion(results, context()), context())
    summary = summarise(results, paired)

    assert list(summary["models"]) == ["resnet18", "mlp", "fusion_aligned", "fusion_label_blind"]
    assert summary["split_sizes"]["patches"]["test"] == {
        "n": 10,
        "cases": 2,
        "classes": {"mitosis": 2, "tumour": 6, "non_tumour": 2},
    }
    assert summary["split_sizes"]["admissions"]["train"]["patients"] == 32
    assert summary["declared"]["fusion_aligned"]["leaky"] == "pairing follows the label"
    aligned = summary["paired"]["fusion_aligned"]
    assert aligned["leaky"] is True
    assert aligned["rule"] == "label_aligned"
    assert aligned["patients"] == {"train": 2, "validation": 2, "test": 2}


def test_class_in_focus_is_that_of_the_bundles_on_patches(models, context):
    results = evaluate(models, context())
    assert find_focus(results) == "mitosis"
    assert find_focus(results[1:2]) is None
    models[0].config["focus_class"] = "tumour"
    assert find_focus(results) == "tumour"
    del models[0].config["focus_class"]
    with pytest.raises(InputError, match="resnet18, focus_class"):
        find_focus(results)
