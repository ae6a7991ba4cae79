import json
from dataclasses import replace

import numpy as np
import pytest

from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.intervals import describe_intervals, explain_intervals
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)


@pytest.fixture
def evaluated(models, context, measured):
    def evaluate(*chosen):
        known = context()
        results, _, intervals = measured(list(chosen) or models, known)
        return results, intervals, known

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
    expected = BOOTSTRAP.estimate_metrics(results[1].model.of("test"))

    assert intervals.of["mlp"] == expected
    found = describe_intervals(intervals, "test")["models"]["mlp"]["test/auroc/death"]
    assert found["low"] == pytest.approx(expected["auroc/death"].low, abs=1e-6)
    assert found["groups"] == 8
    assert found["note"] == ""


def test_fusion_less_image_is_paired(evaluated, models):
    _, intervals, _ = evaluated()
    image, aligned = models[0].of("test"), models[2].of("test")

    assert set(intervals.minus_image) == {"fusion_aligned", "fusion_label_blind"}
    expected = BOOTSTRAP.estimate_differences(aligned, image)
    found = intervals.minus_image["fusion_aligned"]
    assert found == expected
    assert found["accuracy"].value == pytest.approx(0.3)


def test_fusion_of_linked_patches_is_held_against_the_image_model_on_these(evaluated, models):
    image, linked = models[0], models[2]
    linked = linked.take(np.flatnonzero(np.arange(len(linked)) % 10 > 1))  # mitoses are not linked
    _, intervals, _ = evaluated(image, linked)

    # The image model errs on one of these eight.
    found = describe_intervals(intervals, "test")["minus_image_model"]["fusion_aligned"]
    assert found["test/accuracy"]["value"] == pytest.approx(1 / 8)


def test_models_of_one_kind_are_paired_on_their_rows_and_never_on_others(evaluated, models):
    mlp = models[1]
    rng = np.random.default_rng(2)
    other = replace(mlp, name="xgboost", predictions=rng.integers(0, 2, len(mlp)))
    _, intervals, _ = evaluated(*models, other)

    assert set(intervals.between) == {("xgboost", "mlp")}
    expected = BOOTSTRAP.estimate_differences(other.of("test"), mlp.of("test"))
    found = intervals.between["xgboost", "mlp"]
    assert found == {m: replace(i, probability_above=None) for m, i in expected.items()}
    described = describe_intervals(intervals, "test")["between_models"]["xgboost - mlp"]
    assert described["test/accuracy"]["value"] == pytest.approx(found["accuracy"].value)

    fewer = other.take(np.arange(1, len(other)))
    _, intervals, _ = evaluated(mlp, fewer)
    assert intervals.between == {}


def test_it_is_said_how_intervals_were_made_and_of_how_few_cases(evaluated):
    notes = explain_intervals(*evaluated())

    assert notes[0] == (
        "In brackets 90% intervals: percentile bootstrap, 200 resamples of whole cases or patients."
    )
    assert "Of 2 cases and 8 patients an interval says little" in notes[1]
