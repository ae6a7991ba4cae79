"""What a training run reports: params first, metrics as they come, the bundle last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Recorder(Protocol):
    """Receives a training run as it happens; training does not know the tracking system."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log the run's parameters, once."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one epoch or round."""
        ...

    def finish(self, bundle: Path) -> None:
        """Log the finished bundle."""
        ...


class NullRecorder:
    """Records nothing."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Ignore the params."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Ignore the metrics."""

    def finish(self, bundle: Path) -> None:
        """Ignore the bundle."""
