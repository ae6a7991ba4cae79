import base64
import io

import numpy as np
import pytest
from PIL import Image

from histofuse.reporting import pictures
from histofuse.reporting.pictures import KEPT_BYTES, WIDEST_PX, embed_picture, embed_strip


def read(figure):
    return Image.open(io.BytesIO(base64.b64decode(figure.source.partition(",")[2])))


def test_small_picture_is_kept_byte_for_byte(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(path)
    figure = embed_picture(path, "alt", "caption")
    assert base64.b64decode(figure.source.partition(",")[2]) == path.read_bytes()
    assert (figure.width, figure.height) == (30, 20)


@pytest.mark.parametrize("photographic", [True, False])
def test_large_picture_becomes_smaller_and_shows_the_same(tmp_path, photographic):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 30, (300, 2 * WIDEST_PX, 3), np.uint8)
    noise[:, WIDEST_PX:] += 200
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > KEPT_BYTES

    figure = embed_picture(path, "alt", "caption", photographic=photographic)
    picture = np.asarray(read(figure).convert("RGB"))
    assert (figure.width, figure.height) == (WIDEST_PX, 150) == picture.shape[1::-1]
    assert len(figure.source) < path.stat().st_size / 2
    assert picture[:, : WIDEST_PX // 2 - 5].mean() < 40
    assert picture[:, WIDEST_PX // 2 + 5 :].mean() > 190


def refuse(*_, **__):
    raise AssertionError("encoded again")


def test_a_picture_is_shrunk_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path)
    first = embed_picture(path, "alt", "caption")

    with monkeypatch.context() as patched:
        patched.setattr(pictures, "_encode", refuse)
        assert embed_picture(path, "alt", "caption") == first
        with pytest.raises(AssertionError, match="encoded again"):
            embed_picture(path, "alt", "caption", photographic=True)

    Image.fromarray(255 - noise).save(path)
    assert embed_picture(path, "alt", "caption").source != first.source


def test_strip_holds_its_patches_side_by_side():
    patches = [np.full((6, 6, 3), value, np.uint8) for value in (10, 90)]
    strip = np.asarray(read(embed_strip(patches, "alt", "caption", gap_px=2)))
    assert strip.shape == (6, 14, 3)
    assert (strip[:, :6] == 10).all()
    assert (strip[:, 6:8] == 255).all()
    assert (strip[:, 8:] == 90).all()
