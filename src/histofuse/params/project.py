"""All of params.yaml at once: every section, and the names that one section takes from another."""

from pathlib import Path
from typing import Any, Final

from histofuse.core.errors import FaultList, InputError
from histofuse.core.naming import name_patient_model
from histofuse.params.base import (
    PARAMS_FILE,
    Section,
    Whole,
    check_names,
    find_values,
    load_file,
    validate_section,
)
from histofuse.params.crossval import CrossvalParams, ProtocolParams
from histofuse.params.data import ClassesParams, DataParams
from histofuse.params.detector import DetectorParams
from histofuse.params.ehr import CohortParams, EhrFeaturesParams, EncodingParams
from histofuse.params.evaluation import AssessmentParams, EvaluationParams, PositiveControlParams
from histofuse.params.explain import ExplainParams
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.image import AllImageParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.pairing import PairingsParams
from histofuse.params.patches import PatchParams
from histofuse.params.patients import AllPatientParams, PatientCohortParams
from histofuse.params.promotion import AlarmParams, ControlParams, PromotionParams
from histofuse.params.simulation import (
    HistologySimulationParams,
    LinkedSimulationParams,
    MimicSimulationParams,
)
from histofuse.params.slides import SlideParams
from histofuse.params.splits import ImageSplitParams, PatientSplitParams
from histofuse.params.tabular import AllTabularParams
from histofuse.params.tune import (
    ClassifierSection,
    StudyName,
    StudyParams,
    StudyStorage,
    check_space,
)

# Place of a name -> the section whose keys it is one of. `*` is any key, `keys` those themselves.
REFERENCES: Final = {
    "controls.tabular": "tabular",
    "crossval.classes_required": "classes",
    "crossval.image_models": "image",
    "crossval.patient_models": "patients",
    "crossval.rules": "pairing",
    "crossval.tabular_models": "tabular",
    "data.class_names.keys": "classes",
    "encoders.image": "image",
    "encoders.patient": "tabular",
    "evaluation.diagnoses_model": "tabular",
    "evaluation.primary_rule": "pairing",
    "explain.shap_models": "tabular",
    "fusion.study": "tune",
    "image.*.study": "tune",
    "pairing.*.positive_share.keys": "classes",
    "patients.*.study": "tune",
    "positive_control.both": "patients",
    "positive_control.image": "patients",
    "positive_control.record": "patients",
    "splits.images.classes_required": "classes",
    "studies.*": "tune",
    "studies.image": "image",
    "studies.tabular": "tabular",
    "tabular.*.study": "tune",
}
STUDIES: Final = Path("studies")
EXPECTED_MODEL: Final = "a section of tabular or image, fusion, or patient_ and one of patients"
_NO_STUDY: Final = "none"
_FUSION: Final = "fusion"


class SimulationParams(Section):
    """Section ``simulation``."""

    brecahad: HistologySimulationParams
    mimiciv: MimicSimulationParams
    linked: LinkedSimulationParams


class SplitsParams(Section):
    """Section ``splits``."""

    images: ImageSplitParams
    patients: PatientSplitParams


class StudiesParams(Section):
    """Section ``studies``: those that ``dvc repro`` runs."""

    tabular: list[StudyName]
    fusion: list[StudyName]
    image: list[StudyName]
    patients: list[StudyName]


class ProjectParams(Section):
    """The whole of params.yaml."""

    seed: Whole
    data: DataParams
    classes: ClassesParams
    simulation: SimulationParams
    patches: PatchParams
    slides: SlideParams
    splits: SplitsParams
    image: AllImageParams
    detector: DetectorParams
    cohort: CohortParams
    ehr_features: EhrFeaturesParams
    encoding: EncodingParams
    tabular: AllTabularParams
    pairing: PairingsParams
    encoders: EncodersParams
    fusion: FusionParams
    patient_cohort: PatientCohortParams
    patients: AllPatientParams
    studies: StudiesParams
    study_storage: StudyStorage
    tune: dict[str, StudyParams]
    evaluation: EvaluationParams
    intervals: IntervalParams
    assessment: AssessmentParams
    explain: ExplainParams
    crossval: CrossvalParams
    protocol: ProtocolParams
    controls: ControlParams
    positive_control: PositiveControlParams
    alarms: AlarmParams
    promotion: PromotionParams


def load_project(path: Path = PARAMS_FILE) -> ProjectParams:
    """Load and check the whole of params.yaml.

    Raises InputError with each unknown, missing or wrong key, each name that its section lacks,
    each study that no stage makes, and each end of a search space that its model refuses.
    """
    check_names(path)
    values = load_file(path)
    faults = FaultList()
    _check_references(values, path, faults)
    try:
        project = validate_section(ProjectParams, values, (), path)
    except InputError as error:
        raise InputError([*error.faults, *faults.faults]) from None
    _check_spaces(project, faults)
    _check_studies(project, path, faults)
    _check_encoder(project, path, faults)
    faults.raise_if_any()
    return project


def _check_references(values: Any, path: Path, faults: FaultList) -> None:
    for place, section in REFERENCES.items():
        known = [str(key) for key in values.get(section) or ()] if isinstance(values, dict) else []
        extra = [_NO_STUDY] if section == "tune" else []
        for name in find_values(values, place.split(".")):
            if name not in (*known, *extra):
                expected = f"a key of {section}: {', '.join((*known, *extra))}"
                faults.add(f"{path}, {place.removesuffix('.keys')}", f"is {name!r}", expected)


def _check_spaces(project: ProjectParams, faults: FaultList) -> None:
    """Check each search space; a model's own values lie within it where `dvc repro` searches it."""
    made = _list_studies(project)
    models = dict(list_models(project))
    for name, study in project.tune.items():
        fused = name == _FUSION or name in project.studies.fusion
        kinds = ("tabular", "image", "patients")
        sections = [_FUSION] if fused else [name_section(kind, name) for kind in kinds]
        section = next((known for known in sections if known in models), "")
        if not section:
            faults.add(f"{PARAMS_FILE}, tune.{name}", "no model of this name", EXPECTED_MODEL)
            continue
        try:
            check_space(study, models[section], f"tune.{name}", section)
        except InputError as error:
            of_space = f"{PARAMS_FILE}, tune."
            faults.faults += [
                f for f in error.faults if name in made or str(f.where).startswith(of_space)
            ]


def name_section(kind: str, study: str) -> str:
    """Name the section of the model that a study tunes: patients.gated of the study patient_gated.

    The studies of the other kinds are named like the section.
    """
    prefix = name_patient_model("") if kind == "patients" else ""
    return f"{kind}.{study.removeprefix(prefix)}" if study.startswith(prefix) else ""


def _check_studies(project: ProjectParams, path: Path, faults: FaultList) -> None:
    """Check that each study whose values a model takes is made by a stage, or is there."""
    made = {*_list_studies(project), _NO_STUDY}
    for section, model in list_models(project):
        if model.study not in made and not (STUDIES / model.study / "best_params.json").is_file():
            remedy = f"Or run histofuse tune {model.study} first."
            expected = "a study listed under studies"
            faults.add(f"{path}, {section}.study", f"is {model.study!r}", expected, remedy)


def list_models(project: ProjectParams) -> list[tuple[str, ClassifierSection]]:
    """List each model's section with its name, such as ``image.resnet18``."""
    images = [(f"image.{name}", model) for name, model in project.image.root.items()]
    tabular = [(f"tabular.{name}", model) for name, model in project.tabular.root.items()]
    patients = [(f"patients.{name}", model) for name, model in project.patients.root.items()]
    return [*images, *tabular, (_FUSION, project.fusion), *patients]


def _list_studies(project: ProjectParams) -> list[str]:
    studies = project.studies
    return [*studies.tabular, *studies.fusion, *studies.image, *studies.patients]


def _check_encoder(project: ProjectParams, path: Path, faults: FaultList) -> None:
    name = project.encoders.patient
    kinds = {key: model.kind for key, model in project.tabular.root.items()}
    if kinds.get(name, "mlp") != "mlp":
        faults.add(f"{path}, encoders.patient", f"{name!r} is of kind {kinds[name]}", "kind mlp")
