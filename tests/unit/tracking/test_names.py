import pytest

from histofuse.core.naming import flatten, name_column
from histofuse.tracking.names import name_registered, redact


@pytest.mark.parametrize(
    ("model", "registered"),
    [
        ("simple_cnn", "histofuse-simple-cnn"),
        ("fusion_label_blind", "histofuse-fusion"),
        ("fusion_label_aligned", "histofuse-fusion-label-aligned"),
    ],
)
def test_registered_names(model, registered):
    assert name_registered(model, "label_blind") == registered


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("train_loss", "train/loss"),
        ("validation_macro_f1", "validation/f1/macro"),
        ("learning_rate_head", "learning_rate/head"),
    ],
)
def test_columns_are_named_as_training_reports_them(column, name):
    assert name_column(column, cross_validated=False) == name


def test_columns_of_cross_validation_have_names_of_their_own():
    assert name_column("validation_macro_f1", cross_validated=True) == "cv/validation/macro_f1"


def test_nested_params_become_dotted():
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}) == {
        "a.b.c": "1",
        "a.d": "[1, 2]",
        "e": "None",
    }


def test_passwords_are_hidden():
    shown = redact("cannot reach https://user:secret@mlflow.example.org/x")
    assert "secret" not in shown
    assert "mlflow.example.org/x" in shown
