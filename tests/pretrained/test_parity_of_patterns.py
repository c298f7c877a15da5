"""Families whose patterns are no mere windows, against the models that `transformers` builds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    BigBirdConfig,
    LongformerConfig,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
)

from longspan.batch import Feature, PackedBatch, pack
from longspan.config import ModelConfig
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained.load import complete_model, load_encoder
from longspan.typed import from_dict

VOCABULARY, TOLERANCE = 97, 2e-5
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3,
         "num_attention_heads": 4, "intermediate_size": 48}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2, "sliding_window": 8}
DECODERS = {
    "mistral": MistralConfig(**GROUPED),
    "one-key-head": MistralConfig(**{**GROUPED, "num_key_value_heads": 1}),
    "wide-heads": MistralConfig(**GROUPED, head_dim=12, rope_parameters={
        "rope_type": "default", "rope_theta": 500.0}),
    "only-itself": MistralConfig(**{**GROUPED, "sliding_window": 1}),
    "all-before": MistralConfig(**{**GROUPED, "sliding_window": None}),
    "every-third-full": MinistralConfig(**GROUPED, head_dim=8, layer_types=[
        "full_attention", "sliding_attention", "sliding_attention"]),
    "in-turns": MinistralConfig(**GROUPED, head_dim=8, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention"]),
}  # fmt: skip
BLOCK, RANDOM = 4, 2  # theirs is full below 5 + 2 * RANDOM blocks


def saved(config: object, folder: Path, auto: str = "AutoModel") -> torch.nn.Module:
    torch.manual_seed(3)
    model = getattr(transformers, auto).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide a swapped bias or norm
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model.eval()


def loaded(folder: Path, **overrides: object) -> Encoder:
    fields = complete_model({"pretrained": str(folder), **overrides})
    encoder = Encoder(from_dict(ModelConfig, fields))
    load_encoder(encoder)
    return encoder.eval()


def documents(*lengths: int) -> PackedBatch:
    generator = np.random.default_rng(5)
    none = np.array([], np.int32)  # no global tokens
    ids = [generator.integers(5, VOCABULARY, length).astype(np.int32) for length in lengths]
    return pack([Feature(str(len(x)), x, none) for x in ids])


def check_gradients(
    encoder: Encoder, theirs: torch.nn.Module, rename: Callable[[str], str | None]
) -> None:
    """Of our parameters whose names `rename` knows, by theirs."""
    given = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in encoder.named_parameters():
        theirs_name = rename(name)
        if theirs_name is None:
            continue
        expected = given[theirs_name].grad
        assert parameter.grad is not None
        assert expected is not None
        scale = max(1.0, float(expected.abs().max()))
        assert (parameter.grad - expected).abs().max() <= TOLERANCE * scale, name
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("backend", ["auto", "blocked"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_of_windows(name: str, backend: str, tmp_path: Path) -> None:
    theirs = saved(DECODERS[name], tmp_path)
    encoder = loaded(tmp_path, attention_backend=backend)
    batch = documents(7, 8, 9, 1, 33)
    hidden = encoder(batch)
    each = batch.input_ids.split(batch.cu_seqlens.diff().tolist())
    expected = torch.cat([theirs(input_ids=x[None]).last_hidden_state[0] for x in each])
    assert (hidden - expected).abs().max() <= TOLERANCE

    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    (expected * probe).sum().backward()
    (hidden * probe).sum().backward()
    names = {
        "token_embedding.weight": "embed_tokens.weight",
        "layers.0.attention.out.weight": "layers.0.self_attn.o_proj.weight",
        "layers.1.mlp.down.weight": "layers.1.mlp.down_proj.weight",
        "layers.2.attention_norm.weight": "layers.2.input_layernorm.weight",
        "final_norm.weight": "norm.weight",
    }
    check_gradients(encoder, theirs, names.get)


def test_a_streamed_decoder_is_theirs(tmp_path: Path) -> None:
    theirs = saved(DECODERS["mistral"], tmp_path)
    input_ids = documents(50).input_ids
    with torch.no_grad():
        expected = theirs(input_ids=input_ids[None]).last_hidden_state[0]
    streamed = torch.cat(list(loaded(tmp_path).stream(input_ids.split(3))))
    assert (streamed - expected).abs().max() <= TOLERANCE


def test_a_decoder_with_a_head_loads_without_it(tmp_path: Path) -> None:
    theirs = saved(DECODERS["mistral"], tmp_path, "AutoModelForCausalLM")
    batch = documents(20)
    with torch.no_grad():
        expected = theirs.model(input_ids=batch.input_ids[None]).last_hidden_state[0]
        assert (loaded(tmp_path)(batch) - expected).abs().max() <= TOLERANCE


def test_their_window_counts_the_token_itself(tmp_path: Path) -> None:
    saved(DECODERS["mistral"], tmp_path)
    fields = complete_model({"pretrained": str(tmp_path)})
    assert fields["window"] == (7, 7, 7)
    assert fields["pattern"] == {"causal": True}
    assert fields["num_kv_heads"] == 2
    assert complete_model({"pretrained": str(tmp_path), "window": 3})["window"] == (3, 3, 3)


def test_layers_that_alternate_cannot_be_streamed(tmp_path: Path) -> None:
    saved(DECODERS["in-turns"], tmp_path)
    encoder = loaded(tmp_path)
    assert encoder.config.windows == (7, None, 7)
    with pytest.raises(UserError, match=r"model\.window=null"):
        encoder.stream([])


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    saved(MixtralConfig(**GROUPED, num_local_experts=2), tmp_path)
    with pytest.raises(UserError, match="is a mixtral model, which is not supported; supported"):
        complete_model({"pretrained": str(tmp_path)})


def longformer(**changes: object) -> LongformerConfig:
    return LongformerConfig(**SHAPE, attention_window=4, max_position_embeddings=66, **changes)


@pytest.mark.parametrize("backend", ["auto", "blocked"])
@pytest.mark.parametrize("dilation", [2, 3])
def test_dilation_is_their_window_over_every_so_many_tokens(
    dilation: int, backend: str, tmp_path: Path
) -> None:
    """Theirs has none; but tokens that are a step apart see each other as a document would."""
    theirs = saved(longformer(), tmp_path)
    length = 31
    input_ids = documents(length).input_ids
    expected = torch.empty(length, SHAPE["hidden_size"])
    for residue in range(dilation):
        places = torch.arange(residue, length, dilation)
        states = theirs(input_ids=input_ids[places][None], position_ids=places[None] + 2)
        expected = expected.index_copy(0, places, states.last_hidden_state[0])
    pattern = {"dilation": dilation}
    encoder = loaded(tmp_path, pattern=pattern, attention_backend=backend)
    hidden = encoder(documents(length))
    assert (hidden - expected).abs().max() <= TOLERANCE

    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    (expected * probe).sum().backward()
    (hidden * probe).sum().backward()
    layer = "encoder.layer"
    names = {
        "layers.0.attention.out.weight": f"{layer}.0.attention.output.dense.weight",
        "layers.1.mlp.up.bias": f"{layer}.1.intermediate.dense.bias",
        "layers.2.attention_norm.weight": f"{layer}.2.attention.output.LayerNorm.weight",
        "embedding_norm.bias": "embeddings.LayerNorm.bias",
    }
    check_gradients(encoder, theirs, names.get)


@pytest.mark.parametrize(
    "changes", [{"attention_dilation": [1, 1, 2]}, {"autoregressive": True}], ids=str
)
def test_what_their_class_passes_over_is_refused(changes: dict, tmp_path: Path) -> None:
    """The repository's own configurations say it; `transformers` computes plain windows."""
    saved(longformer(**changes), tmp_path)
    with pytest.raises(UserError, match=next(iter(changes))):
        complete_model({"pretrained": str(tmp_path)})


def test_a_dilation_of_one_is_none(tmp_path: Path) -> None:
    saved(longformer(attention_dilation=[1, 1, 1], autoregressive=False), tmp_path)
    assert complete_model({"pretrained": str(tmp_path)})["window"] == (2, 2, 2)


def test_other_rotary_positions_are_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
    saved(MistralConfig(**GROUPED, rope_parameters=rope), tmp_path)
    with pytest.raises(UserError, match="rope_type='linear'"):
        complete_model({"pretrained": str(tmp_path)})


def bigbird(**changes: object) -> BigBirdConfig:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BigBirdConfig(
        **SHAPE, **dropout, max_position_embeddings=96, block_size=BLOCK,
        num_random_blocks=RANDOM, **changes,
    )  # fmt: skip


def recorded_tables(model: torch.nn.Module) -> list[list[np.ndarray]]:
    """Filled by a forward pass: of each layer, of each head, (blocks - 2, RANDOM) blocks."""
    tables: list[list[np.ndarray]] = []
    for layer in model.encoder.layer:
        attention = layer.attention.self
        draw = attention._bigbird_block_rand_mask_with_head

        def drawn(draw=draw, **arguments):
            tables.append(draw(**arguments))
            return tables[-1]

        attention._bigbird_block_rand_mask_with_head = drawn
    return tables


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize("length", [12 * BLOCK, 15 * BLOCK, 14 * BLOCK - 1, 13 * BLOCK + 1])
def test_block_sparse_with_the_table_that_they_drew(
    length: int, activation: str, backend: str, tmp_path: Path
) -> None:
    theirs = saved(bigbird(hidden_act=activation), tmp_path)
    tables = recorded_tables(theirs)
    theirs.train()  # in evaluation their table is all zeros
    batch = documents(length)
    expected = theirs(input_ids=batch.input_ids[None]).last_hidden_state[0]
    assert len(tables) == 3
    assert not np.array_equal(tables[0][0], tables[0][1])
    assert not np.array_equal(tables[0][0], tables[1][0])

    edge = np.zeros((1, RANDOM), int)  # the first and the last block see everything anyway
    table = [[np.concatenate([edge, h, edge]).tolist() for h in layer] for layer in tables]
    pattern = {"random_table": table}
    encoder = loaded(tmp_path, pattern=pattern, attention_backend=backend)
    hidden = encoder(batch)
    assert (hidden - expected).abs().max() <= TOLERANCE

    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    (expected * probe).sum().backward()
    (hidden * probe).sum().backward()
    layer = "encoder.layer"
    names = {
        "position_embedding.weight": "embeddings.position_embeddings.weight",
        "layers.0.attention.out.weight": f"{layer}.0.attention.output.dense.weight",
        "layers.1.mlp.up.bias": f"{layer}.1.intermediate.dense.bias",
        "layers.2.attention_norm.weight": f"{layer}.2.attention.output.LayerNorm.weight",
    }
    check_gradients(encoder, theirs, names.get)


def test_without_their_table_we_draw_our_own_for_training_and_evaluation(tmp_path: Path) -> None:
    saved(bigbird(), tmp_path)
    encoder, batch = loaded(tmp_path), documents(15 * BLOCK)
    assert encoder.config.pattern.said() == (
        f"model.pattern.block={BLOCK}, model.pattern.global_edges=1, "
        f"model.pattern.random_blocks={RANDOM}"
    )
    assert encoder.config.mlp == "gelu_tanh"
    with torch.no_grad():
        assert torch.equal(encoder(batch), encoder.train()(batch))


def test_their_full_attention_is_full(tmp_path: Path) -> None:
    theirs = saved(bigbird(attention_type="original_full"), tmp_path)
    batch = documents(30)
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids[None]).last_hidden_state[0]
        assert (loaded(tmp_path)(batch) - expected).abs().max() <= TOLERANCE
