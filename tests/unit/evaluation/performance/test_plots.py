from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from histofuse.evaluation.performance.plots import MOST_POINTS, write_plot_data
from histofuse.evaluation.performance.results import evaluate_model

ROOT = Path(__file__).parents[4]


def read(folder, plot, model) -> pd.DataFrame:
    return pd.read_csv(folder / plot / f"{model}.csv")


def test_plot_data_are_the_values_of_the_figures(models, context, tmp_path):
    for model in models[:2]:
        write_plot_data(evaluate_model(model, context()), "test", tmp_path)

    pairs = read(tmp_path, "confusion", "resnet18").set_index(["true", "predicted"])["count"]
    assert len(pairs) == 9
    assert pairs["tumour", "tumour"] == 5
    assert pairs["tumour", "mitosis"] == 1

    # Ten admissions: eight of probability 0.2 or 0.7 by their target, one wrong at 0.9.
    roc = read(tmp_path, "roc", "mlp")
    assert roc.iloc[0].tolist() == [0, 0]
    assert roc.iloc[-1].tolist() == [1, 1]
    assert np.trapezoid(roc["recall"], roc["false_positive_rate"]) == 0.83333
    calibration = read(tmp_path, "calibration", "mlp")
    np.testing.assert_allclose(calibration, [[0.2, 0.0], [0.7, 1.0], [0.9, 0.0]])
    curve = read(tmp_path, "precision_recall", "mlp")
    assert curve.iloc[-1].tolist() == [1.0, 0.25]
    training = read(tmp_path, "training", "resnet18")
    assert training["validation_loss"].tolist() == [1.1, 0.8]
    assert training["step"].tolist() == [1, 2]


def test_curves_stay_small_and_those_without_points_are_left_out(models, context, tmp_path):
    model = models[1]
    object.__setattr__(model, "history", model.history[:1])
    n = 5000
    many = np.arange(n)
    for name, values in {
        "labels": many % 2,
        "probabilities": np.column_stack([1 - many / n, many / n]),
        "predictions": many % 2,
        "split": np.full(n, "test"),
        "keys": many,
        "groups": many,
        "subjects": None,
        "admissions": None,
        "logits": None,
    }.items():
        object.__setattr__(model, name, values)
    write_plot_data(evaluate_model(model, context()), "test", tmp_path)
    roc = read(tmp_path, "roc", "mlp")
    assert len(roc) == MOST_POINTS
    assert roc.iloc[-1].tolist() == [1, 1]
    assert not (tmp_path / "training").exists()


def test_dvc_draws_the_columns_that_are_written(models, context, tmp_path):
    """DVC leaves out a plot whose file or column it does not find."""
    folder = tmp_path / "plots"
    folder.mkdir()
    write_plot_data(evaluate_model(models[0], context()), "test", folder)
    declared = YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"]
    drawn = {Path(path).name: options for plot in declared for path, options in plot.items()}
    assert set(drawn) == {path.name for path in folder.iterdir()}
    for name, options in drawn.items():
        columns = [options["x"], *np.atleast_1d(options["y"])]
        assert set(columns) <= set(read(folder, name, "resnet18")), name
    templates = {options["template"] for options in drawn.values()} - {"simple", "scatter"}
    assert all((ROOT / f".dvc/plots/{name}.json").is_file() for name in templates)
