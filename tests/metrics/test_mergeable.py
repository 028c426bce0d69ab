from __future__ import annotations

import numpy as np

from tl_jax.metrics.mergeable import real_rows


def test_rows_of_weight_zero_go():
    weights = np.array([[1, 0], [1, 1]])
    values = {
        "by_row": np.arange(4).reshape(2, 2),
        "wide": np.arange(8).reshape(2, 2, 2),
        "other": np.arange(3),
        "scalar": 7,
        "pair": (1, 2),
    }
    found = real_rows(values, weights)
    assert found["by_row"].tolist() == [0, 2, 3]
    assert found["wide"].tolist() == [[0, 1], [4, 5], [6, 7]]
    assert found["other"] is values["other"] and found["scalar"] == 7 and found["pair"] == (1, 2)
