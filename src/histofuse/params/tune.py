"""Section ``tune.<study>``: a study's search space, and how tuned values reach a model."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from histofuse.core.errors import Fault, FaultList, InputError
from histofuse.core.naming import flatten
from histofuse.params.base import PARAMS_FILE, Count, Section, SectionOf, Text, Whole
from histofuse.params.decision import CalibrationMethod, ThresholdRule

STUDY = "study"  # the key of a model's section that names the study whose values it takes

# The study that supplies the best values for the section; `none` keeps its own.
StudyName = Annotated[str, Field(pattern=r"^\w+$")]


class ClassifierSection(Section):
    """What every classifier's section holds."""

    calibration: CalibrationMethod
    threshold: ThresholdRule  # fitted on validation
    study: StudyName


class _Range(Section):
    @model_validator(mode="after")
    def _check(self) -> "_Range":
        low, high, log = (getattr(self, name) for name in ("low", "high", "log"))
        if low >= high:
            raise ValueError(f"low below high, found {low} and {high}")
        if log and low <= 0:
            raise ValueError(f"low above 0 on a logarithmic scale, found {low}")
        return self


class IntRange(_Range):
    """Whole numbers from `low` to `high`, both included."""

    type: Literal["int"]
    low: int
    high: int
    log: bool


class FloatRange(_Range):
    """Numbers from `low` to `high`."""

    type: Literal["float"]
    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool


class Choice(Section):
    """One of several values, lists included."""

    type: Literal["choice"]
    of: Annotated[list[Any], Field(min_length=2)]

    @model_validator(mode="after")
    def _check(self) -> "Choice":
        if any(value in self.of[:n] for n, value in enumerate(self.of)):
            raise ValueError(f"values that differ, found {self.of}")
        return self


Range = Annotated[IntRange | FloatRange | Choice, Field(discriminator="type")]


class StudyParams(Section):
    """How a study searches."""

    trials: Count  # finished trials, pruned ones included, over all workers
    metric: Literal["auroc", "macro_f1"]
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "none"]
    pruner_warmup_trials: Whole  # trials that are never stopped
    space: Annotated[dict[str, Range], Field(min_length=1)]


class StudyStorage(SectionOf[Text]):
    """Section ``study_storage``: a journal file, or any URL that Optuna takes."""

    @model_validator(mode="after")
    def _check(self) -> "StudyStorage":
        if re.search(r"//[^/@]*:[^/@]*@", self.root):
            raise ValueError("a URL without a password: put that in ~/.pgpass or PGPASSWORD")
        return self


SectionT = TypeVar("SectionT", bound=BaseModel)


def check_space(params: StudyParams, section: BaseModel, name: str, model: str) -> None:
    """Check that a study's space fits the model's section.

    For messages, `name` is the study's section, such as ``tune.xgboost``, and `model` the model's,
    such as ``tabular.xgboost``. Raises InputError with each key that is not in the section, each
    end of a range or choice that it refuses, and each value of params.yaml outside its range.
    """
    faults = FaultList()
    for key, tried in params.space.items():
        where = f"{PARAMS_FILE}, {name}.space.{key}"
        if key not in (known := _list_keys(section.model_dump())):
            faults.add(where, f"no key of {model}", f"one of: {', '.join(known)}")
            continue
        value = _get(section.model_dump(), key)
        ends = tried.of if isinstance(tried, Choice) else [tried.low, tried.high]
        for end in ends:
            if problem := _find_refusal(section, key, end):
                faults.add(where, f"holds {end!r}, which {model} refuses", problem)
        if not _is_inside(tried, value):
            remedy = "It is the first trial: widen the space or change the value."
            faults.add(f"{PARAMS_FILE}, {model}.{key}", f"is {value!r}", f"within {where}", remedy)
    faults.raise_if_any()


def apply_values(section: SectionT, values: Mapping[str, Any]) -> SectionT:
    """Put values by dotted key into a section, which checks them as if they stood in params.yaml.

    Raises InputError if the section has no such key or refuses a value.
    """
    changed = section.model_dump()
    for key, value in values.items():
        try:
            _get(changed, key)
        except KeyError:
            known = ", ".join(_list_keys(section.model_dump()))
            raise InputError.of(key, "no key of the section", f"one of: {known}") from None
        *path, last = key.split(".")
        inner = changed
        for part in path:
            inner = inner[part]
        inner[last] = value
    try:
        return type(section).model_validate(changed)
    except ValidationError as error:
        faults = [
            Fault(".".join(map(str, e["loc"])) or "the section", f"is {e['input']!r}", e["msg"])
            for e in error.errors()
        ]
        raise InputError(faults) from None


def _find_refusal(section: BaseModel, key: str, value: Any) -> str:
    """Say what a section expects in the place of a value it refuses; empty if it takes it.

    Only faults at the key itself count: a range's end need not go with every other value.
    """
    try:
        apply_values(section, {key: value})
    except InputError as error:
        own = [fault for fault in error.faults if str(fault.where).startswith(key)]
        return own[0].expected if own else ""
    return ""


def _is_inside(tried: IntRange | FloatRange | Choice, value: Any) -> bool:
    if isinstance(tried, Choice):
        return value in tried.of
    return not isinstance(value, bool) and tried.low <= value <= tried.high


def _get(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            raise KeyError(key)
        values = values[part]
    return values


def _list_keys(values: dict[str, Any]) -> list[str]:
    return [key for key in flatten(values) if key.rpartition(".")[2] != STUDY]
