"""What training tells whoever watches: params first, metrics as they come, the bundle last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Recorder(Protocol):
    """Receives a training run as it happens; training knows nothing of what is behind it."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Note the run's parameters, once."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Note metrics of one epoch or round."""
        ...

    def finish(self, bundle: Path) -> None:
        """Note the sealed bundle the run ended in."""
        ...


class NullRecorder:
    """Records nothing."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Ignore the params."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Ignore the metrics."""

    def finish(self, bundle: Path) -> None:
        """Ignore the bundle."""
