"""A softmax over keys that come in parts is the softmax over all of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.attention import running


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at_once(q, k, v):
    """In float64, with every key/value head repeated for the queries that share it."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhe,khe->hqk", q.double(), k) * q.shape[2] ** -0.5
    return torch.einsum("hqk,khe->qhe", scores.softmax(dim=2), v)


@given(
    queries=st.integers(0, 5),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    parts=st.lists(st.integers(1, 9), min_size=1),
    scores_at_once=st.integers(1, 100),
    scale=st.sampled_from([1.0, 30.0]),  # the largest score of a later part may be much larger
)
def test_parts_change_nothing(queries, heads, parts, scores_at_once, scale):
    q = tensor(queries, heads[0], 8)
    k, v = (tensor(sum(parts), heads[1], 8, seed=seed) for seed in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "SCORES_AT_ONCE", scores_at_once)
        attention = running.RunningAttention(q * scale, heads[1])
        for k_part, v_part in zip(k.split(parts), v.split(parts), strict=True):
            attention.see(k_part, v_part)
    expected = at_once(q * scale, k, v).float()
    torch.testing.assert_close(attention.result(), expected, atol=2e-5, rtol=1e-4)


def test_sums_are_kept_in_float32_whatever_comes_in():
    q, k, v = (tensor(n, 2, 8, seed=n).bfloat16() for n in (3, 1000, 1000))
    with torch.autocast("cpu", torch.bfloat16):
        attention = running.RunningAttention(q, 2)
        attention.see(k, v)
    assert attention.result().dtype == torch.bfloat16
    error = attention.weighted_KRE / attention.total - at_once(q, k, v).transpose(0, 1)
    assert error.abs().max() < 1e-5
