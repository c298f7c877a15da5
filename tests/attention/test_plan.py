"""The tables that the backends read hold the pattern: every pair once, and no other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.attention import AttentionPlan, Pattern
from longspan.attention.plan import build_block_table


def times_seen(table, num_tokens):
    """(T, T) how often the table lets each real query see each key."""
    num_blocks, block_size = table.num_blocks, table.block_size
    counts = torch.zeros(num_blocks * block_size, num_tokens, dtype=torch.int64)
    keys = table.key_index[:, None, :].expand_as(table.mask).flatten(0, 1)  # (N * B, S)
    counts.scatter_add_(1, keys, table.mask.flatten(0, 1).long())
    return counts[:num_tokens]


def assert_table_holds_the_pattern(plan, table):
    counts = times_seen(table, plan.num_tokens)
    assert counts.max() <= 1
    dense = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    local = ~plan.global_mask  # global rows are computed apart; here they need only not be empty
    assert counts[local].bool().equal(dense[local])
    assert not (counts.bool() & ~dense).any()
    assert table.mask.any(dim=2).all(), "a row that sees nothing has no softmax"


@settings(max_examples=150)
@given(data=st.data())
def test_block_table_holds_every_pair_once(plans, data):
    plan = data.draw(plans.filter(lambda plan: plan.pattern.window is not None), label="plan")
    block_size = data.draw(st.integers(1, plan.num_tokens + 3), label="block_size")
    assert_table_holds_the_pattern(plan, build_block_table(plan, block_size))


@pytest.mark.parametrize("num_tokens", range(1, 6))
def test_block_table_of_all_small_layouts(num_tokens, small_layouts, make_plan):
    for layout in small_layouts(num_tokens):
        plan = make_plan(*layout)
        if plan.pattern.window is None:
            continue
        for block_size in (1, 2, 3, num_tokens, num_tokens + 1):
            assert_table_holds_the_pattern(plan, build_block_table(plan, block_size))


@settings(max_examples=50)
@given(data=st.data())
def test_the_plan_chooses_a_table_that_holds_the_pattern(plans, data):
    plan = data.draw(plans.filter(lambda plan: plan.pattern.window is not None), label="plan")
    assert plan.block_table.block_size <= plan.num_tokens
    assert_table_holds_the_pattern(plan, plan.block_table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_is_the_mask_as_scores_and_made_once(make_plan, dtype):
    plan = make_plan([200], [7], 4)
    bias = plan.block_bias(dtype)
    assert bias.dtype == dtype
    assert bias.squeeze(1).exp().bool().equal(plan.block_table.mask)
    assert bias.unique().tolist() == [-torch.inf, 0]
    assert plan.block_bias(dtype) is bias


def test_halving_the_window_halves_the_keys_a_block_reads(make_plan):
    def scores(window):
        mask = make_plan([4096], [0], window).block_table.mask
        return mask.numel()

    assert scores(256) < 0.65 * scores(512)
    assert scores(128) < 0.65 * scores(256)
    assert scores(64) < 0.65 * scores(128)


def test_globals_of_each_document(make_plan):
    plan = make_plan([3, 2, 4], [0, 2, 5, 6, 8], 1)
    assert plan.global_index.tolist() == [0, 2, 5, 6, 8]
    assert plan.num_globals == [2, 0, 3]
    assert plan.lengths == [3, 2, 4]


@pytest.mark.parametrize(
    ("lengths", "window", "full"),
    [([5, 3], 4, True), ([5, 3], 3, False), ([5, 3], None, True), ([1, 1], 0, True)],
)
def test_a_window_that_no_document_exceeds_is_full(make_plan, lengths, window, full):
    assert make_plan(lengths, [], window).is_full is full


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([0, 4, 5], r"cu_seqlens=\[0, 4, 5\].*must run from 0 to the batch's 6 tokens"),
        ([1, 4, 6], r"must run from 0 to the batch's 6 tokens"),
        ([0, 3, 9], r"must run from 0 to the batch's 6 tokens"),
        ([0], r"must run from 0 to the batch's 6 tokens"),
        ([0, 4, 4, 6], r"names a document without tokens"),
        ([0, 5, 4, 6], r"names a document without tokens"),
    ],
)
def test_bounds_that_describe_no_batch_are_refused(bounds, message):
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        AttentionPlan(cu_seqlens, torch.zeros(6, dtype=torch.bool), Pattern(1))
