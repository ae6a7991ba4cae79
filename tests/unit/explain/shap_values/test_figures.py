import numpy as np
from matplotlib.figure import Figure

from histofuse.explain.shap_values.figures import draw_steps


def draw(steps):
    axes = Figure().subplots()
    draw_steps(axes, ["a", "b"], np.array(steps), 0.3, ("start", "end"))
    return axes.texts


def test_numbers_of_a_waterfall_have_the_digits_that_tell_its_steps_apart():
    assert [t.get_text() for t in draw([0.0012, 0.0031])][:2] == ["+0.0012", "+0.0031"]
    assert [t.get_text() for t in draw([0.12, -0.31])][:2] == ["+0.12", "−0.31"]


def test_no_line_crosses_a_label_of_a_waterfall():
    patches = [text.get_bbox_patch() for text in draw([0.1, -0.2])]
    assert all(patch is not None and patch.get_facecolor()[:3] == (1, 1, 1) for patch in patches)
