"""The rule of who sees whom, written down a second time as three loops."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.attention import Pattern
from longspan.attention.pattern import document_bounds


def looped_mask(plan):
    num_tokens, window = plan.num_tokens, plan.pattern.window
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for first, last in pairwise(plan.cu_seqlens.tolist()):
        for query in range(first, last):
            for key in range(first, last):
                near = window is None or abs(query - key) <= window
                mask[query, key] = near or plan.global_mask[query] or plan.global_mask[key]
    return mask


def dense_mask(plan):
    return plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)


@pytest.mark.parametrize("num_tokens", range(1, 6))
def test_dense_mask_is_the_rule_small(num_tokens, small_layouts, make_plan):
    for layout in small_layouts(num_tokens):
        plan = make_plan(*layout)
        assert dense_mask(plan).equal(looped_mask(plan)), layout


@settings(max_examples=100)
@given(st.data())
def test_dense_mask_is_the_rule(short_plans, data):
    plan = data.draw(short_plans)
    assert dense_mask(plan).equal(looped_mask(plan))


@settings(max_examples=200)
@given(st.data())
def test_pairs_are_counted_without_the_mask(plans, data):
    plan = data.draw(plans)
    assert plan.num_pairs == int(dense_mask(plan).sum())


def test_pairs_of_a_window(make_plan):
    # 2W+1 keys a token, without those that the two ends of the document lack: 2 * (1 + … + W)
    plan = make_plan([100], [], 7)
    assert plan.num_pairs == 100 * 15 - 2 * (7 * 8 // 2)


def test_document_bounds(make_plan):
    start, stop = document_bounds(make_plan([2, 1, 3], [], 1).cu_seqlens)
    assert start.tolist() == [0, 0, 2, 3, 3, 3]
    assert stop.tolist() == [2, 2, 3, 6, 6, 6]


def test_a_negative_window_is_refused():
    with pytest.raises(ValueError, match=r"window=-1 is negative; use 0 or more, or None"):
        Pattern(-1)
