"""Rotation in place and dropout without a mask, against PyTorch's operators."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from longspan.attention import AttentionPlan, Pattern, attend, native
from longspan.attention.pointwise import drop, joined, split_heads
from longspan.model.positions import rotary_table, rotate

pytestmark = pytest.mark.skipif(bool(native.unavailable()), reason=str(native.unavailable()))
DTYPES = [torch.float32, torch.bfloat16]


# --- rotary positions ---------------------------------------------------------------------------


def plain_split(projected, sizes, table):
    q, k, v = projected.split(sizes, dim=1)
    return (q, k, v) if table is None else (rotate(q, table), rotate(k, table), v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_rotary", [True, False])
@pytest.mark.parametrize(
    ("num_tokens", "sizes", "head_size"),
    [(1, [1, 1, 1], 2), (50, [4, 2, 2], 6), (33, [3, 1, 1], 40), (700, [2, 2, 2], 64)],
)
def test_heads_are_split_and_turned_as_by_pytorch(num_tokens, sizes, head_size, is_rotary, dtype):
    torch.manual_seed(0)
    projected = torch.randn(num_tokens, sum(sizes), head_size).to(dtype)
    position = torch.arange(num_tokens) * 7
    table = rotary_table(position, head_size, 1000.0) if is_rotary else None
    weights = torch.randn(num_tokens, sum(sizes), head_size).to(dtype).split(sizes, dim=1)

    def outcome(split):
        leaf = projected.clone().requires_grad_()
        parts = split(leaf * 1, sizes, table)
        loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        return [*parts, *torch.autograd.grad(loss, leaf)]

    tolerance = {} if dtype == torch.bfloat16 else {"atol": 1e-6, "rtol": 1e-5}
    for ours, theirs in zip(outcome(split_heads), outcome(plain_split), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("used", [(0,), (1, 2), (0, 2)])
def test_parts_that_nobody_uses_get_a_gradient_of_zeros(used):
    leaf = torch.randn(5, 6, 4, requires_grad=True)
    table = rotary_table(torch.arange(5), 4, 10.0)
    split = split_heads(leaf * 1, [2, 2, 2], table)
    plain = plain_split(leaf, [2, 2, 2], table)
    ours, theirs = (
        torch.autograd.grad(sum(parts[i].square().sum() for i in used), leaf)[0]
        for parts in (split, plain)
    )
    torch.testing.assert_close(ours, theirs)


def test_the_gradients_of_attention_go_on_without_a_copy(monkeypatch):
    copies = []
    cat = torch.cat
    monkeypatch.setattr(torch, "cat", lambda *args, **kw: copies.append(1) or cat(*args, **kw))
    plan = AttentionPlan(torch.tensor([0, 9], dtype=torch.int32), torch.arange(9) == 0, Pattern(2))
    leaf = torch.randn(9, 8, 4, requires_grad=True)
    parts = split_heads(leaf * 1, [4, 2, 2], rotary_table(torch.arange(9), 4, 10.0))
    (gradient,) = torch.autograd.grad(attend(*parts, plan, backend="native").sum(), leaf)
    assert gradient.shape == leaf.shape
    assert not copies


def test_parts_of_one_tensor_are_joined_as_it_was():
    whole = torch.randn(5, 6, 4)
    parts = whole.split([3, 2, 1], dim=1)
    assert joined(parts).data_ptr() == whole.data_ptr()
    assert joined(parts).equal(whole)
    swapped = (parts[1], parts[0], parts[2])
    assert joined(swapped).equal(torch.cat(swapped, dim=1))
    assert joined(parts[:2]).equal(whole[:, :5])  # of a wider tensor
    apart = tuple(x.clone() for x in parts)
    assert joined(apart).equal(whole)


# --- dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_stay_as_should_and_are_scaled(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(500, 333, dtype=dtype)
    out = drop(x, p)
    stayed = out != 0
    keep = 1 - round(p * 2**16) / 2**16
    assert out.dtype == dtype
    assert out[stayed].unique().tolist() == [torch.tensor(1 / keep).to(dtype).item()]
    std = (p * (1 - p)) ** 0.5
    assert stayed.float().mean().item() == pytest.approx(keep, abs=5 * std / x.numel() ** 0.5)
    # neither rows, columns nor neighbours know of each other
    for dim, count in ((0, 500), (1, 333)):
        rates = stayed.float().mean(dim=dim)
        assert rates.std().item() == pytest.approx(std / count**0.5, rel=0.2)
    both = (stayed.flatten()[1:] & stayed.flatten()[:-1]).float().mean()
    assert both.item() == pytest.approx(keep**2, abs=0.01)


def test_two_calls_drop_different_numbers_and_one_seed_the_same():
    x = torch.ones(1000)
    torch.manual_seed(1)
    first, second = drop(x, 0.5), drop(x, 0.5)
    torch.manual_seed(1)
    assert drop(x, 0.5).equal(first)
    agreement = (first == second).float().mean().item()
    assert agreement == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("size", [0, 1, 15, 31, 32, 33, 100])
def test_every_number_is_written_and_its_gradient_is_dropped_with_it(size):
    x = (torch.rand(size) + 1).requires_grad_()
    out = drop(x, 0.25)
    assert (out[out != 0] / x[out != 0]).allclose(torch.tensor(1 / 0.75))
    direction = torch.randn(size)
    (gradient,) = torch.autograd.grad(out, x, direction)
    torch.testing.assert_close(gradient, direction * out.detach() / x.detach())


def test_gradients_of_other_strides_meet_the_same_numbers():
    x = torch.ones(40, 30, requires_grad=True)
    out = drop(x, 0.5)
    turned = torch.randn(30, 40).T
    (gradient,) = torch.autograd.grad(out, x, turned)
    torch.testing.assert_close(gradient, turned * out.detach())


def test_a_checkpoint_drops_the_same_numbers_again():
    x = torch.randn(200, requires_grad=True)
    out = checkpoint(lambda x: drop(x * 2, 0.5).square(), x, use_reentrant=False)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert ((gradient != 0) == (out != 0)).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_operators_are_registered_as_pytorch_demands():
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    x = torch.randn(7, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.longspan.drop.default, (x, 3, 1000), test_utils=checks)
    heads, table = torch.randn(7, 3, 4), rotary_table(torch.arange(7), 4, 10.0)
    arguments = (heads, *table, 1.0)
    torch.library.opcheck(torch.ops.longspan.rotate_.default, arguments, test_utils=checks)
