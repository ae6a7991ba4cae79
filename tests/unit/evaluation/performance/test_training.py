from dataclasses import replace

import pandas as pd
import pytest

from histofuse.evaluation.performance.results import evaluate_model
from histofuse.evaluation.performance.tables import render_markdown
from histofuse.evaluation.performance.training import make_training_table

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3, 4],
        "train_loss": [0.9, 0.6, 0.3, 0.1],
        "validation_loss": [0.8, 0.5, 0.7, 0.9],
    }
)


@pytest.fixture
def tabulate(models, context):
    def make(history=HISTORY, **config):
        model = replace(models[0], history=history, config=models[0].config | config)
        return make_training_table([evaluate_model(model, context())])

    return make


@pytest.mark.parametrize(
    ("monitor", "epoch", "loss", "shown"),
    [("loss", 2, 0.5, "validation loss"), ("auroc", 4, 0.9, "validation AUROC")],
)
def test_a_network_shows_its_epoch_what_chose_it_and_the_loss_it_paid(
    tabulate, monitor, epoch, loss, shown
):
    table = tabulate(training={"best_epoch": epoch, "monitor": monitor})
    (row,) = table.rows
    assert (row["kept"], row["of"], row["chosen_by"]) == (f"epoch {epoch}", 4, shown)
    assert (row["validation_loss"], row["lowest_loss"], row["lowest_at"]) == (loss, 0.5, "epoch 2")
    assert "judged by the loss" in render_markdown(table)


def test_rounds_are_chosen_by_validation_by_folds_or_not_at_all(tabulate):
    rounds = HISTORY.rename(columns={"epoch": "round"})
    folds = {"folds": 5, "rounds": 3, "note": ""}
    (row,) = tabulate(rounds, cross_validation=folds).rows
    assert (row["kept"], row["chosen_by"]) == ("round 3", "AUROC of folds of training")
    note = "a class is absent from validation; 2 rounds taken"
    (row,) = tabulate(rounds, training={"best_round": 2, "monitor": "loss", "note": note}).rows
    assert (row["kept"], row["chosen_by"]) == ("round 2", note)


def test_models_without_epochs_are_left_out(tabulate):
    assert not tabulate().rows
    empty = {"folds": 0, "rounds": 50, "note": "no cross-validation"}
    assert not tabulate(HISTORY.iloc[:0], cross_validation=empty).rows
