"""Found nuclei against dots, one to one."""

import numpy as np
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

NONE = -1


def match(
    found: Float[np.ndarray, "n 2"], dots: Float[np.ndarray, "m 2"], radius_px: float
) -> Int64[np.ndarray, " n"]:
    """Match found nuclei to dots within a radius: as many as possible, then as close as possible.

    Hungarian method, as in the challenges of the field; pairs beyond the radius are no pairs.

    Returns:
        (n,) number of the dot of each found nucleus, or `NONE`.
    """
    answer = np.full(len(found), NONE, np.int64)
    if not len(found) or not len(dots):
        return answer
    near = KDTree(found).sparse_distance_matrix(KDTree(dots), radius_px, output_type="ndarray")
    # A pair less costs more than all distances together.
    beyond = 1.0 + radius_px * min(len(found), len(dots))
    cost = np.full((len(found), len(dots)), beyond)
    cost[near["i"], near["j"]] = near["v"]
    rows, columns = linear_sum_assignment(cost)
    paired = cost[rows, columns] < beyond
    answer[rows[paired]] = columns[paired]
    return answer
