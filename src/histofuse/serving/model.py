"""MLflow's entry to a bundle: this file is copied into every registered model and run on loading.

A model from code, not a pickle: the weights stay in the bundle's own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class BundleModel(PythonModel):
    """A bundle behind MLflow's ``predict``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open and verify the bundle; its weights are loaded with the first prediction."""
        from histofuse.serving.predict import open_predictor

        self.predictor = open_predictor(Path(context.artifacts["bundle"]))

    # Without annotations: MLflow would take them for a promise about the input.
    def predict(self, context, model_input, params=None) -> Any:
        """Predict; `histofuse.serving.predict` says what each kind of model takes."""
        return self.predictor.predict(model_input)


set_model(BundleModel())
