"""Positions restart in every document; rotary embeddings turn as Hugging Face's do."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from longspan.model.positions import position_ids, rotary_table, rotate


def test_positions_restart_in_every_document():
    cu_seqlens = torch.tensor([0, 3, 4, 8], dtype=torch.int32)
    assert position_ids(cu_seqlens).tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("theta", [100.0, 10_000.0, 160_000.0])
@pytest.mark.parametrize("head_size", [2, 6, 64])
def test_rotary_is_hugging_faces(head_size, theta):
    config = LlamaConfig(
        head_dim=head_size,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    position = torch.tensor([0, 1, 2, 77, 1000, 8191])
    q, k = torch.randn(2, 1, 3, len(position), head_size)  # (1, H, T, E) each
    cos, sin = LlamaRotaryEmbedding(config)(q, position[None])
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    table = rotary_table(position, head_size, theta)
    for x, turned in zip((q, k), expected):
        ours = rotate(x[0].transpose(0, 1), table)
        torch.testing.assert_close(ours, turned[0].transpose(0, 1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("shift", [1, 100, 4000])
def test_scores_depend_on_the_distance_alone(shift):
    q, k = torch.randn(2, 20, 1, 32)
    position = torch.arange(20)

    def scores(position):
        table = rotary_table(position, 32, 10_000.0)
        return torch.einsum("qhe,khe->qk", rotate(q, table), rotate(k, table))

    near = scores(position)
    assert (near - scores(2 * position)).abs().max() > 0.1
    # angles are float32: at position 4,000 they are known to 2e-4
    torch.testing.assert_close(scores(position + shift), near, atol=1e-2, rtol=0)


def test_rotation_keeps_lengths_and_leaves_position_0():
    x = torch.randn(10, 2, 16)
    turned = rotate(x, rotary_table(torch.arange(10), 16, 10_000.0))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert turned[0].equal(x[0])
    assert not turned[1].equal(x[1])


def test_rotation_keeps_the_dtype():
    x = torch.randn(4, 1, 8).bfloat16()
    assert rotate(x, rotary_table(torch.arange(4), 8, 100.0)).dtype == torch.bfloat16


def test_a_table_is_float32_whatever_surrounds_it():
    with torch.autocast("cpu", torch.bfloat16):
        cos, _ = rotary_table(torch.arange(5000), 8, 10_000.0)
    assert cos.dtype == torch.float32
    torch.testing.assert_close(cos[4999, 0, 0].double(), torch.tensor(4999.0).double().cos())


@torch.no_grad()
def test_full_layers_turn_by_their_own_base(make_encoder, make_batch):
    batch = make_batch([30, 12])

    def hidden(window, **bases):
        return make_encoder(window=window, **bases)(batch)

    narrow = hidden(3, rope_theta=100.0)
    assert hidden(3, rope_theta=100.0, rope_theta_full=7.0).equal(narrow)
    full = hidden(None, rope_theta=100.0)
    assert hidden(None, rope_theta=9.0, rope_theta_full=100.0).equal(full)
    assert not hidden(None, rope_theta=100.0, rope_theta_full=7.0).equal(full)
    mixed = hidden((None, 3, 3), rope_theta=100.0, rope_theta_full=7.0)
    assert hidden((None, 3, 3), rope_theta=(7.0, 100.0, 100.0)).equal(mixed)
    assert not mixed.equal(hidden((None, 3, 3), rope_theta=100.0))
    assert not mixed.equal(hidden((None, 3, 3), rope_theta=7.0))


@torch.no_grad()
def test_without_positions_the_order_says_nothing(make_encoder, make_batch):
    batch = make_batch([30])
    order = torch.randperm(30)
    shuffled = replace(batch, input_ids=batch.input_ids[order])
    for positions, carries_order in {"none": False, "rotary": True, "learned": True}.items():
        encoder = make_encoder(positions=positions, max_positions=30, window=None)
        difference = (encoder(shuffled) - encoder(batch)[order]).abs().max()
        assert (difference > 1e-3) == carries_order, positions
