"""One model's results on every split, and what must be said with them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from histofuse.core.artifacts import load_json
from histofuse.core.naming import name_fusion, name_model, name_pairing
from histofuse.evaluation.metrics.weighted import Metrics, measure_splits
from histofuse.evaluation.predictions import Predictions
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.pairing import LEAKY_RULES


@dataclass(frozen=True)
class Context:
    """What an evaluation knows about the data besides the predictions."""

    image_source: str  # ``simulated`` or ``brecahad``
    patient_source: str  # ``simulated``, ``mimic-iv-demo`` or ``restricted``
    patch_audit: Mapping[str, Any]
    rules: Mapping[str, str]  # pairing name to rule
    split: str
    primary: str  # name of the pairing that stands for fusion
    alarm_at: float = math.inf  # score from which on tables of scores name a result as an alarm

    @classmethod
    def load(
        cls,
        metadata: tuple[Path, Path],
        audit: Path,
        params: EvaluationParams,
        rules: Mapping[str, str],
        alarm_at: float = math.inf,
    ) -> "Context":
        """Load the sources from the ``meta.json`` of patches and cohort, and the patches' audit."""
        image, patient = (load_json(path)["source"] for path in metadata)
        primary = params.primary_rule
        return cls(image, patient, load_json(audit), rules, params.split, primary, alarm_at)

    def list_models(self, *others: Iterable[str]) -> list[str]:
        """List other models, such as those of sections, and the fusion models, primary first."""
        rules = sorted(self.rules, key=lambda name: name != self.primary)
        return [*chain(*others), *map(name_fusion, rules)]


@dataclass(frozen=True)
class Result:
    """One model's results."""

    model: Predictions
    metrics: Metrics  # on every split there are predictions for
    title: str  # its name for readers
    data: str  # where the rows come from, such as ``simulated``
    leaky: str  # why its numbers flatter it; empty where nothing is known to

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def simulated(self) -> bool:
        """Whether any part of the data is simulated."""
        return "simulated" in self.data


def evaluate_model(model: Predictions, context: Context) -> Result:
    """Measure a model on each of its splits and declare where its numbers come from."""
    metrics, title = measure_splits(model), _make_title(model)
    return Result(model, metrics, title, name_data(model, context), find_leaks(model, context))


def _make_title(model: Predictions) -> str:
    if model.kind != "fusion":
        return name_model(model.name)
    encoders = model.config["encoders"]
    parts = " + ".join(name_model(encoders[side]["name"]) for side in ("image", "patient"))
    return f"Fusion ({parts}), {name_pairing(model.name).replace('_', '-')}"


def name_data(model: Predictions, context: Context) -> str:
    """Name where a model's rows come from."""
    if model.kind == "fusion":
        return " + ".join(dict.fromkeys((context.image_source, context.patient_source)))
    return context.image_source if model.on_patches else context.patient_source


def find_leaks(model: Predictions, context: Context) -> str:
    """Say why a model's numbers flatter it; empty where nothing is declared leaky."""
    if not model.on_patches:
        return ""
    reasons = []
    if context.patch_audit["leaky"]:
        reasons.append("patches split by patch")
    if model.kind == "fusion" and context.rules[name_pairing(model.name)] in LEAKY_RULES:
        reasons.append("pairing follows the label")
    return "; ".join(reasons)


def is_primary(result: Result, context: Context) -> bool:
    """Tell the fusion model that stands for fusion."""
    return result.name == name_fusion(context.primary)


def find_focus(results: Sequence[Result]) -> str | None:
    """Find the class in focus of the models on patches; None without such models."""
    return next((r.model.focus_class for r in results if r.model.on_patches), None)


def _count(rows: Predictions) -> dict[str, Any]:
    return {"n": len(rows), rows.group_unit: rows.count_groups(), "classes": rows.count_classes()}


def _declare(result: Result) -> dict[str, str]:
    return {
        "data": result.data,
        "leaky": result.leaky or "no",
        "focus_class": result.model.focus_class,
        "digest": result.model.digest,
    }


def summarise(results: Sequence[Result], paired: Mapping[str, Any]) -> dict[str, Any]:
    """Render ``metrics.json``; a metric is None where not defined."""
    sizes: dict[str, Any] = {}
    for result in results:
        model = result.model
        sizes.setdefault(model.unit, {s: _count(model.of(s)) for s in model.splits})
    return {
        "models": {r.name: r.metrics for r in results},
        "declared": {r.name: _declare(r) for r in results},
        "split_sizes": sizes,
        "paired": dict(paired),
    }
