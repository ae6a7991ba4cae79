"""How the maps of a network are computed: chosen on validation patches, by the numbers."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from histofuse.core.naming import name_map_method
from histofuse.core.progress import report
from histofuse.explain.maps import faithfulness
from histofuse.explain.maps.faithfulness import ALIKE, PEERS, WAYS, Curves, ToProbabilities
from histofuse.explain.maps.mappers import Mapper, map_image_network
from histofuse.explain.maps.patches import Patches
from histofuse.explain.sampling import choose_sample
from histofuse.models.backbones import ImageModel
from histofuse.models.stages import MapMethod
from histofuse.params.explain import MapParams

_HEAD = f"head_{ALIKE}"
_DECIMALS = 4  # beyond them two machines may differ


def choose_method(
    name: str,
    model: ImageModel,
    predictions: pd.DataFrame,
    to_probabilities: ToProbabilities,
    *,
    folder: Path,
    params: MapParams,
    seed: int,
) -> dict[str, Any]:
    """Compare methods on validation patches, and choose one; see `MapParams`.

    Returns ``method`` (of `MapMethod`), ``patches`` (number compared on), ``most_empty`` and
    ``most_alike`` (of the params), and ``compared``: method to ``empty_share``,
    ``head_randomisation_rank_correlation`` and the mean ``<deletion or insertion>_gain_over_<random
    or centre>``.
    """
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    mapper = map_image_network(name, model)
    patches = Patches(mapper, "", folder, predictions, to_probabilities)
    rows = choose_sample(predictions, patches.classes, params.per_class)
    _, inputs = patches.read(rows)
    curves = faithfulness.make_curves(mapper, inputs, to_probabilities, params)
    empty = np.zeros((len(rows), mapper.layer.map_px, mapper.layer.map_px), np.float32)
    baselines = faithfulness.measure_baselines(curves, empty, seed)
    blur_px = faithfulness.scale_blur(model.spec, params)
    methods = [MapMethod(method, blur_px, params.masks) for method in params.methods]
    compared = {
        method.name: _score(replace(mapper, method=method), curves, baselines, params, seed)
        for method in methods
    }
    best = max(methods, key=lambda method: _rate(compared[method.name], params))
    counts = f"{len(methods)} methods on {len(rows)} validation patches"
    report(f"maps: {name_map_method(best.name)}, of {counts}")
    model.cpu()
    limits = {"most_empty": params.most_empty, "most_alike": params.most_alike}
    return {"method": asdict(best), "patches": len(rows), "compared": compared, **limits}


def _score(
    mapper: Mapper, curves: Curves, baselines: faithfulness.Areas, params: MapParams, seed: int
) -> dict[str, float]:
    maps = mapper.compute_maps(curves.inputs)
    gains = faithfulness.measure_gains(curves, maps, baselines, seed)
    names = [f"{way}_gain_over_{peer}" for peer in PEERS for way in WAYS]
    scores = {
        "empty_share": (maps.max(axis=(1, 2)) == 0).mean(),
        _HEAD: faithfulness.compare_heads(mapper, curves.inputs, maps, params, seed).mean(),
        **{name: gains[name].mean() for name in names},
    }
    return {name: round(float(score), _DECIMALS) for name, score in scores.items()}


def _rate(scores: Mapping[str, float], params: MapParams) -> tuple[bool, float]:
    gain = sum(scores[f"{way}_gain_over_random"] for way in WAYS)
    is_empty = scores["empty_share"] > params.most_empty
    return not is_empty and scores[_HEAD] <= params.most_alike, gain
