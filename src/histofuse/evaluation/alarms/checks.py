"""Alarm checks: what must hold of the data and a model before its scores are trusted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.artifacts import digest_file, load_json, render
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.ehr import EncodingParams
from histofuse.params.promotion import AlarmParams

Outcome = Literal["passed", "alarm", "not_made"]
# ``leak``: certain, such as a shared case; ``suspicion``: implausible, such as a perfect score.
Severity = Literal["leak", "suspicion"]
RECORDS: Final = ("tabular", "fusion")
IMAGES: Final = ("image", "fusion")
ALL: Final = ("image", "tabular", "fusion")
FORMAT: Final = 3  # counts up when a check is added that the gate relies on


@dataclass(frozen=True)
class AlarmRules:
    """What the checks use of params.yaml, and the bootstrap; the rest is of `PromotionParams`."""

    alarms: AlarmParams
    encoding: EncodingParams
    bootstrap: Bootstrap
    alarm_at: float
    alarm_metrics: Sequence[str]
    split_units: Sequence[str]


@dataclass(frozen=True)
class AlarmCheck:
    """One check of the data or of a model, and its outcome."""

    name: str  # such as ``shared[images]`` or ``calibrator``
    model: str | None  # the model that was checked; None for the data as a whole
    concerns: tuple[str, ...]  # kinds of models whose scores depend on it
    outcome: Outcome  # ``passed``, ``alarm``, or ``not_made`` if something is missing
    severity: Severity  # of the alarm, raised or not
    detail: str  # the outcome in words, with its numbers; names no case and no patient
    numbers: Mapping[str, Any] = field(default_factory=dict)  # the same numbers, JSON-ready

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AlarmCheck":
        """Read what `describe_alarms` rendered."""
        return cls(**{**values, "concerns": tuple(values["concerns"])})

    def line(self) -> str:
        """Render for the terminal."""
        mark = {"passed": "passed ", "alarm": "ALARM  ", "not_made": "unknown"}[self.outcome]
        return f"{mark}  {self.model or 'data'}: {self.name}: {self.detail}"


def make_check(  # noqa: PLR0917
    name: str,
    model: str | None,
    concerns: Sequence[str],
    alarm: bool,
    detail: str,
    numbers: Mapping[str, Any] | None = None,
    severity: Severity = "leak",
) -> AlarmCheck:
    """Make a passed check or an alarm."""
    outcome: Outcome = "alarm" if alarm else "passed"
    return AlarmCheck(name, model, tuple(concerns), outcome, severity, detail, numbers or {})


def skip_check(name: str, model: str | None, concerns: Sequence[str], why: str) -> AlarmCheck:
    """Make a check that could not be made."""
    return AlarmCheck(name, model, tuple(concerns), "not_made", "leak", f"not checked: {why}")


def describe_alarms(
    checks: Sequence[AlarmCheck], models: Mapping[str, Mapping[str, str]], data: Mapping[str, str]
) -> dict[str, Any]:
    """Render ``alarms.json``; models have ``digest`` and ``kind``, files their digest."""
    rendered = render(checks)
    count = Counter(c.outcome for c in checks)
    return {
        "format": FORMAT,
        "models": {name: dict(entry) for name, entry in models.items()},
        "data": dict(data),
        "summary": {"checks": len(checks), "alarms": count["alarm"]}
        | {outcome: count[outcome] for outcome in ("passed", "not_made")},
        "checks": rendered,
        "alarms": [check for check in rendered if check["outcome"] == "alarm"],
    }


def read_alarms(path: Path, digest: str, root: Path) -> tuple[AlarmCheck, ...] | None:
    """Read a version's checks and those of its data; None if they are missing or out of date."""
    if not path.is_file():
        return None
    alarms = load_json(path)
    names = [name for name, model in alarms["models"].items() if model["digest"] == digest]
    current = alarms["format"] == FORMAT and digest_data(root, alarms["data"]) == alarms["data"]
    if not names or not current:
        return None
    kind = alarms["models"][names[0]]["kind"]
    return select_checks([AlarmCheck.from_dict(c) for c in alarms["checks"]], names[0], kind)


def select_checks(checks: Sequence[AlarmCheck], model: str, kind: str) -> tuple[AlarmCheck, ...]:
    """Select the checks of one model and those of the data it depends on."""
    return tuple(c for c in checks if c.model == model or (c.model is None and kind in c.concerns))


def digest_data(root: Path, names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Digest the files below a folder that exist."""
    return {name: digest_file(root / name) for name in names if (root / name).is_file()}
