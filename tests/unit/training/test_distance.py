import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from histofuse.training.distance import fit_distance, load_distance, write_distance

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(6, 6))


def draw(n, shift=0.0):
    return (RNG.normal(size=(n, 6)) @ MIX + shift).astype(np.float32)


def fit(train, validation):
    is_train = np.arange(len(train) + len(validation)) < len(train)
    return fit_distance(np.concatenate([train, validation]), is_train, ~is_train)


def test_it_is_the_distance_of_mahalanobis_in_units_of_validation(monkeypatch):
    monkeypatch.setattr("histofuse.training.distance.ROWS_AT_ONCE", 64)
    train, validation, new = draw(500), draw(300), draw(50, shift=2.0)
    slow = EmpiricalCovariance().fit(train.astype(np.float64))
    scale = 499 / 500  # the estimate divides by n
    expected, of_validation = (
        np.sqrt(slow.mahalanobis(x.astype(np.float64)) * scale) for x in (new, validation)
    )
    fitted = fit(train, validation)
    np.testing.assert_allclose(
        fitted.measure(new), expected / np.quantile(of_validation, 0.95), rtol=1e-3
    )
    assert (fitted.measure(validation) < 1).mean() == pytest.approx(0.95, abs=0.01)


def test_what_is_unlike_in_a_direction_that_training_never_took_is_far():
    train = np.column_stack([draw(200), np.zeros((200, 60), np.float32)]).astype(np.float32)
    fitted = fit(train[:150], train[150:])
    new = train[:5].copy()
    new[:, 40] = 3.0
    assert (fitted.measure(new) > 10).all()
    assert np.isfinite(fitted.measure(train)).all()


def test_fewer_patches_than_dimensions_and_none_that_differ():
    few = RNG.normal(size=(10, 64)).astype(np.float32)
    assert np.isfinite(fit(few, few).measure(few)).all()
    same = np.ones((10, 4), np.float32)
    assert fit(same, same).measure(same).tolist() == [0.0] * 10


def test_it_is_read_as_written_and_may_be_absent(tmp_path):
    assert load_distance(tmp_path) is None
    fitted = fit(draw(50), draw(20))
    write_distance(fitted, tmp_path)
    new = draw(3)
    read = load_distance(tmp_path)
    assert read is not None
    np.testing.assert_array_equal(read.measure(new), fitted.measure(new))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 2000


def test_the_same_patches_give_the_same_bytes(tmp_path):
    train, validation = draw(100), draw(30)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_distance(fit(train, validation), tmp_path / name)
    a, b = ((tmp_path / n / "distance.safetensors").read_bytes() for n in ("a", "b"))
    assert a == b
