"""``histofuse next``: the main results, and what to open next."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from histofuse.commands.registry import align
from histofuse.commands.ui import describe_page
from histofuse.core.artifacts import load_json
from histofuse.core.errors import InputError
from histofuse.core.naming import name_fusion, show_interval, show_value, spell_metrics
from histofuse.params.base import load_keys
from histofuse.tracking.store import open_store

METRICS: Final = Path("reports/metrics.json")
HEADLINE: Final = Path("reports/headline.json")
_COLUMNS: Final = ("ranking", "calibration", "gain over the image model")


def describe_results(metrics: Path = METRICS, headline: Path = HEADLINE) -> list[str]:
    """Table the headline scores and name the other results."""
    missing = [path for path in (metrics, headline) if not path.is_file()]
    if missing:
        raise InputError.of(missing[0], "no such file", "the results", "Run make repro.")
    models, declared = load_json(headline), load_json(metrics).get("declared", {})
    # In the order of params.yaml; JSON has them by name.
    known = [*load_keys("image"), *load_keys("tabular"), *map(name_fusion, load_keys("pairing"))]
    ordered = {name: models[name] for name in known if name in models} | models
    return ["", *_tabulate(ordered, declared), "", *_list_places(metrics.parent)]


def _tabulate(
    models: Mapping[str, Mapping[str, Any]], declared: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Write a line a model: its scores with their names, and why they flatter it."""
    splits = sorted({name.partition("/")[0] for of in models.values() for name in of} - {"gain"})
    rows = [
        [f"on the {', '.join(splits)} split", *_COLUMNS],
        *([name, *_show(of)] for name, of in models.items()),
    ]
    reasons = [declared.get(row[0], {}).get("leaky", "no") for row in rows]
    told = ["" if leaky == "no" else f"leaky: {leaky}" for leaky in reasons]
    lines = align([[*row, leaky] for row, leaky in zip(rows, told, strict=True)])
    yield from (f"  {line}" for line in lines)
    if all(facts.get("data") == "simulated" for facts in declared.values()) and declared:
        yield "  Simulated data: the scores test the code and say nothing about patients."


def _show(headline: Mapping[str, Any]) -> list[str]:
    """Write the scores of one model: "mitosis AUPRC 0.580", and the gain with its interval."""
    scores = sorted(name for name in headline if name != "gain")  # AUPRC or AUROC before ECE
    cells = [f"{spell_metrics(n.partition('/')[2])} {show_value(headline[n])}" for n in scores]
    return [*cells, show_interval(**headline["gain"], sign="+") if "gain" in headline else ""]


def _list_places(reports: Path) -> Iterator[str]:
    yield "  Open next:"
    yield f"    {reports / 'index.html'}         the report"
    yield "    make ui                    every run with its curves, figures and files"
    yield from (f"    {'':26} {line}" for line in describe_page(open_store()))
    yield f"    {reports / 'tables'}/*.md        the paper's tables"
    yield f"    {reports / 'figures'}/           ROC, confusion and training curves"
    yield f"    {reports / 'explain'}/           Grad-CAM and SHAP"
    yield "    histofuse registry         the registered models"
    yield "  Then:"
    yield "    histofuse promote fusion   put a model into production, if the gate accepts it"
    yield "    histofuse serve fusion     answer requests with the model in production"
    yield "    dvc exp run -S fusion.learning_rate=3e-4 evaluate"
    yield "                               try a value; dvc metrics diff compares the scores"
    yield "    histofuse tune NAME        search hyperparameters: a study of params.yaml"
