"""``histofuse next``: the main results, and what to open next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.core.errors import Fault, InputError
from histofuse.core.naming import name_fusion, show_value
from histofuse.params.base import load_keys

METRICS: Final = Path("reports/metrics.json")
_COLUMNS: Final = ("auprc/macro", "auroc/macro", "f1/macro", "accuracy")


def describe_results(metrics: Path = METRICS) -> list[str]:
    """Table the test scores and name the other results.

    Raises:
        InputError: If no model was evaluated yet.
    """
    if not metrics.is_file():
        raise InputError([Fault(metrics, "no such file", "the results", "Run make repro.")])
    summary = load_json(metrics)
    models = {name: summary["models"][name] for name in _order(summary["models"])}
    return ["", *_tabulate(models, summary.get("declared", {})), "", *_list_places(metrics.parent)]


def _order(names: Iterable[str]) -> list[str]:
    """Put models in the order of params.yaml; JSON has them by name."""
    known = [*load_keys("image"), *load_keys("tabular"), *map(name_fusion, load_keys("pairing"))]
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _tabulate(
    models: Mapping[str, Mapping[str, float | None]], declared: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    width = max(map(len, models), default=0)
    yield f"  {'on the test split':<{width}}  " + "  ".join(f"{c:>11}" for c in _COLUMNS)
    for name, values in models.items():
        cells = "  ".join(f"{show_value(values.get(f'test/{c}')):>11}" for c in _COLUMNS)
        leaky = declared.get(name, {}).get("leaky", "no")
        remark = "" if leaky in {"no", False} else f"  leaky: {leaky}"
        yield f"  {name:<{width}}  {cells}{remark}"
    if all(facts.get("data") == "simulated" for facts in declared.values()) and declared:
        yield "  Simulated data: the scores test the code and say nothing about patients."


def _list_places(reports: Path) -> Iterator[str]:
    yield "  Open next:"
    yield f"    {reports / 'index.html'}         the report"
    yield "    make ui                    every run with its curves, figures and files"
    yield f"    {reports / 'tables'}/*.md        the paper's tables"
    yield f"    {reports / 'figures'}/           ROC, confusion and training curves"
    yield f"    {reports / 'explain'}/           Grad-CAM and SHAP"
    yield "    histofuse registry         the registered models"
    yield "  Then:"
    yield "    histofuse promote fusion   put a model into production, if the gate accepts it"
    yield "    histofuse serve fusion     answer requests with the model in production"
    yield "    histofuse tune NAME        search hyperparameters: a study of params.yaml"
