"""Predictors: inputs as a clinic's system sends them, answers with calibrated probabilities.

**Input**, in Python (`Predictor.predict`) and, through MLflow, on the wire:

| kind | input |
|---|---|
| image | a data frame with column ``image``; or the patches alone, as array (n, side, side, 3) |
| tabular | a data frame with a column for each raw feature, as in ``data/ehr/features.parquet`` |
| fusion | a data frame with column ``image`` and the columns of raw features; or \
``{"image": patches, "patient": data frame of raw features, or None}``, rows in the same order |

- A cell of ``image`` is an encoded image (PNG, JPEG, TIFF: bytes, or base64 as text, the form in \
JSON), or the pixels (side, side, 3) as array or nested lists of whole numbers from 0 to 255.
- A patch has the side the model was trained on, with or without the margin that was stored around \
it; without the margin, the patch is reflected at its border, which weighs corners a little more.
- Raw features are in natural units. Null and NaN mean "not known" and are imputed as in training. \
All columns that the model was fitted on are required; others are not read. A value outside its \
plausible range (`features/ranges.json`) is refused: it may be in another unit.
- Categories are read in the spellings that MIMIC-IV and others use (`features.categories`).

**Rules of fusion.** A row without a record (all raw features null, or their columns left
out altogether) is answered by the image encoder's own calibrated decision. A row without a patch is
refused: there is no nucleus to classify.

**Answer**: a data frame with one row for each input row, in the same order and with its index:

| column | of | holds |
|---|---|---|
| ``probability_<class>`` | all | calibrated, adding up to 1 |
| ``prediction`` | all | the class that the saved thresholds decide on |
| ``model`` | all | the version that answers: name, number and the first 12 digits of the digest |
| ``trained_on`` | all | the data that it was trained on, such as ``simulated`` |
| ``answered_by`` | fusion | ``fusion``, or ``image`` where there is no record |
| ``embedding_version`` | fusion | ``<image>+<patient>``, the first 12 digits of the encoders' \
digests; ``<image>`` alone where there is no record |
| ``warnings`` | all | the categories that the model does not know, and therefore does not use, \
that nothing is known, and the columns of a request that it does not read; mostly empty |
| ``gradcam`` | image, fusion; if asked | where the evidence for ``prediction`` lies, through the \
fusion head where that answered: the base64 of a greyscale PNG of the patch without margin, 255 \
the strongest |
| ``shap`` | tabular, fusion; if asked | raw feature (or ``<variable>_missing``) to what it adds \
to a logit that is not calibrated: the log-odds of the positive class, or the fused logit of \
``prediction`` with the patch as it is; null where there is no record |
| ``shap_base`` | with ``shap`` | that logit for the typical patient, with the medians and modes \
of training; with it the values add up to the logit |

Faults of an input raise an `InputError` with the row and column of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from histofuse.core.bundle import Bundle, open_bundle
from histofuse.core.errors import BundleError

if TYPE_CHECKING:
    from histofuse.serving.fusion import FusionPredictor
    from histofuse.serving.image import ImagePredictor
    from histofuse.serving.tabular import TabularPredictor


def open_predictor(
    path: Path, encoders: Path | None = None
) -> ImagePredictor | TabularPredictor | FusionPredictor:
    """Open a bundle for prediction; without `load`, the first prediction loads the weights.

    Args:
        path: The bundle.
        encoders: A fusion model's frozen encoders, bundles ``image`` and ``patient``; None to pull
            them from the registry by digest.

    Raises:
        BundleError: If a bundle is altered, not the one trained with, or of an unknown kind.
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
            return _open_fusion(bundle, encoders)
        case other:
            expected = "image, tabular or fusion"
            raise BundleError(f"{path}: holds a model of kind {other!r}, expected {expected}")


def _open_fusion(bundle: Bundle, encoders: Path | None) -> FusionPredictor:
    from histofuse.serving.fusion import FusionPredictor
    from histofuse.serving.image import ImagePredictor
    from histofuse.serving.tabular import TabularPredictor

    image, patient = (
        _open_encoder(bundle.config["encoders"][side], encoders and encoders / side)
        for side in ("image", "patient")
    )
    return FusionPredictor(bundle, ImagePredictor(image), TabularPredictor(patient))


def _open_encoder(encoder: Mapping[str, str], path: Path | None) -> Bundle:
    if path is not None:
        return open_bundle(path, digest=encoder["digest"], row_level=False)
    from histofuse.tracking.registry import pull_bundle

    return pull_bundle(encoder["registered"], encoder["digest"])
