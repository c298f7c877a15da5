"""Encoding chunk by chunk is encoding at once."""

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longspan.attention import native
from longspan.config import PatternConfig
from longspan.model.chunked import encode_in_chunks, reads_in_chunks, together

# an encoder that differs in everything that a chunk has to get right
SHAPES = {
    "default": {},
    "post-norm": {"norm_position": "post"},
    "learned": {"positions": "learned", "max_positions": 120},
    "no-positions": {"positions": "none"},
    "rotary-bases": {"rope_theta": (100.0, 10_000.0, 500.0)},
    "token-types": {"type_vocab_size": 2},
    "separate": {"global_projections": "separate"},
    "grouped-query": {"num_kv_heads": 2},
    "separate-grouped-query": {"global_projections": "separate", "num_kv_heads": 1},
    "gated": {"mlp": "geglu", "norm": "rmsnorm", "first_norm": False},
    "head-dim": {"head_dim": 6, "num_heads": 3, "hidden_size": 40},
    "longformer": {
        "global_projections": "separate", "norm_position": "post", "positions": "learned",
        "max_positions": 120, "type_vocab_size": 2,
    },
    "blocked": {"attention_backend": "blocked", "global_projections": "separate"},
}  # fmt: skip

windows = st.one_of(st.none(), st.integers(0, 5), st.integers(0, 120), st.just(10**6))
lengths = st.lists(st.integers(1, 100), min_size=1, max_size=4)
positions = st.one_of(
    st.just(()), st.just((0,)), st.sets(st.integers(0, 99), max_size=5), st.just(range(100))
)
chunks = st.one_of(st.integers(1, 8), st.integers(1, 250))


def close(actual, expected, atol=2e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


@torch.no_grad()
@settings(max_examples=20)
@given(
    schedule=st.tuples(windows, windows, windows),
    lengths=lengths,
    positions=positions,
    chunk_tokens=chunks,
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_chunks_change_nothing(
    make_encoder, make_batch, shape, schedule, lengths, positions, chunk_tokens
):
    encoder = make_encoder(window=schedule, **shape)
    batch = make_batch(lengths, sorted(positions))
    close(encode_in_chunks(encoder, batch, chunk_tokens), encoder(batch))


@torch.no_grad()
@settings(max_examples=20)
@given(
    schedule=st.tuples(windows, windows, windows),
    lengths=lengths,
    positions=positions,
    chunk_tokens=chunks,
    causal=st.booleans(),
    sinks=st.integers(0, 9),
)
def test_chunks_change_nothing_of_sinks_and_causal_windows(
    make_encoder, make_batch, schedule, lengths, positions, chunk_tokens, causal, sinks
):
    encoder = make_encoder(window=schedule, pattern=PatternConfig(causal=causal, sinks=sinks))
    batch = make_batch(lengths, () if causal else sorted(positions))
    close(encode_in_chunks(encoder, batch, chunk_tokens), encoder(batch))


@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [{"dilation": 2}, {"block": 4, "random_blocks": 1, "global_edges": 1}, {"stride": 5}],
    ids=str,
)
def test_patterns_that_no_chunk_can_hold_are_read_at_once(make_encoder, make_batch, fields):
    encoder, batch = make_encoder(pattern=PatternConfig(**fields)), make_batch([90, 40])
    assert not any(map(reads_in_chunks, encoder.patterns))
    close(encode_in_chunks(encoder, batch, 16), encoder(batch))


@torch.no_grad()
def test_mixed_precision_stays_as_near_as_at_once(make_encoder, make_batch):
    encoder, batch = make_encoder(window=(3, 20, 3)), make_batch([90, 40], (0, 33))
    exact = encoder(batch)
    with torch.autocast("cpu", torch.bfloat16):
        at_once, in_chunks = encoder(batch), encode_in_chunks(encoder, batch, 16)
    assert in_chunks.dtype == at_once.dtype == torch.float32
    error = (in_chunks - exact).abs().mean()
    assert 0 < error < 1.5 * (at_once - exact).abs().mean()


@torch.no_grad()
def test_a_batch_of_one_chunk_is_encoded_at_once(make_encoder, make_batch):
    encoder, batch = make_encoder(), make_batch([5, 3])
    assert encode_in_chunks(encoder, batch, 8).equal(encoder(batch))


def test_dropout_has_no_place(make_encoder, make_batch):
    with pytest.raises(AssertionError, match="dropout"):
        encode_in_chunks(make_encoder().train(), make_batch([9]), 4)


@given(lengths=st.lists(st.integers(1, 20), min_size=1), most=st.integers(1, 30))
def test_documents_go_together_as_far_as_they_fit(lengths, most):
    bounds = [0, *accumulate(lengths)]
    runs = list(together(bounds, most))
    assert [d for first, last in runs for d in range(first, last)] == list(range(len(lengths)))
    for (first, last), (_, later) in pairwise([*runs, (len(lengths), len(lengths))]):
        assert last == first + 1 or bounds[last] - bounds[first] <= most
        assert later == last or bounds[last + 1] - bounds[first] > most


@pytest.mark.parametrize("shape", [{}, {"global_projections": "separate", "num_kv_heads": 1}])
def test_memory_is_the_hidden_states_and_a_chunk(make_encoder, make_batch, shape):
    """The largest tensor beside the hidden states does not grow with the document."""
    if reason := native.unavailable():
        pytest.skip(reason)  # the tables of `blocked` are linear too, in its own units
    encoder = make_encoder(window=8, **shape)

    def beside(length):
        with Allocations() as allocations:
            encode_in_chunks(encoder, make_batch([length], (0, 700)), 64)
        hidden = 4 * 32 * length
        sizes = set(allocations.storages.values())
        assert max(sizes) == hidden
        assert list(allocations.storages.values()).count(hidden) == 1
        # what else is as long as the document: batch, mask and places, of 8 bytes a token at most
        return max(sizes - {hidden, 8 * length})

    assert beside(2048) == beside(8192) < 4 * 32 * 2048


class Allocations(TorchDispatchMode):
    """The bytes behind all tensors that operations return while it is entered, by their place."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                place = (storage.data_ptr(), storage.nbytes())
                self.storages[place] = storage.nbytes()
        return result
