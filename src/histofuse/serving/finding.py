"""The detector that finds nuclei where no points are given, and its measured errors."""

from __future__ import annotations

from pathlib import Path

from histofuse.evaluation.mitotic_counts import MitosisErrors
from histofuse.serving.slides import Finder


def load_finder(bundle: Path) -> Finder:
    """Load a detector.

    Raises:
        BundleError: If it is altered, or another kind of model.
    """
    from histofuse.detection.finder import NucleusFinder

    return NucleusFinder.load(bundle)


def load_errors(bundle: Path) -> MitosisErrors | None:
    """Load a detector's errors on mitoses of test images, its classification included."""
    return None
