"""What MLflow's pages show of an experiment: a description, and the table of runs to open first."""

import json
from typing import TYPE_CHECKING, Final

from histofuse.tracking.names import DIFFERENCE_TAG, EXPERIMENT, STUDIES_EXPERIMENT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_DESCRIPTIONS: Final = {
    EXPERIMENT: (
        "One run for each trained bundle: its params, curves, final scores, figures and model. "
        "A run that is `leaky` was paired by the label, and its scores measure that leak. "
        "Versions are promoted with `histofuse promote`."
    ),
    STUDIES_EXPERIMENT: (
        "One run for each hyperparameter study (`histofuse tune`), with a nested run for each "
        "trial. The best params are tags of the study's run."
    ),
}
_VIEW: Final = "histofuse"  # key of the shared view
_SORTED_BY: Final = "test/auprc/mitosis"
_COLUMNS: Final = (
    "attributes.`Models`",
    *(f"metrics.`{name}`" for name in (_SORTED_BY, "test/auroc/macro", "test/brier")),
    *(f"tags.`{tag}`" for tag in (DIFFERENCE_TAG, "histofuse.kind", "histofuse.leaky")),
)


def name_view(experiment_id: str) -> str:
    """Name the page of an experiment's runs with columns chosen and sorted, below the server's."""
    query = f"viewStateShareKey={_VIEW}&workflowType=machine_learning"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def describe_experiment(client: "MlflowClient", experiment: "Experiment") -> None:
    """Give an experiment its description and view, unless it has them.

    The view is one that MLflow's page itself would save under "share". Read by MLflow 3.17.
    """
    tags = {"mlflow.note.content": _DESCRIPTIONS.get(experiment.name, "")}
    if experiment.name == EXPERIMENT:
        view = {
            "orderByKey": f"metrics.`{_SORTED_BY}`",
            "orderByAsc": False,
            "selectedColumns": _COLUMNS,
        }
        tags[f"mlflow.sharedViewState.{_VIEW}"] = json.dumps(view)
    for name, value in tags.items():
        if value and experiment.tags.get(name) != value:
            client.set_experiment_tag(experiment.experiment_id, name, value)
