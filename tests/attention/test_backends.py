"""Every backend computes what the oracle computes, and the oracle what PyTorch computes."""

import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.attention import api, attend, native
from longspan.attention.plan import build_block_table


def assert_same(ours, expected, layout):
    where = f"lengths, global tokens, window = {layout}"
    torch.testing.assert_close(ours, expected, msg=lambda text: f"{where}: {text}")


# --- the oracle ---------------------------------------------------------------------------------


@settings(max_examples=50)
@given(data=st.data())
def test_the_oracle_is_masked_attention(short_plans, make_qkv, data):
    plan = data.draw(short_plans)
    (q, k, v), _ = make_qkv(plan, num_heads=4, num_kv_heads=2)
    mask = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    expected = F.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask, enable_gqa=True
    )
    out = attend(q, k, v, plan, backend="reference")
    torch.testing.assert_close(out, expected[0].transpose(0, 1))


@settings(max_examples=50)
@given(data=st.data())
def test_the_oracle_uses_the_global_projections_for_whole_global_rows(short_plans, make_qkv, data):
    plan = data.draw(short_plans)
    qkv, (q_global, k_global, v_global) = make_qkv(plan, separate=True)
    out = attend(*qkv, plan, global_qkv=(q_global, k_global, v_global), backend="reference")
    assert out[~plan.global_mask].equal(attend(*qkv, plan, backend="reference")[~plan.global_mask])
    bounds = plan.cu_seqlens.tolist()
    for q_HE, token in zip(q_global, plan.global_index.tolist()):
        first = max(b for b in bounds if b <= token)
        last = min(b for b in bounds if b > token)
        scores = torch.einsum("he,the->ht", q_HE, k_global[first:last]) * q_HE.shape[-1] ** -0.5
        row = torch.einsum("ht,the->he", scores.softmax(-1), v_global[first:last])
        torch.testing.assert_close(out[token], row)


# --- every backend beside the oracle ------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("num_tokens", range(1, 7))
def test_all_small_layouts(
    backend, finest_dtype, num_tokens, separate, small_layouts, make_plan, make_qkv, run
):
    dtype = finest_dtype(backend)
    for layout in small_layouts(num_tokens):
        plan = make_plan(*layout)
        inputs = make_qkv(plan, 1, 1, 2, dtype, separate)
        ours, exact = run(*inputs, plan, dtype, backend), run(*inputs, plan)
        assert_same(ours, {name: exact[name].to(dtype) for name in ours}, layout)


@pytest.mark.parametrize("block_size", [1, 2, 3, 4])
def test_small_layouts_in_small_blocks(block_size, small_layouts, make_plan, make_qkv, run):
    for layout in small_layouts(5):
        plan = make_plan(*layout)
        if plan.is_full:  # is not cut into blocks
            continue
        plan.block_table = build_block_table(plan, block_size)
        inputs = make_qkv(plan, 1, 1, 2)
        assert_same(run(*inputs, plan, backend="blocked"), run(*inputs, plan), layout)


@settings(max_examples=40)
@given(data=st.data())
def test_random_layouts(backend_and_dtype, plans, make_qkv, assert_agrees, data):
    backend, dtype = backend_and_dtype
    plan = data.draw(plans, label="plan")
    few = backend == "flex"  # each is compiled anew
    num_kv_heads = data.draw(st.just(2) if few else st.integers(1, 3), label="num_kv_heads")
    group = data.draw(st.just(2) if few else st.integers(1, 3), label="queries a kv head")
    num_heads = num_kv_heads * group
    head_size = data.draw(st.sampled_from([8] if few else [1, 3, 8, 17, 32]), label="head_size")
    separate = data.draw(st.booleans(), label="separate global projections")
    scale = data.draw(st.sampled_from([None] if few else [None, 0.3, 1.0]), label="scale")
    qkv, global_qkv = make_qkv(plan, num_heads, num_kv_heads, head_size, dtype, separate)
    assert_agrees(plan, qkv, global_qkv, dtype, backend=backend, scale=scale)


@pytest.mark.parametrize("window", [0, 1, 200, 600])
def test_one_long_document(backend_and_dtype, window, make_plan, make_qkv, assert_agrees):
    backend, dtype = backend_and_dtype
    # longer than the chunks of keys that flash attention takes at a time, so that a row's first
    # chunks may hold no key that it sees
    plan = make_plan([40, 1500, 3], [0, 45, 900, 1540], window)
    qkv, global_qkv = make_qkv(plan, 2, 1, 16, dtype)
    assert_agrees(plan, qkv, global_qkv, dtype, backend=backend)


def test_large_scores_do_not_overflow(any_backend, make_plan, make_qkv, run):
    plan = make_plan([150, 50], [3], 5)
    (q, k, v), _ = make_qkv(plan, dtype=torch.float32)
    result = run((100 * q, 100 * k, v), None, plan, torch.float32, backend=any_backend)
    assert all(x.isfinite().all() for x in result.values())


def test_a_global_token_inside_the_window_is_counted_once(any_backend, make_plan):
    plan = make_plan([200], [100], 3)
    zeros = torch.zeros(200, 1, 200)
    v = torch.eye(200)[:, None]  # output row = the row of probabilities
    out = attend(zeros, zeros, v, plan, backend=any_backend)[:, 0]
    seen = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask).float()
    torch.testing.assert_close(out, seen / seen.sum(1, keepdim=True))
    assert seen[99].sum() == 7  # the global token is one of the seven
    assert seen[50].sum() == 8


def test_output_keeps_strided_inputs(backend, finest_dtype, make_plan, make_qkv):
    # the encoder hands over views of one fused projection
    plan = make_plan([90, 40], [0, 90], 8)
    (q, k, v), _ = make_qkv(plan, 2, 2, 8, finest_dtype(backend))
    fused = torch.cat([q, k, v], dim=1).split([2, 2, 2], dim=1)
    assert not fused[1].is_contiguous()
    assert attend(*fused, plan, backend=backend).equal(attend(q, k, v, plan, backend=backend))


# --- documents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 40, None])
def test_documents_do_not_influence_each_other(
    any_backend_and_dtype, window, make_plan, make_qkv, run
):
    any_backend, dtype = any_backend_and_dtype
    plan = make_plan([30, 1, 100, 70], [0, 31, 90, 140], window)
    qkv, global_qkv = make_qkv(plan, dtype=dtype, separate=True)
    inside = slice(31, 131)
    changed = [x.clone() for x in qkv], [x.clone() for x in global_qkv]
    for x in [*changed[0], *changed[1][1:]]:
        x[inside] = 50 * x[inside] + 10
    before = run(qkv, global_qkv, plan, dtype, backend=any_backend)
    after = run(*changed, plan, dtype, backend=any_backend)
    others = torch.ones(plan.num_tokens, dtype=torch.bool)
    others[inside] = False
    # bit for bit: what another document holds is multiplied by an exact zero or not read at all
    for name in before.keys() - {"global q"}:
        assert after[name][others].equal(before[name][others]), name
    assert not after["out"][inside].equal(before["out"][inside])


@pytest.mark.parametrize("window", [0, 5, 64, 500, None])
def test_a_packed_batch_is_its_documents_one_by_one(
    any_backend, finest_dtype, window, make_plan, make_qkv
):
    lengths = [3, 200, 1, 77]
    plan = make_plan(lengths, [0, 50, 203, 210], window)
    qkv, _ = make_qkv(plan, dtype=finest_dtype(any_backend))
    parts = zip(lengths, plan.global_mask.split(lengths), *(x.split(lengths) for x in qkv))
    alone = [
        attend(q, k, v, make_plan([n], g.nonzero().flatten().tolist(), window), backend=any_backend)
        for n, g, q, k, v in parts
    ]
    torch.testing.assert_close(attend(*qkv, plan, backend=any_backend), torch.cat(alone))


# --- errors and the choice ----------------------------------------------------------------------


def shapes(q=(6, 4, 8), k=(6, 2, 8), v=(6, 2, 8), global_qkv=None):
    tensors = [torch.zeros(shape) for shape in (q, k, v)]
    return tensors, global_qkv and tuple(torch.zeros(shape) for shape in global_qkv)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (shapes(q=(5, 4, 8)), r"q holds 5 tokens, the plan 6"),
        (shapes(k=(5, 2, 8)), r"\(5, 2, 8\).*must all be \(T=6, K, E=8\)"),
        (shapes(v=(6, 1, 8)), r"\(6, 1, 8\).*must all be \(T=6, K, E=8\)"),
        (shapes(k=(6, 2, 4), v=(6, 2, 4)), r"\(6, 2, 4\).*must all be \(T=6, K, E=8\)"),
        (shapes(k=(6, 3, 8), v=(6, 3, 8)), r"3 key/value heads do not divide 4 heads"),
        (
            shapes(global_qkv=[(2, 4, 8), (6, 2, 8), (6, 2, 8)]),
            r"global queries \(2, 4, 8\) must be \(G=1, H=4, E=8\)",
        ),
        (
            shapes(global_qkv=[(1, 4, 8), (1, 2, 8), (6, 2, 8)]),
            r"\(1, 2, 8\).*must all be \(T=6, K, E=8\)",
        ),
        (shapes(q=(1, 6, 4, 8)), r"q \(1, 6, 4, 8\) must be \(T, H, E\)"),
        (shapes(k=(6, 8), v=(6, 8)), r"\(6, 8\).*must all be \(T=6, K, E=8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(given, message, make_plan):
    qkv, global_qkv = given
    with pytest.raises(ValueError, match=message):
        attend(*qkv, make_plan([4, 2], [0], 1), global_qkv=global_qkv)


def test_an_unknown_backend_is_named_beside_those_that_exist(make_plan):
    qkv, _ = shapes()
    with pytest.raises(ValueError, match=r"'flash' does not exist; use auto or .*reference"):
        attend(*qkv, make_plan([6], [], 1), backend="flash")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_says_once_what_it_chose_and_why(dtype, make_plan, caplog, monkeypatch):
    monkeypatch.setattr(api, "_announced", set())
    qkv, _ = shapes()
    qkv = [x.to(dtype) for x in qkv]
    served = dtype == torch.float32 and not native.unavailable()
    with caplog.at_level(logging.INFO, logger="longspan.attention.api"):
        for window in (1, 2, None):
            attend(*qkv, make_plan([6], [], window))
    (record,) = caplog.records
    chosen = "native" if served else "blocked"
    assert record.getMessage().startswith(f"attention backend: {chosen} (")


def test_a_backend_that_was_asked_for_is_not_announced(any_backend, make_plan, caplog, monkeypatch):
    monkeypatch.setattr(api, "_announced", set())
    qkv, _ = shapes()
    with caplog.at_level(logging.INFO, logger="longspan.attention"):
        attend(*qkv, make_plan([6], [], 1), backend=any_backend)
    assert not caplog.records
