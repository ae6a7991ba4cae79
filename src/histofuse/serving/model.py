"""MLflow's entry to a bundle: this file is copied into every registered model and run on loading.

A model from code, not a pickle: the weights stay in the bundle's own files.
"""

from __future__ import annotations

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class BundleModel(PythonModel):
    """A bundle behind MLflow's ``predict``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Verify and load the bundle, so that a broken one fails now and not with a request."""
        from histofuse.serving.http.endpoint import Endpoint

        self.endpoint = Endpoint(context.artifacts)

    # Without annotations: MLflow would take them for a promise about the input.
    def predict(self, context, model_input, params=None) -> Any:
        """Predict; docs/serving.md says what each kind of model takes."""
        return self.endpoint.answer(model_input, params)


set_model(BundleModel())
