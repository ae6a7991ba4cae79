import matplotlib.image
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from histofuse.evaluation.drawing import describe_footer
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.performance import figures
from histofuse.evaluation.performance.results import evaluate_model

FILES = ["confusion.png", "precision_recall.png", "roc.png", "training.png"]


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


@pytest.mark.parametrize("columns", [["epoch"], ["round", "validation_auroc"]])
def test_training_draws_what_there_is(columns):
    history = pd.DataFrame([dict.fromkeys(columns, 1)])
    left, right = figures.draw_training(history, "x").axes
    assert len(left.lines) == 0
    assert len(right.lines) == len(columns) - 1


def test_epoch_that_was_kept_is_marked_and_one_step_is_no_curve(
    models, context, measured, tmp_path
):
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0]})
    for axes in figures.draw_training(history, "x", 2).axes:
        (mark,) = [line for line in axes.lines if line.get_label() == "kept: 2"]
        assert list(mark.get_xdata()) == [2, 2]

    results, _, intervals = measured(models, context())
    object.__setattr__(results[0].model, "history", history[:1])
    figures.draw_model_figures(results[0], "test", intervals, tmp_path)
    assert sorted(f.name for f in tmp_path.glob("*.png")) == FILES[:-1]


def test_comparison_leads_with_the_rare_class_and_leaky_models_are_hollow(
    models, context, measured, tmp_path
):
    _, comparison, intervals = measured(models, context())
    assert comparison is not None
    figure = figures.draw_comparison(comparison, intervals)
    assert "aligned (leaky)" in texts(figure)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()][:2] == ["Mitosis AUPRC", "ROC-AUC"]
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [p.get_markerfacecolor() == "white" for p in points[::6]] == [False, False, True]
    accuracy = intervals.of["resnet18"]["accuracy"]
    assert [accuracy.low, accuracy.high] in [list(line.get_xdata()) for line in axes.lines]

    figures.draw_comparison_figure(comparison, "test", intervals, tmp_path / "c.png")
    assert matplotlib.image.imread(tmp_path / "c.png").shape[1] == 1032


@pytest.mark.parametrize(("source", "marked"), [("simulated", True), ("brecahad", False)])
def test_simulated_data_are_marked_on_the_figure(models, context, source, marked):
    result = evaluate_model(models[0], context(image_source=source))
    footer = describe_footer(result, "test", result.model.of("test"))
    assert ("SIMULATED DATA" in footer) is marked
    assert "n = 10 patches of 2 cases" in footer
