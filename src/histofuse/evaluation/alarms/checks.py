"""Alarms: checks of data and models that must not fail before a model is believed.

A check says of the data as a whole, or of one model, whether something is as it must be. One that
fails is an alarm; one that cannot be made, for want of a file, is told from one that passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.artifacts import digest_file, load_json

Outcome = Literal["passed", "alarm", "not_made"]
# ``leak``: a fact, such as a shared case; ``suspicion``: too good, or too uneven, to be believed.
Severity = Literal["leak", "suspicion"]
RECORDS: Final = ("tabular", "fusion")
IMAGES: Final = ("image", "fusion")
ALL: Final = ("image", "tabular", "fusion")
_DECIMALS: Final = 6


@dataclass(frozen=True)
class AlarmCheck:
    """One question to the data or a model, and its answer.

    Attributes:
        name: What was looked at, such as ``shared[images]`` or ``calibrator``.
        model: The model it was asked of; None for the data as a whole.
        concerns: Kinds of models whose numbers rest on the answer.
        outcome: ``passed``, ``alarm``, or ``not_made`` where something is missing.
        severity: Of the alarm, whether or not it is raised.
        detail: The answer in words, with its numbers; names no case and no patient.
        numbers: The same numbers, JSON-ready.
    """

    name: str
    model: str | None
    concerns: tuple[str, ...]
    outcome: Outcome
    severity: Severity
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON, numbers rounded."""
        return asdict(self) | {"concerns": list(self.concerns), "numbers": _round(self.numbers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlarmCheck:
        """Read what `to_dict` rendered."""
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
    """Make a check that was made."""
    outcome: Outcome = "alarm" if alarm else "passed"
    return AlarmCheck(name, model, tuple(concerns), outcome, severity, detail, numbers or {})


def skip_check(name: str, model: str | None, concerns: Sequence[str], why: str) -> AlarmCheck:
    """Make a check that could not be made."""
    return AlarmCheck(name, model, tuple(concerns), "not_made", "leak", f"not checked: {why}")


def describe_alarms(
    checks: Sequence[AlarmCheck], models: Mapping[str, Mapping[str, str]], data: Mapping[str, str]
) -> dict[str, Any]:
    """Render ``alarms.json``.

    Args:
        checks: All that were asked.
        models: Model to ``digest`` of its bundle and ``kind``.
        data: File to digest, of what the checks of the data were made on.

    Returns:
        ``format``, ``models`` and ``data`` as given, ``summary`` (``checks``, ``passed``,
        ``alarms``, ``not_made``: how many), ``checks`` (each as `AlarmCheck.to_dict` has it, in
        order) and ``alarms``: those of them whose outcome is ``alarm``.
    """
    rendered = [check.to_dict() for check in checks]
    count = {o: sum(c.outcome == o for c in checks) for o in ("passed", "alarm", "not_made")}
    return {
        "format": 1,
        "models": {name: dict(facts) for name, facts in models.items()},
        "data": dict(data),
        "summary": {
            "checks": len(checks),
            "passed": count["passed"],
            "alarms": count["alarm"],
            "not_made": count["not_made"],
        },
        "checks": rendered,
        "alarms": [check for check in rendered if check["outcome"] == "alarm"],
    }


def read_alarms(path: Path, digest: str, root: Path) -> tuple[AlarmCheck, ...] | None:
    """Read the checks made of one version, and of the data under it.

    Args:
        path: ``alarms.json``.
        digest: The version's.
        root: Folder the files named in it are below.

    Returns:
        None where there is no such file, where it is about other versions, or about other data
        than lie there now.
    """
    if not path.is_file():
        return None
    found = load_json(path)
    names = [name for name, facts in found["models"].items() if facts["digest"] == digest]
    if not names or digest_data(root, found["data"]) != found["data"]:
        return None
    kind = found["models"][names[0]]["kind"]
    return select_checks([AlarmCheck.from_dict(c) for c in found["checks"]], names[0], kind)


def select_checks(checks: Sequence[AlarmCheck], model: str, kind: str) -> tuple[AlarmCheck, ...]:
    """Select what concerns one model: its own checks, and those of the data it rests on."""
    return tuple(c for c in checks if c.model == model or (c.model is None and kind in c.concerns))


def digest_data(root: Path, names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Digest files below a folder, those that are there."""
    return {name: digest_file(root / name) for name in names if (root / name).is_file()}


def _round(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _round(item) for key, item in value.items()}
    return round(value, _DECIMALS) if isinstance(value, float) else value
