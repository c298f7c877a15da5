"""Streaming a document is encoding it at once, with memory that its length does not change."""

import doctest
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.config import PatternConfig
from longspan.errors import UserError
from longspan.model.streaming import LayerStream

W = 5
AROUND = (1, W - 1, W, W + 1, 2 * W - 1, 2 * W, 2 * W + 1, 4 * W + 3)
SHAPES = {
    "default": {},
    "grouped-query": {"num_kv_heads": 2, "norm": "rmsnorm", "mlp": "swiglu"},
    "post-norm": {"norm_position": "post", "type_vocab_size": 2},
    "learned": {"positions": "learned", "max_positions": 300},
    "rotary-bases": {"rope_theta": (100.0, 10_000.0, 500.0), "first_norm": False},
    "separate": {"global_projections": "separate"},
    "oracle": {"attention_backend": "reference"},
}


def tokens(length):
    return torch.randint(50, (length,), generator=torch.Generator().manual_seed(length))


def at_once(encoder, make_batch, input_ids):
    batch = make_batch([len(input_ids)], ())
    batch.input_ids.copy_(input_ids)
    batch.token_type_ids.zero_()
    with torch.no_grad():
        return encoder(batch)


def check(encoder, make_batch, length, chunks):
    """Chunks: one length for all, or a list of lengths with the rest in the last chunk."""
    input_ids = tokens(length)
    if isinstance(chunks, int):
        parts = list(input_ids.split(chunks))
    else:
        rest = length - sum(chunks)
        parts = list(input_ids.split([*chunks, rest]))
    states = list(encoder.stream(parts))
    assert [len(s) for s in states] == [len(p) for p in parts]
    expected = at_once(encoder, make_batch, input_ids)
    torch.testing.assert_close(torch.cat(states), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("sinks", [0, 1, 3, W, W + 2])
@pytest.mark.parametrize("chunk", [1, 3, W - 1, W, W + 1, 2 * W, 3 * W])
def test_every_boundary(make_encoder, make_batch, chunk, sinks):
    encoder = make_encoder(window=W, pattern=PatternConfig(causal=True, sinks=sinks))
    multiples = {n * chunk + d for n in (1, 2, 3) for d in (-1, 0, 1)}
    for length in sorted({*AROUND, *multiples} - {0}):
        check(encoder, make_batch, length, chunk)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_encoder(make_encoder, make_batch, shape):
    encoder = make_encoder(window=W, pattern=PatternConfig(causal=True, sinks=2), **shape)
    for chunk in (1, 4, 17, 300):
        check(encoder, make_batch, 61, chunk)


@settings(max_examples=40)
@given(
    schedule=st.tuples(*[st.integers(0, 90)] * 3),
    sinks=st.integers(0, 12),
    length=st.integers(1, 200),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_any_window_and_any_cut(make_encoder, make_batch, schedule, sinks, length, cuts):
    encoder = make_encoder(window=schedule, pattern=PatternConfig(causal=True, sinks=sinks))
    chunks = []
    for cut in cuts:
        chunks.append(min(cut, length - sum(chunks)))
    check(encoder, make_batch, length, chunks)


@pytest.mark.parametrize("dilation", [3, (1, 2, 3), (1, (2, 1), (3, 1, 2, 1))], ids=str)
def test_gaps_in_the_window(make_encoder, make_batch, dilation):
    pattern = PatternConfig(causal=True, sinks=2, dilation=dilation)
    encoder = make_encoder(window=W, pattern=pattern, num_kv_heads=2)
    for length in (W, 3 * W, 3 * W + 1, 50):
        for chunk in (1, 7, W * 3, 50):
            check(encoder, make_batch, length, chunk)


def test_what_is_kept_does_not_grow(make_encoder, monkeypatch):
    encoder = make_encoder(window=(2, 5, 0), pattern=PatternConfig(causal=True, sinks=3))
    made = []

    class Watched(LayerStream):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("longspan.model.encoder.LayerStream", Watched)
    places = set()
    for _ in encoder.stream(tokens(9) for _ in range(40)):
        places.add(tuple((x.data_ptr(), tuple(x.shape)) for s in made for x in s.kept))
        assert all(x.untyped_storage().nbytes() == x.numel() * 4 for s in made for x in s.kept)
    assert len(places) == 1  # the same memory all the time
    assert [len(s.kept[0]) for s in made] == [3 + 2, 3 + 5, 3 + 0]


def test_chunks_are_read_when_they_are_asked_for(make_encoder):
    encoder, read = make_encoder(pattern=PatternConfig(causal=True)), []

    def chunks():
        for i in range(3):
            read.append(i)
            yield tokens(4)

    states = encoder.stream(chunks())
    assert read == []
    assert next(states).shape == (4, 32)
    assert read == [0]
    assert not next(states).requires_grad


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "model.pattern.causal=false"),
        ({"pattern": PatternConfig(causal=True), "window": (3, None, 3)}, "model.window=null"),
        ({"pattern": PatternConfig(causal=True, stride=4)}, "stride=4"),
        ({"pattern": PatternConfig(causal=True, block=4, window_growth=2)}, "block=4"),
        ({"pattern": PatternConfig(causal=True, block=4, summaries=1)}, "summaries=1"),
        ({"pattern": PatternConfig(causal=True, random_blocks=1)}, "random_blocks=1"),
    ],
    ids=str,
)
def test_patterns_that_do_not_forget_are_refused_before_anything_is_read(
    make_encoder, changes, field
):
    with pytest.raises(UserError, match=field):
        make_encoder(**changes).stream([])


def test_an_encoder_in_training_is_refused(make_encoder):
    encoder = make_encoder(pattern=PatternConfig(causal=True)).train()
    with pytest.raises(UserError, match=r"call eval\(\)"):
        encoder.stream([])


def test_learned_positions_end(make_encoder):
    encoder = make_encoder(
        positions="learned", max_positions=10, pattern=PatternConfig(causal=True)
    )
    states = encoder.stream([tokens(6), tokens(5)])
    assert len(next(states)) == 6
    with pytest.raises(UserError, match=r"model\.max_positions=10 tokens"):
        next(states)


def test_the_example_of_the_documentation():
    page = Path(__file__).resolve().parents[2] / "docs" / "patterns.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried >= 6
    assert not failed
