import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from histofuse.evaluation.drawing import describe_footer
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.performance import figures
from histofuse.evaluation.performance.results import evaluate_model

FILES = ["confusion.png", "precision_recall.png", "reliability.png", "roc.png", "training.png"]


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text))


def test_a_model_gets_all_figures_the_same_bytes_each_time(models, context, measured, tmp_path):
    results, _, intervals = measured(models, context())
    for folder in ("a", "b"):
        figures.draw_model_figures(results[2], "test", intervals, tmp_path / folder)
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == FILES
    for name in FILES:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert b"Software" not in data


def test_confusion_shows_counts_and_shares(models):
    found = texts(figures.draw_confusion(models[0].of("test"), "ResNet-18"))
    assert "5\n83.3%" in found
    assert "2\n100.0%" in found
    assert "non-tumour" in found


def test_roc_and_precision_recall_name_their_areas_and_what_intervals_are_known(models):
    rows = models[1].of("test")
    known = {"auroc/death": Interval(0.833, 0.5, 0.9, 8, 1.0, "")}
    assert "death: AUC 0.833 [0.500, 0.900]" in texts(figures.draw_roc(rows, "MLP", known))
    found = texts(figures.draw_precision_recall(rows, "MLP", known))
    assert "death: AP 0.667 (chance 0.250)" in found


def test_absent_class_is_said_to_have_no_curve(models):
    rows = models[0].of("test")
    keep = rows.labels != 0
    for name in ("labels", "probabilities"):
        object.__setattr__(rows, name, getattr(rows, name)[keep])
    assert "mitosis: not defined" in texts(figures.draw_roc(rows, "x", {}))
    assert "mitosis: not defined" in texts(figures.draw_precision_recall(rows, "x", {}))


def test_reliability_points_are_the_bins(models):
    figure = figures.draw_reliability(models[1].of("test"), "MLP")
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(points, [[0.2, 0.0], [0.7, 1.0], [0.9, 0.0]])


@pytest.mark.parametrize("columns", [["epoch"], ["round", "validation_auroc"]])
def test_training_draws_what_there_is(columns):
    history = pd.DataFrame([dict.fromkeys(columns, 1)])
    left, right = figures.draw_training(history, "x").axes
    assert len(left.lines) == 0
    assert len(right.lines) == len(columns) - 1


def test_leaky_bars_are_hatched_and_named_and_have_intervals(models, context, measured, tmp_path):
    _, comparison, intervals = measured(models, context())
    assert comparison is not None
    figure = figures.draw_comparison(comparison, intervals)
    assert "aligned (leaky)" in texts(figure)
    bars = figure.axes[0].containers
    assert [bar[0].get_hatch() for bar in bars] == [None, None, "////"]
    assert [bar[4].get_height() for bar in bars] == [0.7, 0.8, 1.0]
    accuracy = intervals.of["resnet18"]["accuracy"]
    segments = [lines.get_segments()[0][:, 1].tolist() for lines in figure.axes[0].collections]
    assert [accuracy.low, accuracy.high] in segments

    figures.draw_comparison_figure(comparison, "test", intervals, tmp_path / "c.png")
    assert matplotlib.image.imread(tmp_path / "c.png").shape[1] == 1032


@pytest.mark.parametrize(("source", "marked"), [("simulated", True), ("brecahad", False)])
def test_simulated_data_are_marked_on_the_figure(models, context, source, marked):
    result = evaluate_model(models[0], context(image_source=source))
    footer = describe_footer(result, "test", result.model.of("test"))
    assert ("SIMULATED DATA" in footer) is marked
    assert "n = 10 patches of 2 cases" in footer
