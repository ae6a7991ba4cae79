"""A refused request, as MLflow's server reports it."""

from __future__ import annotations

import json

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from histofuse.core.errors import Fault, InputError


class Refusal(MlflowException):
    """Status 400, and what is wrong with the request.

    MLflow would put the request itself before the message, patients' values and all.
    """

    def __init__(self, error: InputError) -> None:
        super().__init__(str(error), error_code=INVALID_PARAMETER_VALUE)
        self.faults = error.faults

    def serialize_as_json(self) -> str:
        """Give the body of the response."""
        faults = [_describe(fault) for fault in self.faults]
        body = {"error_code": self.error_code, "message": self.args[0], "faults": faults}
        return json.dumps(body)


def _describe(fault: Fault) -> dict[str, str]:
    facts = {"where": str(fault.where), "problem": fault.problem, "expected": fault.expected}
    return facts | ({"remedy": fault.remedy} if fault.remedy else {})
