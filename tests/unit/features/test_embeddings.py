import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.features.embeddings import (
    Embeddings,
    load_embeddings,
    number_rows,
    select_pairs,
    write_embeddings,
)


def make_embeddings():
    image = np.arange(6, dtype=np.float32).reshape(3, 2)
    patient = 10 * np.arange(2, dtype=np.float32).reshape(2, 1)
    return Embeddings(
        number_rows(pd.DataFrame({"patch_id": ["c", "a", "b"]}), image),
        number_rows(pd.DataFrame({"subject_id": [7, 7], "hadm_id": [71, 70]}), patient),
        {"classes": ["x"]},
    )


def make_pairs(**changes):
    pairs = {"patch_id": ["a", "b", "a"], "subject_id": [7, 7, 7], "hadm_id": [70, 71, 71]}
    return pd.DataFrame(pairs | changes)


def test_embeddings_are_joined_by_key(tmp_path):
    write_embeddings(make_embeddings(), tmp_path / "embeddings")
    loaded = load_embeddings(tmp_path / "embeddings")
    image, patient = select_pairs(loaded, make_pairs())

    assert image.tolist() == [[2, 3], [4, 5], [2, 3]]
    assert patient.tolist() == [[10], [0], [0]]
    assert loaded.meta == {"classes": ["x"], "dims": {"image": 2, "patient": 1}}


def test_all_missing_embeddings_are_named():
    pairs = make_pairs(patch_id=["a", "z", "z"], hadm_id=[70, 71, 72])
    with pytest.raises(InputError) as error:
        select_pairs(make_embeddings(), pairs)
    assert "2 pairs without an embedding, such as {'patch_id': 'z'}" in str(error.value)
    assert "1 pair without an embedding, such as {'subject_id': 7, 'hadm_id': 72}" in str(
        error.value
    )


@pytest.mark.parametrize("values", [np.zeros((1, 2)), np.array([[0, np.inf], [0, 0], [0, 0]])])
def test_embeddings_that_do_not_fit_are_refused(values):
    with pytest.raises(InputError, match="3 finite embeddings"):
        number_rows(pd.DataFrame({"patch_id": ["a", "b", "c"]}), values.astype(np.float32))


def test_damaged_folder_is_said(tmp_path):
    write_embeddings(make_embeddings(), tmp_path)
    np.save(tmp_path / "image.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match=r"image\.npy: holds float32 \(2, 2\)"):
        load_embeddings(tmp_path)
    (tmp_path / "image.npy").unlink()
    with pytest.raises(InputError, match="not readable"):
        load_embeddings(tmp_path)
