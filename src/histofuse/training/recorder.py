"""What a training run reports: params first, metrics as they come, the bundle last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Recorder:
    """Is told of a training run as it happens, and keeps nothing; subclasses do."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Take the run's parameters, once."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics of one epoch or round."""

    def finish(self, bundle: Path) -> None:
        """Take the finished bundle."""
