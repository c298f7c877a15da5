"""Dropout falls on the probabilities, of local rows and of global rows, in every backend
that has it."""

import pytest
import torch

from longspan.attention import attend

P = 0.25
NUM_TOKENS = 150
DRAWS = 200


@pytest.fixture(params=[5, 40, None], ids=["narrow", "wide", "full"])
def plan(request, make_plan):
    return make_plan([110, 40], [0, 60, 115], request.param)


@pytest.fixture
def qk(plan, make_qkv):
    (q, k, _), _ = make_qkv(plan, 1, 1, NUM_TOKENS, torch.float32)
    return q, k


@pytest.fixture
def probabilities(plan, qk, backend_with_dropout):
    """Attend with an identity for values, so that each row of the output is the row of
    probabilities that met the values: (T, T)."""
    values = torch.eye(NUM_TOKENS)[:, None]

    def draw(seed=0, dropout_p=P):
        torch.manual_seed(seed)
        return attend(*qk, values, plan, backend=backend_with_dropout, dropout_p=dropout_p)[:, 0]

    return draw


@pytest.fixture(params=["local", "global"])
def rows(request, plan):
    """(T,) bool, the rows of one kind."""
    return plan.global_mask if request.param == "global" else ~plan.global_mask


def test_a_probability_is_dropped_or_scaled(probabilities, rows, plan):
    seen = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)[rows]
    dropped, undropped = probabilities()[rows], probabilities(dropout_p=0.0)[rows]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], undropped[kept] / (1 - P))
    assert not (kept & ~seen).any()
    share = 1 - kept.sum() / seen.sum()
    five_sigma = 5 * (P * (1 - P) / seen.sum()) ** 0.5
    assert abs(share - P) < five_sigma


def test_the_mean_of_many_draws_is_the_undropped(probabilities, rows):
    undropped = probabilities(dropout_p=0.0)[rows]
    mean = torch.stack([probabilities(seed)[rows] for seed in range(DRAWS)]).mean(0)
    # variance of a draw: p / (1 - p) times the square; six sigma over some 20,000 pairs
    bound = 6 * undropped * (P / (1 - P) / DRAWS) ** 0.5
    assert ((mean - undropped).abs() <= bound + 1e-6).all()


def test_the_seed_decides(probabilities):
    assert probabilities(seed=3).equal(probabilities(seed=3))
    assert not probabilities(seed=3).equal(probabilities(seed=4))


def test_heads_drop_independently(plan, qk, backend_with_dropout):
    inputs = (x.expand(-1, 2, -1) for x in (*qk, torch.eye(NUM_TOKENS)[:, None]))
    torch.manual_seed(0)
    out = attend(*inputs, plan, backend=backend_with_dropout, dropout_p=P)
    seen = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    first, second = (out[:, head][seen] != 0 for head in (0, 1))
    both_dropped_or_both_kept = P**2 + (1 - P) ** 2
    assert abs((first == second).float().mean() - both_dropped_or_both_kept) < 0.05


def test_gradients_flow_through_what_was_kept(plan, qk, backend_with_dropout):
    q, k, v = inputs = [x.requires_grad_() for x in (*qk, torch.eye(NUM_TOKENS)[:, None])]
    torch.manual_seed(0)
    out = attend(*inputs, plan, backend=backend_with_dropout, dropout_p=P)
    kept = (out[:, 0] != 0) / (1 - P)  # (T, T)
    seen = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    scores = torch.einsum("qhe,khe->qk", q, k) * NUM_TOKENS**-0.5
    expected = scores.masked_fill(~seen, -torch.inf).softmax(-1) * kept @ v[:, 0]
    out_gradient = torch.randn(NUM_TOKENS, NUM_TOKENS)
    torch.testing.assert_close(
        torch.autograd.grad(out[:, 0], inputs, out_gradient),
        torch.autograd.grad(expected, inputs, out_gradient),
        atol=1e-4,
        rtol=1e-4,
    )


def test_without_dropout_nothing_is_drawn(probabilities):
    before = torch.manual_seed(0).get_state()
    probabilities(seed=0, dropout_p=0.0)
    assert torch.random.get_rng_state().equal(before)
