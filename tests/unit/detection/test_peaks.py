import numpy as np

from histofuse.detection.peaks import find_peaks


def bell(shape, x, y, sigma=1.5):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    square = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2
    return (-square / (2 * sigma**2)).astype(np.float32)


def test_a_peak_lies_between_the_places_of_the_map():
    peaks = find_peaks(bell((20, 30), 12.8, 7.3), 4.0, -1.0)
    np.testing.assert_allclose(peaks.x, [12.8], atol=1e-3)
    np.testing.assert_allclose(peaks.y, [7.3], atol=1e-3)


def test_of_two_peaks_closer_than_the_spacing_the_higher_stays():
    heat = np.maximum(bell((20, 30), 10.5, 10.5), bell((20, 30), 14.5, 10.5) - 0.1)
    assert find_peaks(heat, 3.0, -1.0).x.round(1).tolist() == [10.5, 14.5]
    assert find_peaks(heat, 5.0, -1.0).x.round(1).tolist() == [10.5]


def test_low_peaks_and_empty_maps_have_none():
    assert len(find_peaks(bell((9, 9), 4.5, 4.5) - 3, 3.0, -1.0).x) == 0
    assert len(find_peaks(np.empty((0, 0), np.float32), 3.0, -1.0).x) == 0


def test_a_peak_on_the_border_stays_in_the_map():
    peaks = find_peaks(bell((9, 9), 0.1, 9.0), 3.0, -1.0)
    assert 0 <= peaks.x[0] <= 9
    assert 0 <= peaks.y[0] <= 9
