"""Opens bundles as predictors: calibrated answers to inputs as a clinic's system sends them.

docs/serving.md describes inputs and answers.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from histofuse.core.bundle import Bundle, open_bundle
from histofuse.core.errors import BundleError

if TYPE_CHECKING:
    from histofuse.serving.detector import DetectorPredictor
    from histofuse.serving.fusion import FusionPredictor
    from histofuse.serving.image import ImagePredictor
    from histofuse.serving.patient import PatientPredictor
    from histofuse.serving.tabular import TabularPredictor


def open_predictor(
    path: Path, encoders: Path | None = None
) -> "ImagePredictor | TabularPredictor | FusionPredictor | PatientPredictor | DetectorPredictor":
    """Open a bundle for prediction; without `load`, the first prediction loads the weights.

    The folder of its frozen encoders holds the bundles ``image`` and, of fusion, ``patient``; if
    there is none, they are pulled from the registry by digest. Raises BundleError if a bundle is
    altered, not the one trained with, or of an unknown kind.
    """
    bundle = open_bundle(path, row_level=False)
    match bundle.config["kind"]:
        case "image":
            from histofuse.serving.image import ImagePredictor

            return ImagePredictor(bundle)
        case "tabular":
            from histofuse.serving.tabular import TabularPredictor

            return TabularPredictor(bundle)
        case "fusion":
            from histofuse.serving.fusion import FusionPredictor
            from histofuse.serving.image import ImagePredictor
            from histofuse.serving.tabular import TabularPredictor

            image, patient = (
                _open_encoder(bundle, side, encoders) for side in ("image", "patient")
            )
            return FusionPredictor(bundle, ImagePredictor(image), TabularPredictor(patient))
        case "patient":
            from histofuse.serving.image import ImagePredictor
            from histofuse.serving.patient import PatientPredictor

            return PatientPredictor(
                bundle, ImagePredictor(_open_encoder(bundle, "image", encoders))
            )
        case "detector":
            from histofuse.serving.detector import DetectorPredictor

            return DetectorPredictor(bundle)
        case other:
            expected = "image, tabular, fusion, patient or detector"
            raise BundleError(f"{bundle.name}: is a model of kind {other!r}, expected {expected}")


def _open_encoder(bundle: Bundle, side: str, encoders: Path | None) -> Bundle:
    encoder = bundle.config["encoders"][side]
    if encoders is not None:
        return open_bundle(encoders / side, digest=encoder["digest"], row_level=False)
    from histofuse.tracking.registry import pull_bundle

    return pull_bundle(encoder["registered"], encoder["digest"])
