"""Five tokens worked out by hand: window 1, no global token, scale 1/2."""

import torch

from longspan.attention import attend

TOKENS = ["The", "cat", "sat", "on", "mat"]
Q = [[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]
K = [[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0.5, 0.5]]
V = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]]

# The: scores (0, 2)/2 of The, cat; softmax .2689, .7311
# sat: scores (2, 2, 1)/2 of cat, sat, on; softmax .3837, .3837, .2327
# on:  scores (0, 2, 1)/2 of sat, on, mat; softmax .1863, .5065, .3072, of which mat gives a half
#      to every coordinate
EXPECTED = {
    "The": [0.2689, 0.7311, 0, 0],
    "sat": [0, 0.3837, 0.3837, 0.2327],
    "on": [0.1536, 0.1536, 0.3399, 0.6601],
}


def test_worked_example(any_backend, finest_dtype, make_plan):
    dtype = finest_dtype(any_backend)
    q, k, v = (torch.tensor(rows, dtype=dtype)[:, None] for rows in (Q, K, V))  # (5, 1, 4)
    out = attend(q, k, v, make_plan([5], [], 1), backend=any_backend, scale=0.5)
    for token, expected in EXPECTED.items():
        row = out[TOKENS.index(token), 0]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=dtype), atol=5e-5, rtol=0)


def test_the_default_scale_is_one_over_the_root_of_the_head_size(
    any_backend, finest_dtype, make_plan
):
    q, k, v = (torch.tensor(rows, dtype=finest_dtype(any_backend))[:, None] for rows in (Q, K, V))
    plan = make_plan([5], [], 1)
    given = attend(q, k, v, plan, backend=any_backend, scale=4**-0.5)
    assert attend(q, k, v, plan, backend=any_backend).equal(given)
