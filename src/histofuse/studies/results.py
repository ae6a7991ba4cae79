"""The folder of a study: its best params, the table of its trials, and its description.

``best_params.json`` holds dotted key -> value, what training puts into the model's section;
``study.json`` the description; ``trials.csv`` one row per trial with its state, value,
``params.<key>``, ``scores.<metric>`` and ``steps.<metric>`` (the values of folds or epochs,
separated by spaces).
It holds no times or workers: the same trials give the same bytes.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import load_json, replacing_folder, write_json, write_text
from histofuse.core.errors import HistofuseError, InputError
from histofuse.core.tables import escape_formula
from histofuse.studies.trials import StudySpec, TrialRecord, find_best

BEST_PARAMS: Final = "best_params.json"
SPEC: Final = "study.json"
TRIALS: Final = "trials.csv"
FIGURES: Final = "figures"

_FIXED: Final = ("number", "state", "value", "reason")
_STATES: Final = ("COMPLETE", "PRUNED", "FAIL")


def write_study(
    spec: StudySpec,
    trials: Sequence[TrialRecord],
    folder: Path,
    draw: Callable[[StudySpec, Sequence[TrialRecord], Path], None],
) -> None:
    """Write a study to `folder`, replacing its content; `draw` is given the folder of figures.

    Raises HistofuseError if no trial is complete, so that there are no best params.
    """
    best = find_best(spec, trials)
    if best is None:
        reasons = sorted({t.reason for t in trials if t.reason})
        reason = f": {reasons[0]}" if reasons else ""
        raise HistofuseError(f"study {spec.name}: none of {len(trials)} trials completed{reason}")
    with replacing_folder(folder) as temporary:
        write_json(best.params, temporary / BEST_PARAMS)
        content = {**asdict(spec), "best": {"number": best.number, "value": best.value}}
        write_json(content, temporary / SPEC)
        write_text(format_trials(trials), temporary / TRIALS)
        (temporary / FIGURES).mkdir()
        draw(spec, trials, temporary / FIGURES)


def read_study(folder: Path) -> tuple[StudySpec, list[TrialRecord]]:
    """Read what `write_study` wrote; InputError if a file is missing or invalid."""
    values: Any = load_json(folder / SPEC)
    try:
        spec = StudySpec(**{key: value for key, value in values.items() if key != "best"})
        return spec, parse_trials((folder / TRIALS).read_text(encoding="utf-8"))
    except (AttributeError, TypeError, KeyError, ValueError, OSError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        remedy = "Run the study again: histofuse tune, or dvc repro."
        raise InputError.of(folder, problem, "a study's folder", remedy) from None


def read_best_params(path: Path) -> dict[str, Any]:
    """Read ``best_params.json``; InputError if it is missing or holds no mapping."""
    values = load_json(path)
    if not isinstance(values, dict):
        raise InputError.of(path, f"holds {values!r}", "dotted keys and their values")
    return values


def format_trials(trials: Sequence[TrialRecord]) -> str:
    """Format trials as CSV; missing values are left empty."""
    rows = [_to_row(trial) for trial in trials]
    groups = ("params.", "scores.", "steps.")
    names = sorted({name for row in rows for name in row if name.startswith(groups)})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIXED, *names], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _to_row(trial: TrialRecord) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "value": "" if trial.value is None else repr(trial.value),
        "reason": escape_formula(trial.reason),
        **{f"params.{key}": json.dumps(value) for key, value in trial.params.items()},
        **{f"scores.{key}": repr(value) for key, value in trial.scores.items()},
        **{f"steps.{key}": " ".join(map(repr, values)) for key, values in trial.steps.items()},
    }


def parse_trials(text: str) -> list[TrialRecord]:
    """Parse what `format_trials` wrote; KeyError or ValueError if a row is not as it wrote it."""
    return [_to_trial(row) for row in csv.DictReader(io.StringIO(text))]


def _to_trial(row: dict[str, str]) -> TrialRecord:
    if row["state"] not in _STATES:
        raise ValueError(f"{TRIALS}: state {row['state']!r}, expected one of {_STATES}")
    state: Any = row["state"]
    return TrialRecord(
        number=int(row["number"]),
        state=state,
        value=float(row["value"]) if row["value"] else None,
        params={k: json.loads(v) for k, v in _select(row, "params.")},
        scores={k: float(v) for k, v in _select(row, "scores.")},
        steps={k: [*map(float, v.split())] for k, v in _select(row, "steps.")},
        reason=row["reason"],
    )


def _select(row: dict[str, str], prefix: str) -> list[tuple[str, str]]:
    return [
        (name.removeprefix(prefix), text)
        for name, text in row.items()
        if name.startswith(prefix) and text
    ]
