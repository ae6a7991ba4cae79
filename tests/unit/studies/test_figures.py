"""Figures of studies: all of them drawn, for few trials and many, the same bytes each time."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import pyplot, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from histofuse.studies import figures
from histofuse.studies.figures import draw_study
from histofuse.studies.trials import StudySpec, TrialRecord

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 512, "log": False},
    "hidden": {"type": "choice", "of": [[256, 128], [128]]},
}
SPEC = StudySpec(
    "fusion", "ab" * 32, "macro_f1", "validation", "maximize", SPACE, {}, {"trials": 9}, 1, {},
    "simulated",
)  # fmt: skip


def make_trials(count, seed=0):
    rng = np.random.default_rng(seed)
    trials = []
    for n in range(count):
        rate, width = 10 ** rng.uniform(-5, -1), int(rng.integers(16, 512))
        params = {"learning_rate": float(rate), "batch_size": width}
        params["hidden"] = SPACE["hidden"]["of"][int(rng.integers(2))]
        state = "PRUNED" if n % 5 == 4 else "FAIL" if n % 11 == 10 else "COMPLETE"
        value = -((np.log10(rate) + 3) ** 2) if state == "COMPLETE" else None
        trials.append(TrialRecord(n, state, None if value is None else float(value), params))
    return trials


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draw a study and return its figures by name."""

    def draw_all(spec, trials):
        drawn = {}
        monkeypatch.setattr(
            figures, "write_figure", lambda figure, path, dpi: drawn.update({path.stem: figure})
        )
        draw_study(spec, trials, tmp_path)
        return drawn

    return draw_all


def read_bars(figure):
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    return dict(zip(names, [bar.get_width() for bar in figure.axes[0].patches], strict=True))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_all_figures_are_drawn_and_the_same_each_time(tmp_path, count):
    trials = make_trials(count)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw_study(SPEC, trials, tmp_path / name)
    first = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()}
    assert set(first) == {
        "history.png", "importance.png", "parallel_coordinates.png", "slices.png",
    }  # fmt: skip
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()}
    for name in first:
        with Image.open(tmp_path / "a" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{name} is blank"


def test_drawing_leaves_no_style_and_no_figure_behind(draw):
    before = rcParams.copy()
    draw(SPEC, make_trials(12))
    assert rcParams == before
    assert pyplot.get_fignums() == []


def test_the_param_that_decides_is_the_most_important(draw):
    shares = read_bars(draw(SPEC, make_trials(60))["importance"])
    assert max(shares, key=shares.get) == "learning_rate"
    assert shares["learning_rate"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)


def test_pruned_and_failed_trials_are_counted(draw):
    footers = {figure.get_supxlabel() for figure in draw(SPEC, make_trials(12)).values()}
    assert footers == {
        "SIMULATED DATA  ·  macro_f1 on validation  ·  12 trials, 2 pruned, 1 failed"
    }


def test_the_source_of_the_data_is_named(draw):
    drawn = draw(replace(SPEC, source="x"), make_trials(4))
    assert all(figure.get_supxlabel().startswith("data: x") for figure in drawn.values())


WIDE = {
    "backbone_learning_rate": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "unfreeze_every_epochs": {"type": "int", "low": 1, "high": 3, "log": False},
    "augmentation.rotation_degrees": {"type": "float", "low": 0.0, "high": 180.0, "log": False},
    "augmentation.brightness": {"type": "float", "low": 0.0, "high": 0.3, "log": False},
    "augmentation.flip": {"type": "choice", "of": [True, False]},
    "loss": {"type": "choice", "of": ["weighted_cross_entropy", "focal", None]},
}


def make_wide_trials(count):
    rng = np.random.default_rng(5)
    trials = []
    for n in range(count):
        params = {}
        for key, found in WIDE.items():
            match found["type"]:
                case "choice":
                    params[key] = found["of"][int(rng.integers(len(found["of"])))]
                case "int":
                    params[key] = int(rng.integers(found["low"], found["high"] + 1))
                case _:
                    params[key] = float(rng.uniform(found["low"], found["high"]))
        pruned = n % 3 == 2
        value = None if pruned else float(rng.normal(0.7, 0.05))
        trials.append(TrialRecord(n, "PRUNED" if pruned else "COMPLETE", value, params))
    return trials


@pytest.mark.parametrize("wide", [False, True])
def test_no_word_is_cut_off_at_the_edge(draw, wide):
    spec = replace(SPEC, name="resnet18", space=WIDE) if wide else SPEC
    for name, figure in draw(spec, make_wide_trials(12) if wide else make_trials(12)).items():
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
        width, height = figure.get_size_inches()
        assert drawn.width > 0.8 * width
        ends = {"left": drawn.x0, "below": drawn.y0, "right": width - drawn.x1}
        ends["above"] = height - drawn.y1
        assert {side: room for side, room in ends.items() if room < 0} == {}, name


def test_slices_show_each_complete_trial_against_each_param(draw):
    trials = make_wide_trials(20)
    slices = draw(replace(SPEC, space=WIDE), trials)["slices"].axes[: len(WIDE)]
    assert {axes.get_xlabel() for axes in slices} == set(WIDE)
    complete = [t for t in trials if t.state == "COMPLETE"]
    for axes in slices:
        assert len(axes.collections[0].get_offsets()) == len(complete)
    (rate,) = (axes for axes in slices if axes.get_xlabel() == "backbone_learning_rate")
    assert rate.get_xscale() == "log"
    assert rate.collections[0].get_offsets().tolist() == [
        [t.params["backbone_learning_rate"], t.value] for t in complete
    ]


def test_parallel_coordinates_name_the_value_and_all_params_and_show_each_complete_trial(draw):
    trials = make_wide_trials(12)
    axes = draw(replace(SPEC, space=WIDE), trials)["parallel_coordinates"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["macro_f1", *sorted(WIDE)]
    values = [path.vertices[0, 1] for path in axes.collections[0].get_paths()]
    assert values == pytest.approx([t.value for t in trials if t.state == "COMPLETE"])


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_best_so_far_never_gets_worse(draw, direction, sign):
    best = draw(replace(SPEC, direction=direction), make_trials(12))["history"].axes[0].lines[0]
    assert all(sign * a <= sign * b for a, b in pairwise(best.get_ydata()))


def test_too_few_trials_for_importance_are_reported(draw):
    texts = [t.get_text() for t in draw(SPEC, make_trials(3))["importance"].axes[0].texts]
    assert texts == ["fewer than 5 complete trials that differ"]


def test_equal_values_have_no_importance(draw):
    trials = [replace(t, value=0.7) for t in make_trials(9) if t.state == "COMPLETE"]
    assert not draw(SPEC, trials)["importance"].axes[0].patches


def test_a_param_that_never_varied_has_none(draw):
    trials = [replace(t, params={**t.params, "batch_size": 64}) for t in make_trials(20)]
    shares = read_bars(draw(SPEC, trials)["importance"])
    assert shares["batch_size"] == 0
    assert sum(shares.values()) == pytest.approx(1)
