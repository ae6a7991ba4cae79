"""Galleries: what is chosen, what is written, and that it is the same twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.maps.figures import blend
from histofuse.explain.maps.gallery import (
    write_gallery,
)
from histofuse.explain.sampling import choose_examples, choose_sample
from histofuse.params.base import load_section
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams

CLASSES = ["mitosis", "tumour"]
ROOT = Path(__file__).parents[4]
SMALL = {"gradcam_per_class": 2, "faithfulness_per_class": 2}
PARAMS = load_section(ExplainParams, "explain", ROOT / "params.yaml").model_copy(update=SMALL)
BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=100, confidence=0.95, method="percentile", fewest_groups=10), seed=1
)


def test_where_the_map_is_zero_the_patch_shows_through():
    patch = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(blend(patch, np.zeros((2, 2), np.float32)), patch)
    assert (blend(patch, np.ones((2, 2), np.float32)) != patch).any()


def make_predictions(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["label", "prediction", "probability_mitosis"])
    ids = [f"Case_1-01/{n:04d}" for n in range(len(rows))]
    return table.assign(patch_id=ids, probability_tumour=1 - table["probability_mitosis"])


def test_hits_and_misses_are_chosen_by_confidence():
    hits = [("mitosis", "mitosis", p) for p in (0.6, 0.9, 0.7, 0.8)]
    misses = [("mitosis", "tumour", p) for p in (0.4, 0.1, 0.3)]
    chosen = choose_examples(make_predictions(hits + misses), CLASSES, 4)
    assert chosen["probability_mitosis"].tolist() == [0.9, 0.8, 0.1, 0.3]


@pytest.mark.parametrize(("hits", "misses", "expected"), [(5, 1, 4), (1, 5, 4), (2, 0, 2)])
def test_where_one_kind_is_too_few_the_other_fills_up(hits, misses, expected):
    rows = [("mitosis", "mitosis", 0.9)] * hits + [("mitosis", "tumour", 0.2)] * misses
    chosen = choose_examples(make_predictions(rows), CLASSES, 4)
    assert len(chosen) == expected
    assert (chosen["prediction"] == "tumour").sum() == min(misses, max(2, 4 - hits))


def test_samples_run_over_all_cases_of_a_class():
    rows = make_predictions([("mitosis", "mitosis", 0.9)] * 30 + [("tumour", "tumour", 0.1)] * 3)
    chosen = choose_sample(rows, CLASSES, 4)
    of_mitosis = chosen.loc[chosen["label"] == "mitosis", "patch_id"]
    assert [int(name[-4:]) for name in of_mitosis] == [0, 10, 19, 29]
    assert (chosen["label"] == "tumour").sum() == 3


def test_the_gallery_is_in_folders_by_class_and_reproducible(patches, tmp_path):
    files = []
    for out in (tmp_path / "a", tmp_path / "b"):
        write_gallery(patches, out, PARAMS, BOOTSTRAP)
        found = {f.relative_to(out).as_posix(): f.read_bytes() for f in sorted(out.rglob("*.*"))}
        files.append(found)
    assert files[0] == files[1]
    names = set(files[0])
    assert {n.rpartition("/")[0] for n in names} == {"", "mitosis", "tumour"}
    assert sum(n.startswith("mitosis/") for n in names) == 2
    sheets = {f"contact_sheet_{name}.png" for name in CLASSES}
    assert {*sheets, "summary.json", "faithfulness.json"} <= names
    assert not any(b"matplotlib" in content.lower() for content in files[0].values())


def test_the_summary_counts_empty_maps_over_the_test_patches_not_over_those_drawn(
    patches, tmp_path
):
    network = patches.mapper.image
    with torch.no_grad():  # everything speaks for the first class, nothing for the second
        network.head[1].weight.abs_()
        network.head[1].weight[1] *= -1
        network.backbone.hidden[1].weight.abs_()
    found = write_gallery(patches, tmp_path / "a", PARAMS, BOOTSTRAP)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    _, inputs = patches.read(patches.predictions)
    maps = patches.mapper.compute_maps(inputs)
    expected = np.mean([m.max() == 0 for m in maps])
    assert 0 < expected < 1
    assert summary["empty_share"] == pytest.approx(expected, abs=1e-4)
    assert (summary["empty_patches"], summary["patches"]) == (6, 4)
    assert found["empty_share"]["value"] == pytest.approx(expected, abs=1e-6)
    assert (summary["layer"], summary["map_px"]) == ("features.2", 8)
    tested = json.loads((tmp_path / "a" / "faithfulness.json").read_text())
    assert tested == {"digest": "ab" * 32, "scores": found}
    assert summary["digest"] == "ab" * 32
    # The empty ones among the maps tested count in every mean.
    tested = choose_sample(patches.predictions, CLASSES, PARAMS.faithfulness_per_class)
    assert {e["n"] for name, e in found.items() if name != "empty_share"} == {len(tested)}


def test_a_split_without_patches_leaves_empty_reports(patches, tmp_path):
    empty = replace(patches, predictions=patches.predictions[:0])
    assert write_gallery(empty, tmp_path / "a", PARAMS, BOOTSTRAP) == {}
    assert {f.name for f in (tmp_path / "a").iterdir()} == {"summary.json", "faithfulness.json"}
