"""A gallery of Grad-CAM overlays in class-named folders, and the tests of the maps.

Source: paper 3.1 (Grad-CAM; a fixed number a class, in class-named folders).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.naming import show_name
from histofuse.data.patches import crop_margin, load_index, load_meta, read_patches
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import FAITHFULNESS, estimate_means, render_estimates
from histofuse.explain.maps.faithfulness import MEASURES, ToProbabilities, score_maps
from histofuse.explain.maps.figures import Explained, draw_example, draw_sheet, write_figure
from histofuse.explain.maps.mappers import Inputs, Mapper
from histofuse.explain.ranks import spread
from histofuse.params.explain import ExplainParams

SUMMARY: Final = "summary.json"
SHEET: Final = "contact_sheet_{}.png"
_ROWS_AT_ONCE: Final = 256
FindOthers = Callable[[pd.DataFrame], tuple[Tensor, ...]]


def find_nothing(rows: pd.DataFrame) -> tuple[Tensor, ...]:
    """Find what stands beside the patches of an image network: nothing."""
    return ()


@dataclass(frozen=True)
class Patches:
    """A network's test patches.

    Attributes:
        mapper: The network.
        folder: Of the shards.
        predictions: Its rows of the split that is explained.
        find_others: Finds what the network takes beside the patches of some rows.
        to_probabilities: Its raw logits to calibrated probabilities.
    """

    mapper: Mapper
    folder: Path
    predictions: pd.DataFrame
    find_others: FindOthers
    to_probabilities: ToProbabilities

    @property
    def classes(self) -> list[str]:
        """In the order of the logits."""
        return self.mapper.image.spec.classes

    def read(self, rows: pd.DataFrame) -> tuple[UInt8[np.ndarray, "n side side 3"], Inputs]:
        """Read the patches of some rows, as they look and as the network takes them."""
        places = load_index(self.folder)[["patch_id", "shard", "row"]]
        places = rows[["patch_id"]].merge(places, on="patch_id", how="left", validate="1:1")
        stored = read_patches(self.folder, places)
        model = self.mapper.image
        numbers = {name: number for number, name in enumerate(self.classes)}
        targets = torch.tensor([numbers[name] for name in rows["prediction"]])
        images = model.prepare(torch.from_numpy(stored))
        inputs = Inputs(images, self.find_others(rows), targets)
        return crop_margin(stored, model.spec.margin_px), inputs

    def explain(self, rows: pd.DataFrame) -> list[Explained]:
        """Map the decided class of some rows."""
        if rows.empty:
            return []
        patches, inputs = self.read(rows)
        maps, source = self.mapper.compute_maps(inputs), load_meta(self.folder).source
        return [
            Explained(
                patch_id=row["patch_id"],
                label=row["label"],
                prediction=row["prediction"],
                probability=float(row[f"probability_{row['prediction']}"]),
                patch=patches[n],
                heat=maps[n],
                source=source,
            )
            for n, (_, row) in enumerate(rows.iterrows())
        ]


def write_gallery(
    patches: Patches,
    folder: Path,
    params: ExplainParams,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Write overlays, contact sheets, ``summary.json`` and ``faithfulness.json``.

    Overlays stand in ``<true class>/<patch>.png``; ``contact_sheet_<true class>.png`` has hits and
    misses apart. ``summary.json`` holds ``model``, ``layer``, ``map_px``, ``patches`` (drawn),
    ``empty_share`` and ``empty_patches`` (over how many test patches), ``nucleus_radius_px``. For
    ``faithfulness.json`` see `estimates.render_estimates`; it is empty without test patches.

    Args:
        patches: The network and its rows.
        folder: To fill.
        params: Section ``explain``.
        bootstrap: Draws cases, for the intervals.

    Returns:
        What ``faithfulness.json`` holds.
    """
    mapper, classes = patches.mapper, patches.classes
    examples = patches.explain(
        choose_examples(patches.predictions, classes, params.gradcam_per_class)
    )
    is_empty = find_empty(patches, params.empty_patches)
    empty, counted = float(is_empty["empty"].mean()) if len(is_empty) else 0.0, len(is_empty)
    rendered = check_maps(patches, is_empty, params, bootstrap)
    for example in examples:
        path = folder / example.label / f"{example.patch_id.replace('/', '_')}.png"
        write_figure(draw_example(example, params.nucleus_radius_px), path)
    for name in classes:
        if shown := [example for example in examples if example.label == name]:
            title = f"{mapper.name}: true class {show_name(name)}"
            footer = _describe(mapper, shown[0], empty, counted)
            sheet = draw_sheet(shown, title, footer, params.nucleus_radius_px)
            write_figure(sheet, folder / SHEET.format(name))
    summary = {
        "model": mapper.name,
        "layer": mapper.layer_name,
        "map_px": len(examples[0].heat) if examples else None,
        "patches": len(examples),
        "empty_share": round(empty, 4),
        "empty_patches": counted,
        "nucleus_radius_px": params.nucleus_radius_px,
    }
    write_json(summary, folder / SUMMARY)
    write_json(rendered, folder / FAITHFULNESS)
    return rendered


def write_gradcam_gallery(
    patches: Patches, out_dir: Path, params: ExplainParams, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Write the gallery of an image network in the place of a folder; see `write_gallery`."""
    with replacing_folder(out_dir) as folder:
        return write_gallery(patches, folder, params, bootstrap)


def _describe(mapper: Mapper, example: Explained, empty: float, counted: int) -> str:
    mark = "SIMULATED DATA  ·  " if example.source == "simulated" else ""
    side = len(example.heat)
    return (
        f"{mark}test split  ·  patch, Grad-CAM of the predicted class ({mapper.layer_name},"
        f" {side} × {side}), overlay  ·  empty maps: {empty:.1%} of {counted:,}\n"
        "The dashed circle is the disc that stands for the annotated nucleus. Above each row:"
        " predicted class and its calibrated probability."
    )


def find_empty(patches: Patches, most: int) -> pd.DataFrame:
    """Map up to so many test patches and tell which maps are empty: ``case_id`` and ``empty``."""
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
    """Test the maps of as many test patches of each class as asked for; see `faithfulness`."""
    rows = choose_sample(patches.predictions, patches.classes, params.faithfulness_per_class)
    if rows.empty:
        return {}
    _, inputs = patches.read(rows)
    scores = score_maps(patches.mapper, inputs, patches.to_probabilities, params, bootstrap.seed)
    found = {}
    for table, of in (
        (empty, {"empty_share": empty["empty"].to_numpy(dtype=np.float64)}),
        (rows, scores),
    ):
        groups = np.unique(table["case_id"].to_numpy(dtype=str), return_inverse=True)[1]
        found |= estimate_means(of, groups, bootstrap)
    return render_estimates(found, MEASURES)


def choose_sample(predictions: pd.DataFrame, classes: Sequence[str], most: int) -> pd.DataFrame:
    """Choose rows of each true class evenly along their patch ids, and so over their cases."""
    parts = []
    for name in classes:
        rows = predictions[predictions["label"] == name].sort_values("patch_id")
        parts.append(rows.iloc[spread(len(rows), most)])
    return pd.concat(parts, ignore_index=True)


def choose_examples(
    predictions: pd.DataFrame, classes: Sequence[str], per_class: int
) -> pd.DataFrame:
    """Choose patches of each true class: the most confident misses, up to half, and hits.

    Where one kind is too few the other fills up. Ties go by ``patch_id``.

    Returns:
        Rows of `predictions` by class, hits before misses.
    """
    parts: list[pd.DataFrame] = []
    for name in classes:
        rows = rank_by_confidence(predictions[predictions["label"] == name])
        hits, misses = (rows[(rows["prediction"] == name) == kind] for kind in (True, False))
        n_misses = min(len(misses), max(per_class // 2, per_class - len(hits)))
        parts += [hits.head(per_class - n_misses), misses.head(n_misses)]
    return pd.concat(parts, ignore_index=True)


def rank_by_confidence(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by the probability of the decided class, the surest first."""
    decided = [row[f"probability_{row['prediction']}"] for _, row in rows.iterrows()]
    confidence: Float32[np.ndarray, " n"] = np.array(decided, dtype=np.float32)
    order = np.lexsort((rows["patch_id"].to_numpy(dtype=str), -confidence))
    return rows.iloc[order]
