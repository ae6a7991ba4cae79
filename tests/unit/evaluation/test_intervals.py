import json

import numpy as np
import pytest

from histofuse.evaluation.bootstrap import bootstrap_metrics, paired_differences
from histofuse.evaluation.comparison import compare_fusion
from histofuse.evaluation.intervals import (
    describe_intervals,
    estimate_intervals,
    make_interval_table,
)
from histofuse.evaluation.results import evaluate_model
from histofuse.params.intervals import IntervalParams

PARAMS = IntervalParams(resamples=200, confidence=0.9, method="percentile")
HOW = {"resamples": 200, "seed": 1, "confidence": 0.9, "method": "percentile"}


@pytest.fixture
def evaluated(models, facts):
    def evaluate(*chosen):
        known = facts()
        results = [evaluate_model(model, known) for model in (chosen or models)]
        comparison = compare_fusion(results, known)
        return results, estimate_intervals(results, comparison, known, PARAMS, 1), known

    return evaluate


def test_every_metric_of_the_split_has_an_interval_under_its_name(evaluated):
    results, intervals, _ = evaluated()
    described = json.loads(json.dumps(describe_intervals(intervals, "test"), allow_nan=False))

    assert described["confidence"] == 0.9
    for result in results:
        names = {name for name in result.metrics if name.startswith("test/")}
        assert set(described["models"][result.name]) == names


def test_intervals_are_those_of_the_bootstrap(evaluated):
    results, intervals, _ = evaluated()
    expected = bootstrap_metrics(results[1].model.of("test"), None, **HOW)

    assert intervals.of["mlp"] == expected
    found = describe_intervals(intervals, "test")["models"]["mlp"]["test/auroc/death"]
    assert found["low"] == pytest.approx(expected["auroc/death"].low, abs=1e-6)
    assert found["groups"] == 8
    assert "note" not in found or found["low"] is None


def test_fusion_less_image_is_paired(evaluated, models):
    _, intervals, _ = evaluated()
    image, aligned = models[0].of("test"), models[2].of("test")

    assert set(intervals.minus_image) == {"fusion_aligned", "fusion_label_blind"}
    expected = paired_differences(aligned, image, None, **HOW)
    found = intervals.minus_image["fusion_aligned"]
    assert found == {name: d.interval for name, d in expected.items()}
    assert found["accuracy"].value == pytest.approx(0.3)


def test_fusion_of_linked_patches_is_held_against_the_image_model_on_these(evaluated, models):
    image, linked = models[0], models[2]
    linked = linked.take(np.flatnonzero(np.arange(len(linked)) % 10 > 1))  # mitoses are not linked
    _, intervals, _ = evaluated(image, linked)

    found = intervals.minus_image["fusion_aligned"]["accuracy"]
    assert found.value == pytest.approx(1 / 8)  # the image model errs on one of these eight


def test_table_shows_ends_and_says_how_few_cases_there_are(evaluated):
    results, intervals, facts = evaluated()
    table = make_interval_table(results, intervals, facts)
    rows = {row["model"]: row for row in table.rows}
    death = intervals.of["mlp"]["auprc/death"]

    assert table.caption.startswith("Metrics with 90% intervals, test split. Simulated")
    assert set(table.headings) == set(table.rows[0])
    assert rows["MLP"]["groups"] == "8 patients"
    assert rows["MLP"]["auprc"] == f"{death.value:.3f} [{death.low:.3f}, {death.high:.3f}]"
    assert rows["ResNet-18"]["groups"] == "2 cases"
    assert any("Of 2 cases and 8 patients an interval says little" in n for n in table.notes)


def test_table_shows_what_is_not_defined_as_such(evaluated, models):
    image = models[0].take(np.flatnonzero(np.arange(len(models[0])) % 10 > 1))
    results, intervals, facts = evaluated(image)
    (row,) = make_interval_table(results, intervals, facts).rows

    assert row["auprc"] == row["macro_auc"] == "–"
    assert row["brier"] != "–"
