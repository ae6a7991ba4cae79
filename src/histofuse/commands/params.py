"""Checks all of params.yaml, before the first stage and in ``histofuse doctor``."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from histofuse.core.errors import Fault, InputError, collect_faults
from histofuse.data.targets import find_target
from histofuse.features.labs import choose_labs
from histofuse.features.treatments import choose_treatments
from histofuse.models.published import check_name, is_published
from histofuse.params.base import PARAMS_FILE
from histofuse.params.image import SAFETENSORS
from histofuse.params.project import ProjectParams, list_models, load_project
from histofuse.training.calibrate import check_method

_OWN_BACKBONES: Final = ("simple_cnn",)


def check_params(path: Path = PARAMS_FILE) -> None:
    """Check every section, the names that sections take from each other, and those of the code."""
    project = load_project(path)
    with collect_faults() as faults:
        for where, check in _list_checks(project):
            try:
                check()
            except InputError as error:
                faults.faults += [
                    Fault(f"{path}, {where}", f.problem, f.expected, f.remedy) for f in error.faults
                ]


def _list_checks(project: ProjectParams) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List what looks up a name in the code, by the key of the name."""
    features = project.ehr_features
    yield "cohort.target", lambda: find_target(project.cohort.target)
    yield "ehr_features.labs", lambda: choose_labs(features.labs)
    yield "ehr_features.treatments", lambda: choose_treatments(features.treatments)
    for section, model in list_models(project):
        yield f"{section}.calibration", lambda method=model.calibration: check_method(method)
    for name, model in project.image.root.items():
        yield f"image.{name}.weights", lambda weights=model.weights: _check_weights(weights)
        yield f"image.{name}.backbone", lambda name=model.backbone: _check_backbone(name)


def _check_weights(weights: str) -> None:
    if weights.endswith(SAFETENSORS) and not Path(weights).is_file():
        raise InputError.of("", f"no file {weights}", "a path from the project's root")


def _check_backbone(backbone: str) -> None:
    """Look for a backbone, in the libraries last: their import takes seconds."""
    if is_published(backbone):
        check_name(backbone)
        return
    if backbone in _OWN_BACKBONES or _is_defined_in_torchvision(backbone):
        return
    from histofuse.models.libraries import find_library

    find_library(backbone, _OWN_BACKBONES)


def _is_defined_in_torchvision(backbone: str) -> bool:
    spec = find_spec("torchvision")
    sources = Path(spec.origin).parent.glob("models/*.py") if spec and spec.origin else ()
    name = backbone.removeprefix("torchvision/")
    return any(f"\ndef {name}(" in source.read_text(encoding="utf-8") for source in sources)
