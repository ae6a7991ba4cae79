"""A first draft of a declaration, for a person to finish.

What the cells show is filled in; what only a person can know stays ``TODO``, with which the
declaration is refused: units, plausible ranges, the target, and what gives it away.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
from ruamel.yaml import YAML

from histofuse.core.text_tables import UNREADABLE, clean_text, judge, read_comments, read_numbers
from histofuse.data.declared.table import read_text
from histofuse.params.records import NONE, UNFINISHED

_MOST_CATEGORIES: Final = 20
_PLACEHOLDER: Final = re.compile(r"\[[^\]]+\]")  # cBioPortal's [Not Available] and the like
_ID: Final = re.compile(r"(?:^|[_ .-])(?:id|identifier|barcode|mrn)$")
_HEADER: Final = """\
# Drafted from {name}: {rows} rows. Replace each TODO, check the rest, and save this as records.yaml
# in the folder of the table. docs/records.md explains the keys.
"""


def draft_declaration(path: Path) -> str:
    """Draft the declaration of a table. Raises InputError if the table cannot be read."""
    cells = read_text(path)
    titles = _read_titles(path, cells.columns[1:])
    features: dict[str, dict[str, Any]] = {k: {} for k in ("numeric", "categorical", "dates")}
    left_out: dict[str, str] = {}
    placeholders: set[str] = set()
    ids: list[str] = []
    for column in cells.columns[1:]:
        values = clean_text(cells[column]).drop_nulls()
        found = {v for v in values.unique() if _PLACEHOLDER.fullmatch(v)}
        placeholders |= found
        kind, more = _guess(values.filter(~values.is_in(list(found))))
        if kind == "id" or _ID.search(column):
            ids.append(column)
        elif kind in features:
            title = titles.get(column, column)
            features[kind][_name(column)] = {"column": column, "description": title} | more
        else:
            left_out[column] = kind
    repeated = bool(ids) and cells[ids[0]].is_duplicated().any()
    patient, visit = [*ids, UNFINISHED, UNFINISHED][:2]
    target = ("name", "description", "time", "unit", "event", "horizon")
    draft = {
        "table": path.name,
        "patients_table": NONE,
        "access": UNFINISHED,
        "missing": sorted(placeholders),
        "key": {"patient": patient, "visit": visit if repeated else NONE},
        "split_group": NONE,
        "prediction_time": {"description": UNFINISHED, "column": NONE},
        "target": {"kind": "event_within", **dict.fromkeys(target, UNFINISHED)}
        | {"happened": [UNFINISHED], "censored": [UNFINISHED], "censoring": "left_out"},
        "numeric": features["numeric"],
        "ordinal": {},
        "categorical": features["categorical"],
        "dates": features["dates"],
        "gives_away": {UNFINISHED: UNFINISHED},
        "left_out": left_out | dict.fromkeys(ids[1 + repeated :], "looks like an id"),
        "undeclared": "refuse",
    }
    return _HEADER.format(name=path.name, rows=f"{cells.height:,}") + _write(draft)


def _guess(values: pl.Series) -> tuple[str, dict[str, Any]]:
    """Guess the kind of a column from its cells that are not missing."""
    if values.is_empty():
        return "empty", {}
    if _is(values, "float"):
        numbers = read_numbers(values)
        whole = bool(((numbers == numbers.floor()) & (numbers >= 1)).all())
        if whole and values.n_unique() == values.len() > _MOST_CATEGORIES:
            return "id", {}
        observed = f"observed {numbers.min():g} to {numbers.max():g}"
        return "numeric", {"unit": UNFINISHED, "low": UNFINISHED, "high": UNFINISHED, "#": observed}
    if _is(values, "date"):
        return "dates", {}
    kinds = values.n_unique()
    if kinds <= _MOST_CATEGORIES:
        return "categorical", {"categories": sorted(values.unique())}
    return "id" if kinds == values.len() else f"text of {kinds:,} kinds", {}


def _is(values: pl.Series, kind: str) -> bool:
    return not (judge(values, kind) == UNREADABLE).any()


def _name(column: str) -> str:
    name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_")
    return name if name[:1].isalpha() else f"column_{name}"


def _read_titles(path: Path, columns: list[str]) -> dict[str, str]:
    if path.suffix.lower() == ".parquet" or not (lines := read_comments(path.read_bytes())):
        return {}
    titles = lines[0].decode(errors="replace").lstrip("#").strip("\r\n").split("\t")
    return dict(zip(columns, titles, strict=True)) if len(titles) == len(columns) else {}


def _write(draft: Mapping[str, Any]) -> str:
    """Write YAML, what was observed of a number in a comment."""
    yaml, text = YAML(pure=True), io.StringIO()
    yaml.width = 100
    yaml.dump(draft, text)
    return re.sub(r"\n +'#': (.+)", r"   # \1", text.getvalue())
