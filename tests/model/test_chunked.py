"""Encoding chunk by chunk is encoding at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.attention import native
from longspan.model.chunked import encode_in_chunks, together

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
@settings(max_examples=25)
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


