"""Reading params.yaml: frozen, strict sections without defaults in code."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from histofuse.core.errors import Fault, InputError, collect_faults

PARAMS_FILE = Path("params.yaml")

# Names become paths, stages and models; other keys may have parts.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*")
# Sections whose keys are names.
NAMED: Final = ("classes", "image", "pairing", "patients", "tabular", "tune")
_EXPECTED_NAME: Final = "at most 64 letters, digits, _ and -, a letter or digit first"
_EXPECTED_KEY: Final = "letters, digits, _ and -, in parts separated by . or /"
# Whose values are names, or lists of them.
NAMING: Final[tuple[str, ...]] = (
    "controls.tabular", "encoders.*", "evaluation.primary_rule", "explain.shap_models",
    "fusion.study", "image.*.study", "patients.*.study", "positive_control.both",
    "positive_control.image", "positive_control.record", "studies.*", "tabular.*.study",
)  # fmt: skip

# Types of values that several sections share.
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Several = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
InnerShare = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def _require_distinct(names: list[Any]) -> list[Any]:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each name once, found {', '.join(repeated)} more than once")
    return names


Distinct = AfterValidator(_require_distinct)


class Section(BaseModel):
    """One section of params.yaml: unknown keys refused, nothing coerced, nothing changed later.

    The comments of params.yaml say what each key means.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


RootT = TypeVar("RootT")


class SectionOf(RootModel[RootT]):
    """A section without fixed keys, such as a mapping or one of several kinds; read its `root`."""

    model_config = ConfigDict(frozen=True, strict=True)


SectionT = TypeVar("SectionT", bound=BaseModel)


def load_section(model: type[SectionT], name: str, path: Path = PARAMS_FILE) -> SectionT:
    """Load and check one section of params.yaml.

    `name` is dotted, such as ``image.resnet18``; `path` is a YAML 1.2 file, as DVC reads it. Raises
    InputError if the file or section is missing, or with each unknown, missing or wrong key.
    """
    return validate_section(model, _descend(_load_yaml(path), name, path), (name,), path)


def validate_section(
    model: type[SectionT], values: Any, keys: tuple[str, ...], path: Path
) -> SectionT:
    """Check the values below `keys` of a file; InputError with each unknown or wrong key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [(e, (*keys, *_drop_tags(e["loc"], values))) for e in error.errors()]
        raise InputError([_to_fault(e, place, path) for e, place in found]) from None


def load_value(model: type[BaseModel], name: str, path: Path = PARAMS_FILE) -> Any:
    """Load one value, such as ``promotion.alarm_at``, of a section that is checked as a whole.

    Raises InputError as `load_section`.
    """
    section, _, key = name.rpartition(".")
    return getattr(load_section(model, section, path), key)


def load_seed(path: Path = PARAMS_FILE) -> int:
    """Load the seed that every random stream is derived from."""
    seed = _descend(_load_yaml(path), "seed", path)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError.of(f"{path}, seed", f"is {seed!r}", "a whole number, 0 or above")
    return seed


def load_keys(name: str, path: Path = PARAMS_FILE) -> list[str]:
    """List the keys of a section, such as the models of ``image``, without checking values."""
    values = _descend(_load_yaml(path), name, path)
    if not isinstance(values, dict):
        raise InputError.of(f"{path}, {name}", f"is {values!r}", "a mapping")
    return list(map(str, values))


def check_names(path: Path = PARAMS_FILE) -> None:
    """Check everything in params.yaml that becomes part of a path, a stage or a model's name."""
    with collect_faults() as faults:
        for place, key in _list_keys(load_file(path), ""):
            is_name = place in NAMED
            if not (isinstance(key, str) and (_NAME if is_name else _KEY).fullmatch(key)):
                expected = _EXPECTED_NAME if is_name else _EXPECTED_KEY
                faults.add(f"{path}, {place or 'top'}", f"the key {key!r}", expected)
        for place in NAMING:
            for name in find_values(load_file(path), place.split(".")):
                if not (isinstance(name, str) and _NAME.fullmatch(name)):
                    faults.add(f"{path}, {place}", f"the name {name!r}", _EXPECTED_NAME)


def _list_keys(values: Any, place: str) -> Iterator[tuple[str, Any]]:
    """List each key with the section that it is in."""
    if isinstance(values, dict):
        for key, child in values.items():
            yield place, key
            yield from _list_keys(child, f"{place}.{key}".strip("."))
    elif isinstance(values, list):
        for child in values:
            yield from _list_keys(child, place)


def find_values(values: Any, place: Sequence[str]) -> list[Any]:
    """Find the values at a place; those that are not there are left out.

    In a place, `*` is any key, and `keys` at its end the keys themselves.
    """
    if not place:
        return values if isinstance(values, list) else [values]
    if not isinstance(values, dict):
        return []
    if list(place) == ["keys"]:
        return list(values)
    keys = values if place[0] == "*" else [key for key in place[:1] if key in values]
    return [found for key in keys for found in find_values(values[key], place[1:])]


def _load_yaml(path: Path) -> Any:
    check_names(path)
    return load_file(path)


def load_file(path: Path) -> Any:
    """Parse a YAML 1.2 file unchecked, or raise InputError; callers must not change the result."""
    try:
        return _parse_yaml(path.read_bytes())
    except FileNotFoundError:
        remedy = "Run from the project's root."
        raise InputError.of(path, "no such file", "the parameters", remedy) from None
    except YAMLError as error:
        raise InputError.of(path, f"not YAML ({error})", "a YAML 1.2 mapping") from None


@lru_cache(maxsize=4)
def _parse_yaml(text: bytes) -> Any:
    """Parse a file once; callers must not change the result."""
    return YAML(typ="safe", pure=True).load(text)


def _descend(values: Any, name: str, path: Path) -> Any:
    walked: list[str] = []
    for key in name.split("."):
        walked.append(key)
        if not isinstance(values, dict) or key not in values:
            known = ", ".join(map(str, values)) if isinstance(values, dict) else "nothing"
            raise InputError.of(path, f"no section {'.'.join(walked)!r}", f"one of: {known}")
        values = values[key]
    return values


def _drop_tags(loc: tuple[int | str, ...], values: Any) -> tuple[int | str, ...]:
    """Drop what pydantic puts before a key of one of several kinds: the kind, which is no key."""
    kept: list[int | str] = []
    for key in loc:
        if isinstance(values, dict) and key not in values and key in values.values():
            continue
        kept.append(key)
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            values = None
    return tuple(kept)


def _to_fault(error: Any, keys: tuple[int | str, ...], path: Path) -> Fault:
    kind, context = error["type"], error.get("ctx", {})
    if kind.startswith("union_tag"):
        keys = (*keys, context["discriminator"].strip("'"))
    where = f"{path}, {'.'.join(map(str, keys))}"
    match kind:
        case "union_tag_invalid":
            return Fault(where, f"is {context['tag']!r}", f"one of {context['expected_tags']}")
        case "extra_forbidden":
            return Fault(where, "unknown key", "only the documented keys")
        case "missing" | "union_tag_not_found":
            return Fault(where, "missing", "a value")
        case _:
            text = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            return Fault(where, f"is {error['input']!r}", text[:1].lower() + text[1:])
