"""Few tokens' hidden states: the last layer computes those alone, and they are the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longspan.attention import AttentionPlan, Pattern, reference
from longspan.batch import pack
from longspan.config import ModelConfig
from longspan.model.absorbed import absorbed_rows, parts_of
from longspan.model.positions import position_ids, rotary_table, rotate

LENGTHS = [1, 7, 30, 2, 12]
FIRST = [0, 1, 8, 38, 40]  # tokens of the documents
SOME = [3, 8, 9, 37, 51]
VARIANTS = {
    "default": {},
    "post-norm": {"norm_position": "post", "positions": "learned", "max_positions": 64},
    "grouped-query": {"num_kv_heads": 2},
    "separate": {"global_projections": "separate"},
    "separate-without-rotation": {"global_projections": "separate", "positions": "none"},
    "separate-grouped-query": {"global_projections": "separate", "num_kv_heads": 1},
    "no-biases": {"attention_bias": False, "global_projections": "separate"},
    "full": {"window": None},
    "one-layer": {"num_layers": 1},
    "checkpointing": {"gradient_checkpointing": True, "hidden_dropout": 0.0},
    "reference": {"attention_backend": "reference", "global_projections": "separate"},
}


def outcome(encoder, batch, rows, whole):
    """Hidden states of the rows and all gradients, by way of all hidden states or not."""
    encoder.zero_grad()
    hidden = encoder(batch)[rows] if whole else encoder(batch, rows)
    directions = torch.randn(hidden.shape[1], 4, generator=torch.Generator().manual_seed(2))
    (hidden @ directions).square().sum().backward()
    return hidden, {name: p.grad.clone() for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("rows", [FIRST, SOME, [40], []], ids=["first", "some", "one", "none"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_rows_are_those_of_all_hidden_states(make_encoder, make_batch, changes, rows):
    encoder, batch = make_encoder(**changes).train(), make_batch(LENGTHS, (0, 5))
    encoder.apply(lambda m: isinstance(m, nn.Dropout) and m.eval())
    rows = torch.tensor(rows, dtype=torch.long)
    expected, gradients = outcome(encoder, batch, rows, whole=True)
    hidden, found = outcome(encoder, batch, rows, whole=False)
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items():
        scale = gradient.abs().max() + 1e-6
        torch.testing.assert_close(
            found[name] / scale, gradient / scale, atol=2e-4, rtol=1e-4, msg=name
        )


def test_the_last_layer_computes_the_rows_alone(make_encoder, make_batch):
    encoder, sizes = make_encoder(), []
    for layer in encoder.layers:
        layer.mlp.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    encoder(make_batch(LENGTHS), torch.tensor(SOME))
    assert sizes == [52, 52, len(SOME)]


@pytest.mark.parametrize(
    ("changes", "rows", "projected"),
    [
        ({"positions": "none"}, FIRST, [52, 52]),  # the last layer projects no token
        ({}, FIRST, [52, 52]),  # only keys, which are rotated
        ({"positions": "none"}, SOME, [52, 52, 52]),  # windows need keys and values
    ],
)
def test_global_rows_need_no_projection_of_all_tokens(
    make_encoder, make_batch, changes, rows, projected
):
    encoder, sizes = make_encoder(**changes), []
    for layer in encoder.layers:
        layer.attention.qkv.register_forward_hook(lambda _, args, out: sizes.append(len(out)))
    encoder(make_batch(LENGTHS), torch.tensor(rows))
    assert sizes == projected


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 2}, {"positions": "none"}], ids=str)
def test_separate_projections_are_absorbed_in_every_layer(make_encoder, make_batch, changes):
    encoder, sizes = make_encoder(global_projections="separate", **changes), []
    for layer in encoder.layers:
        layer.attention.global_qkv.register_forward_hook(lambda *_: sizes.append(1))
    encoder(make_batch([200]))
    assert not sizes, "no token went through the whole projection"


def test_many_global_tokens_are_not_absorbed():
    model = ModelConfig(hidden_size=32, num_heads=4)
    assert model.absorbing_pays(pairs=100, rows=1, tokens=100)
    assert not model.absorbing_pays(pairs=60 * 100, rows=60, tokens=100)


def test_the_parts_of_a_projection_are_the_projection():
    linear, x = nn.Linear(6, 10), torch.randn(3, 6)
    parts = [nn.functional.linear(x, *part) for part in parts_of(linear, (4, 3, 3))]
    torch.testing.assert_close(torch.cat(parts, dim=1), linear(x))
    assert [bias for _, bias in parts_of(nn.Linear(6, 2, bias=False), (1, 1))] == [None, None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), min_size=1, max_size=4),
    st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    st.booleans(),
    st.booleans(),
)
def test_absorbed_rows_are_full_attention(documents, heads, is_rotary, has_bias):
    if not any(count for _, count in documents):
        documents = [*documents, (3, 1)]
    (num_heads, num_kv_heads), head_size, hidden = heads, 4, 10
    lengths = [length for length, _ in documents]
    counts = [min(length, count) for length, count in documents]
    generator = torch.Generator().manual_seed(sum(lengths))
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    chosen = [
        start + torch.randperm(length, generator=generator)[:count].sort().values
        for start, length, count in zip(bounds.tolist(), lengths, counts, strict=False)
    ]
    index, bounds = torch.cat(chosen), bounds.to(torch.int32)
    x = torch.randn(sum(lengths), hidden, generator=generator, dtype=torch.double)
    linear = nn.Linear(hidden, (num_heads + 2 * num_kv_heads) * head_size, has_bias).double()
    plan = AttentionPlan(bounds, torch.zeros(len(x), dtype=torch.bool), Pattern(None))
    rotary = rotary_table(position_ids(bounds), head_size, 100.0) if is_rotary else None

    sizes = [num_heads, num_kv_heads, num_kv_heads]
    q, k, v = linear(x).view(len(x), -1, head_size).split(sizes, dim=1)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    k, v = (y.repeat_interleave(num_heads // num_kv_heads, dim=1) for y in (k, v))
    expected = reference.local_attention(q, k, v, plan, 0.0, head_size**-0.5)[index]
    found = absorbed_rows(linear, x, index, counts, plan, rotary, num_heads, head_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_many_documents_is_its_documents(make_encoder, make_features):
    encoder = make_encoder(global_projections="separate", positions="none")
    features = make_features([3, 9, 1, 20])
    rows = [encoder(pack([f]), torch.tensor([0])) for f in features]
    batch = pack(features)
    together = encoder(batch, batch.cu_seqlens[:-1].long())
    torch.testing.assert_close(together, torch.cat(rows), atol=1e-5, rtol=1e-5)
