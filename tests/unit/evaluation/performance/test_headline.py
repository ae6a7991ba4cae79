import json
import subprocess
from pathlib import Path

from histofuse.core.artifacts import to_json
from histofuse.evaluation.performance.intervals import choose_headline

ROOT = Path(__file__).parents[4]


def test_headline_holds_ranking_and_calibration_of_each_model_and_what_fusion_gains(
    models, context, measured
):
    results, _, intervals = measured(models, context())
    headline = choose_headline(results, intervals, context())
    by_name = {result.name: result.metrics for result in results}
    assert headline["mlp"] == {
        "test/auroc/death": round(by_name["mlp"]["test/auroc/death"], 6),
        "test/ece/death": round(by_name["mlp"]["test/ece/death"], 6),
    }
    assert set(headline["fusion_aligned"]) == {"test/auprc/mitosis", "test/ece/mitosis"}
    blind = headline["fusion_label_blind"]
    difference = intervals.minus_image["fusion_label_blind"]["auprc/mitosis"]
    assert difference.value is not None
    assert blind["gain"]["value"] == round(difference.value, 6)
    assert set(blind["gain"]) == {"value", "low", "high"}
    gain = blind["test/auprc/mitosis"] - headline["resnet18"]["test/auprc/mitosis"]
    assert abs(blind["gain"]["value"] - gain) < 1e-5


def test_headline_of_a_split_without_the_class_has_none(models, context, measured):
    results, _, intervals = measured([models[1]], context())
    results[0].metrics["test/auroc/death"] = None
    headline = choose_headline(results, intervals, context())
    assert json.loads(to_json(headline))["mlp"]["test/auroc/death"] is None


def test_git_takes_the_headline_and_nothing_else_of_the_reports():
    names = ["reports/headline.json", "reports/metrics.json", "reports/tables/table1_image.md"]
    command = ["git", "check-ignore", "--no-index", *names]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == names[1:]
