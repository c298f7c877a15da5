"""FlexAttention: its block tables against the dense mask, its forward on the CPU, all of it on CUDA.

A GPU is what it is for, and what those who wrote it did not have: `pytest -m gpu` on one that does.
"""

import importlib.util
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.attention import AttentionPlan, Pattern, attend, auto_backend, flex
from longspan.attention.sparse_blocks import BLOCK, build_sparse_blocks

# PyTorch's compiler warns of PyTorch itself
compiles = pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
LAYOUTS = [
    ([300], [0], 20),
    ([40, 1100, 3], [0, 45, 900, 1140], 200),
    ([64, 64], range(64), 3),  # a document of nothing but global tokens
    ([900], range(0, 900, 10), 0),
    ([7, 1, 500, 150], [7], None),
    ([1], [], 0),
]


def pairs_in_interval(blocks):
    """(R, S) bool: what the mask of a block says."""
    key = torch.arange(blocks.num_keys)
    first, last = (blocks.bounds[:, i::2, None] for i in (0, 1))
    inside = (first <= key) & (key < last)  # (R, 3, S)
    assert (inside.sum(1) <= 1).all(), "a key is counted more than once"
    return inside.any(1)


def chosen_blocks(count, places, block_size, shape):
    """A table of blocks as (R, S) bool."""
    dense = torch.zeros(places.shape[2:], dtype=torch.bool)
    for row, columns in enumerate(places[0, 0].tolist()):
        dense[row, columns[: count[0, 0, row]]] = True
    return expand(dense, block_size)[: shape[0], : shape[1]]


def expand(dense, block_size):
    return dense.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)


def computed_pairs(blocks, block_size):
    """(R, S) bool: the pairs that a kernel computes, which reads no more than the tables say."""
    inside = pairs_in_interval(blocks)
    tables = blocks.tables
    masked, full = (chosen_blocks(*tables[i : i + 2], block_size, inside.shape) for i in (0, 2))
    for forward, i in ((masked, 4), (full, 6)):  # the backward reads the same the other way round
        assert chosen_blocks(*tables[i : i + 2], block_size, inside.T.shape).T.equal(forward)
    assert not (masked & full).any()
    return (masked & inside) | full


def folded(pairs, plan, separate):
    """(T, T) int: how often each query sees each key, copies counted where their originals are."""
    num_tokens, index = plan.num_tokens, plan.global_index
    rows, of_globals = pairs.int().split([num_tokens, len(index)])
    far = rows[:, num_tokens : num_tokens + len(index)]
    local = rows[:, :num_tokens].index_add(1, index, far)
    behind = num_tokens + len(index) if separate and len(index) else 0
    assert of_globals.sum() == of_globals[:, behind : behind + num_tokens].sum()
    return local.index_copy(0, index, of_globals[:, behind : behind + num_tokens])


def assert_tables_are_the_pattern(plan, separate, block_size):
    blocks = build_sparse_blocks(
        plan.cu_seqlens, plan.global_mask, plan.pattern.window,
        separate=separate, block_size=block_size,
    )  # fmt: skip
    seen = folded(computed_pairs(blocks, block_size), plan, separate)
    assert seen.equal(plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask).int())


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_tables_of_small_layouts(small_layouts, make_plan, block_size, separate):
    for layout in small_layouts(4):
        assert_tables_are_the_pattern(make_plan(*layout), separate, block_size)


@settings(max_examples=30)
@given(data=st.data())
def test_tables_of_random_layouts(plans, data):
    block_size = data.draw(st.sampled_from([4, 16, BLOCK]))
    assert_tables_are_the_pattern(data.draw(plans), data.draw(st.booleans()), block_size)


def test_a_window_costs_its_blocks_however_long_the_document(make_plan):
    few, many = (
        build_sparse_blocks(plan.cu_seqlens, plan.global_mask, 256, separate=False).tables
        for plan in (make_plan([n], range(0, n, 512), 256) for n in (4096, 16_384))
    )
    counts = [tables[0].sum() + tables[2].sum() for tables in (few, many)]
    # rows of scattered global tokens share blocks: they see all keys, but they are few
    assert 4 <= counts[1] / counts[0] < 4.6
    assert few[2].sum() > 0.3 * counts[0]  # blocks without a mask


def dense_attention(scale):
    """What PyTorch promises of a program with these tables, in plain operators."""

    def call(q, k, v, intervals, tables):
        given = {"bounds": intervals, "num_keys": k.shape[2], "tables": tables}
        blocks = type("Blocks", (), given)
        seen = computed_pairs(blocks, BLOCK)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = (q @ k.mT * scale).masked_fill(~seen, -1e30)
        return (scores.softmax(-1) * seen) @ v  # rows that see nothing give 0

    return call


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_what_is_laid_out_and_put_together(layout, separate, make_plan, make_qkv, monkeypatch):
    monkeypatch.setattr(flex, "_compiled", dense_attention)
    plan = make_plan(*layout)
    qkv, global_qkv = make_qkv(plan, 4, 2, 8, separate=separate)
    inputs = [x.requires_grad_() for x in (*qkv, *(global_qkv or ()))]
    ours = flex.attention(*inputs[:3], inputs[3:] or None, plan, 8**-0.5)
    torch.testing.assert_close(
        with_gradients(ours, inputs), gradients(inputs, plan, "reference"), atol=1e-9, rtol=1e-7
    )


# --- compiled, on the CPU: `pytest -m slow` runs all of test_backends.py ------------------------


@compiles
def test_forward_of_any_length_in_one_program(make_plan, make_qkv):
    for i, (layout, separate) in enumerate(product(LAYOUTS, [False, True])):
        plan = make_plan(*layout)
        qkv, global_qkv = make_qkv(plan, 4, 2, 16, torch.float32, separate)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            out = attend(*qkv, plan, global_qkv=global_qkv, backend="flex")
        expected = attend(*qkv, plan, global_qkv=global_qkv, backend="reference")
        torch.testing.assert_close(out, expected, atol=2e-6, rtol=2e-5)


@compiles
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_takes_weights_that_have_them(mode, make_plan, make_qkv):
    plan = make_plan(*LAYOUTS[0])
    inputs = [x.requires_grad_() for x in make_qkv(plan, 4, 2, 16, torch.float32)[0]]
    with mode():
        out = attend(*inputs, plan, backend="flex")
    torch.testing.assert_close(out, attend(*inputs, plan, backend="reference").detach())


# --- what it refuses ----------------------------------------------------------------------------


def test_training_on_the_cpu_is_refused_with_what_to_use(make_plan, make_qkv):
    plan = make_plan([20], [0], 3)
    inputs = [x.requires_grad_() for x in make_qkv(plan, dtype=torch.float32)[0]]
    with pytest.raises(
        ValueError, match=r"flex cannot .*no backward on the CPU; train with native"
    ):
        attend(*inputs, plan, backend="flex")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device": "mps"}, "runs on CUDA, not on mps"),
        ({"dtype": torch.float64}, "float32, bfloat16, float16, not in float64"),
        ({"head_size": 8}, r"heads of 16 … 256 numbers, not of 8"),
        ({"dropout_p": 0.1}, r"no dropout \(dropout_p=0.1\)"),
        ({}, "pip install triton"),
    ],
    ids=str,
)
def test_what_no_gpu_can_do_goes_to_blocked(changed, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    call = {"dtype": torch.float32, "device": "cuda", "head_size": 64, "dropout_p": 0.0} | changed
    refusal = flex.refusal(**call, needs_gradient=True)
    assert refusal is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refusal)
    if call["device"] == "cuda":
        backend, reason = auto_backend(**call, pattern=Pattern(4))
        assert backend == "blocked"
        assert refusal in reason


def test_auto_takes_it_on_cuda(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert auto_backend(dtype, "cuda", 64, Pattern(256), 0.0)[0] == "flex"


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch.cuda.is_available() is False")
    return torch.device("cuda")


@compiles
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_forward_and_backward_on_cuda(layout, separate, dtype, make_plan, make_qkv, cuda):
    plan = make_plan(*layout)
    qkv, global_qkv = make_qkv(plan, 4, 2, 32, dtype, separate)
    exact, ours = (
        gradients(
            [x.to(device, wide) for x in (*qkv, *(global_qkv or ()))],
            AttentionPlan(plan.cu_seqlens.to(device), plan.global_mask.to(device), plan.pattern),
            backend,
        )
        for backend, device, wide in (("reference", "cpu", torch.float64), ("auto", cuda, dtype))
    )
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 3e-2}[dtype]
    for x, y in zip(ours, exact, strict=True):
        if y.numel():
            assert (x.cpu().double() - y).abs().max() <= tolerance * y.abs().max().clamp(min=1)


@compiles
@pytest.mark.gpu
def test_new_lengths_do_not_compile_anew_on_cuda(make_plan, make_qkv, cuda):
    for i, layout in enumerate(LAYOUTS):
        plan = make_plan(*layout)
        inputs = [x.to(cuda) for x in make_qkv(plan, 4, 2, 32, torch.float32)[0]]
        on_gpu = AttentionPlan(plan.cu_seqlens.to(cuda), plan.global_mask.to(cuda), plan.pattern)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            gradients(inputs, on_gpu, "flex")


def gradients(inputs, plan, backend):
    """Output and gradients of all inputs."""
    inputs = [x.requires_grad_() for x in inputs]
    out = attend(*inputs[:3], plan, global_qkv=tuple(inputs[3:]) or None, backend=backend)
    return with_gradients(out, inputs)


def with_gradients(out, inputs):
    """Likewise, of an output."""
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, probe, materialize_grads=True)]
