"""The method of a network's maps is chosen on validation patches, by the numbers."""

from pathlib import Path

import numpy as np
import pytest

from histofuse.explain.maps import choice
from histofuse.explain.maps.choice import choose_method
from histofuse.params.base import load_section
from histofuse.params.explain import MapParams

METHODS = ["gradcam", "hirescam", "layercam", "scorecam"]
PARAMS = load_section(MapParams, "explain.maps", Path(__file__).parents[4] / "params.yaml")
SMALL = PARAMS.model_copy(update={"per_class": 3, "masks": 4, "steps": 3, "random_heads": 2})
SCORES = {"empty_share": 0.0, "head_randomisation_rank_correlation": 0.1}


def make_scores(gain, **others):
    gains = {f"{w}_gain_over_random": gain for w in ("deletion", "insertion")}
    return SCORES | gains | others


def choose(patches, methods=METHODS):
    params = MapParams(**SMALL.model_dump() | {"methods": methods})
    given = ("m", patches.mapper.image, patches.predictions, patches.to_probabilities)
    return choose_method(*given, folder=patches.folder, params=params, seed=1)


def test_all_methods_are_compared_and_the_best_is_named_with_its_settings(patches):
    found = choose(patches)
    compared = found["compared"]
    assert list(compared) == METHODS and found["patches"] == 6
    names = set(SCORES) | {
        f"{way}_gain_over_{peer}"
        for way in ("deletion", "insertion")
        for peer in ("random", "centre")
    }
    assert all(set(scores) == names for scores in compared.values())
    assert all(np.isfinite(list(scores.values())).all() for scores in compared.values())
    assert found["method"] == {"name": found["method"]["name"], "blur_px": 12.0, "masks": 4}
    assert choose(patches) == found
    assert choose(patches, ["layercam"])["method"]["name"] == "layercam"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([make_scores(0.1), make_scores(0.2)], "hirescam"),
        ([make_scores(0.1), make_scores(0.1)], "gradcam"),
        ([make_scores(0.1), make_scores(0.2, empty_share=0.05)], "gradcam"),
        ([make_scores(0.1), make_scores(0.2, head_randomisation_rank_correlation=0.8)], "gradcam"),
        ([make_scores(0.1, empty_share=0.3), make_scores(0.2, empty_share=0.3)], "hirescam"),
    ],
    ids=["gain", "first of equals", "empty", "same with a random head", "none is fit"],
)
def test_gains_decide_among_methods_that_show_something_and_follow_the_head(
    patches, monkeypatch, scores, expected
):
    queue = iter(scores)
    monkeypatch.setattr(choice, "_score", lambda *_: next(queue))
    assert choose(patches, ["gradcam", "hirescam"])["method"]["name"] == expected
