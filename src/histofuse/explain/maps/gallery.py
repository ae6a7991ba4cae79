"""A gallery of overlays in folders by class, and the tests of the maps.

Source: paper 3.1 (a fixed number for each class, in folders named by class).
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import write_json
from histofuse.core.naming import name_model, show_name
from histofuse.data.patches import load_meta
from histofuse.evaluation.drawing import mark_source, write_figure
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.sides import find_side
from histofuse.explain import estimates
from histofuse.explain.estimates import FAITHFULNESS, Score, write_scores
from histofuse.explain.maps.faithfulness import WAYS, define_measures, score_maps
from histofuse.explain.maps.figures import DPI, Explained, draw_example, draw_sheet
from histofuse.explain.maps.mappers import Mapper
from histofuse.explain.maps.patches import Patches
from histofuse.explain.sampling import choose_examples, choose_sample, spread
from histofuse.params.explain import ExplainParams

SUMMARY: Final = "summary.json"
SHEET: Final = "contact_sheet_{}.png"
EXAMPLES: Final = "examples_{}.png"
_FEW: Final = 2  # hits, and misses, of a figure of examples
_ROWS_AT_ONCE: Final = 256
_OVER_CENTRE: Final = tuple(f"{way}_gain_over_centre" for way in WAYS)


def explain_rows(patches: Patches, rows: pd.DataFrame) -> list[Explained]:
    """Map the decided class of some rows."""
    if rows.empty:
        return []
    pixels, inputs = patches.read(rows)
    maps, source = patches.mapper.compute_maps(inputs), load_meta(patches.folder).source
    return [
        Explained(
            patch_id=row["patch_id"],
            label=row["label"],
            prediction=row["prediction"],
            probability=float(row[f"probability_{row['prediction']}"]),
            patch=pixels[n],
            heat=maps[n],
            source=source,
            method=patches.mapper.title,
        )
        for n, (_, row) in enumerate(rows.iterrows())
    ]


def write_gallery(
    patches: Patches,
    folder: Path,
    params: ExplainParams,
    bootstrap: Bootstrap,
    choice: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write overlays, contact sheets, ``summary.json`` and ``faithfulness.json``; return scores.

    Overlays are ``<true class>/<patch>.png``; ``contact_sheet_<true class>.png`` shows hits and
    misses, ``examples_<true class>.png`` the first of them. In ``summary.json``, ``patches`` are
    those drawn, ``empty_patches`` the test patches examined, and ``beats_centre`` is None without
    test patches, as are the scores. `bootstrap` draws cases, for the intervals.
    """
    chosen = choose_examples(patches.predictions, patches.classes, params.gradcam_per_class)
    examples = explain_rows(patches, chosen)
    is_empty = find_empty(patches, params.empty_patches)
    tests = check_maps(patches, is_empty, params, bootstrap)
    empty_share = float(is_empty["empty"].mean()) if len(is_empty) else 0.0
    mapper = patches.mapper
    beaten = all(_is_above(tests[n], bootstrap) for n in _OVER_CENTRE) if tests else None
    footer = _describe(mapper, examples, empty_share, len(is_empty))
    _write_figures(mapper.name, examples, footer, params.nucleus_radius_px, folder)
    summary = {
        "model": mapper.name,
        "digest": patches.digest,
        "layer": mapper.layer_name,
        "map_px": mapper.layer.map_px,
        "method": mapper.title,
        "choice": choice,
        "beats_centre": beaten,
        "patches": len(examples),
        "empty_share": round(empty_share, 4),
        "empty_patches": len(is_empty),
        "nucleus_radius_px": params.nucleus_radius_px,
    }
    write_json(summary, folder / SUMMARY)
    write_scores(tests, patches.digest, folder / FAITHFULNESS)
    return tests


def _is_above(score: Mapping[str, Any], bootstrap: Bootstrap) -> bool:
    known = {f.name: score[f.name] for f in fields(Score)}
    return find_side(Score(**known), bootstrap.params.fewest_groups) == "above"


def _write_figures(
    model: str, examples: Sequence[Explained], footer: str, radius_px: float, folder: Path
) -> None:
    for example in examples:
        path = folder / example.label / f"{example.patch_id.replace('/', '_')}.png"
        write_figure(draw_example(example, radius_px), path, DPI)
    for name in dict.fromkeys(example.label for example in examples):
        shown = [example for example in examples if example.label == name]
        title = f"{name_model(model)}: true class {show_name(name)}"
        few = [e for kind in (True, False) for e in [e for e in shown if e.is_hit == kind][:_FEW]]
        for file, part in ((SHEET, shown), (EXAMPLES, few)):
            sheet = draw_sheet(part, title, footer, radius_px)
            write_figure(sheet, folder / file.format(name), DPI)


def _describe(
    mapper: Mapper, examples: Sequence[Explained], empty_share: float, counted: int
) -> str:
    if not examples:
        return ""
    side = len(examples[0].heat)
    return (
        f"{mark_source(examples[0].source)}  ·  test split  ·  patch, "
        f"{mapper.title} of the predicted class ({mapper.layer_name},"
        f" {side} × {side}), overlay  ·  empty maps: {empty_share:.1%} of {counted:,}\n"
        "The dashed circle is the disc that stands for the annotated nucleus. Above each row:"
        " predicted class and its calibrated probability."
    )


def find_empty(patches: Patches, most: int) -> pd.DataFrame:
    """Find out which maps of up to `most` test patches are empty: ``case_id`` and ``empty``."""
    rows = patches.predictions.sort_values("patch_id")
    rows = rows.iloc[spread(len(rows), most)]
    empty = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        _, inputs = patches.read(rows.iloc[part])
        empty[part] = patches.mapper.compute_maps(inputs).max(axis=(1, 2)) == 0
    return rows[["case_id"]].assign(empty=empty)


def check_maps(
    patches: Patches, empty: pd.DataFrame, params: ExplainParams, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Test the maps of some test patches of each class; see `faithfulness`."""
    rows = choose_sample(patches.predictions, patches.classes, params.faithfulness_per_class)
    if rows.empty:
        return {}
    _, inputs = patches.read(rows)
    scores = score_maps(patches.mapper, inputs, patches.to_probabilities, params, bootstrap.seed)
    empty_share = {"empty_share": empty["empty"].to_numpy(dtype=np.float64)}
    means = {}
    for table, values in ((empty, empty_share), (rows, scores)):
        cases = table["case_id"].to_numpy(dtype=str)
        means |= estimates.estimate_means(values, cases, bootstrap)
    measures, fewest = define_measures(params.maps), bootstrap.params.fewest_groups
    return estimates.render_estimates(means, measures, fewest)
