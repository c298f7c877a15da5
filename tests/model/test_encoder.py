"""The encoder: documents keep apart, every field of its configuration counts, windows reach."""

from dataclasses import fields, replace

import pytest
import torch

from longspan.batch import pack
from longspan.config import ModelConfig, PatternConfig
from longspan.model.encoder import initialise

VARIANTS = {
    "default": {},
    "post-norm": {"norm_position": "post"},
    "rmsnorm": {"norm": "rmsnorm", "norm_eps": 1e-6},
    "geglu": {"mlp": "geglu", "intermediate_size": 48},
    "swiglu": {"mlp": "swiglu", "mlp_bias": False},
    "learned": {"positions": "learned", "max_positions": 64},
    "no-positions": {"positions": "none"},
    "rotary-base": {"rope_theta": 100.0},
    "rotary-bases": {"rope_theta": (100.0, 10_000.0, 500.0)},
    "token-types": {"type_vocab_size": 2},
    "no-biases": {"attention_bias": False, "mlp_bias": False, "norm_bias": False},
    "no-embedding-norm": {"embedding_norm": False},
    "no-first-norm": {"first_norm": False},
    "separate": {"global_projections": "separate"},
    "grouped-query": {"num_kv_heads": 2},
    "separate-grouped-query": {"global_projections": "separate", "num_kv_heads": 1},
    "head-dim": {"head_dim": 6, "num_heads": 3, "hidden_size": 40},
    "one-layer": {"num_layers": 1, "vocab_size": 60},
    "window-list": {"window": (0, 2, None)},
    "full": {"window": None},
    "full-every": {"full_attention_every": 2, "rope_theta_full": 1000.0},
    "dilated": {"pattern": PatternConfig(sinks=1, dilation=((2, 1), 1, 3))},
    "blocks": {"pattern": PatternConfig(block=4, random_blocks=1, summaries=1, stride=(0, 5, 0))},
    "small-init": {"initializer_range": 0.02},
    "dropout": {"hidden_dropout": 0.5, "attention_dropout": 0.5},  # off in evaluation
    "checkpointing": {"gradient_checkpointing": True},
    "reference": {"attention_backend": "reference"},
}
ELSEWHERE = {"pretrained", "keep_layers"}  # where weights come from: tests/pretrained
LENGTHS = [1, 7, 30, 2, 12]


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def encoder(request, make_encoder):
    return make_encoder(**request.param)


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)


def loss_of(hidden):
    """Of random directions: the sum of squares of what a norm put out is a constant."""
    directions = torch.randn(hidden.shape[1], 4, generator=torch.Generator().manual_seed(2))
    return (hidden @ directions).square().sum()


def test_every_field_is_varied():
    varied = {name for changes in VARIANTS.values() for name in changes}
    assert varied == {field.name for field in fields(ModelConfig)} - ELSEWHERE


# --- documents ----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("global_positions", [(), (0,), (0, 5, 11)], ids=str)
def test_a_packed_batch_is_its_documents_one_by_one(encoder, make_features, global_positions):
    features = make_features(LENGTHS, global_positions)
    alone = torch.cat([encoder(pack([feature])) for feature in features])
    packed = encoder(pack(features))
    assert packed.shape == (sum(LENGTHS), encoder.config.hidden_size)
    close(packed, alone)
    close(encoder(pack(features[::-1])).split(LENGTHS[::-1])[::-1], packed.split(LENGTHS))


def test_gradients_of_a_packed_batch_are_those_of_its_documents(encoder, make_features):
    def gradients(batches):
        encoder.zero_grad()
        sum(loss_of(encoder(batch)) for batch in batches).backward()
        return [p.grad for p in encoder.parameters()]

    features = make_features(LENGTHS)
    packed, alone = gradients([pack(features)]), gradients([pack([f]) for f in features])
    for one, other in zip(packed, alone, strict=True):
        close(one / other.abs().max(), other / other.abs().max())


@torch.no_grad()
def test_without_bounds_the_documents_would_mix(make_encoder, make_batch):
    encoder = make_encoder()
    one, two = encoder(make_batch([24])), encoder(make_batch([12, 12]))
    assert (one - two).abs().max() > 0.1  # so the tolerances above tell something


# --- the configuration --------------------------------------------------------------------------


@torch.no_grad()
def test_backends_agree(encoder, make_batch):
    batch = make_batch(LENGTHS, (0, 5))
    hidden = encoder(batch)
    for layer in encoder.layers:
        layer.attention.backend = "reference"
    close(hidden, encoder(batch))


@pytest.mark.parametrize("changes", [{}, {"full_attention_every": 2}, {"window": (5, None, 0)}])
def test_each_layer_attends_in_its_window(make_encoder, make_batch, changes):
    encoder, windows = make_encoder(**changes), []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, args: windows.append(args[1].pattern.window))
    encoder(make_batch(LENGTHS))
    assert tuple(windows) == encoder.config.windows


def test_layers_of_one_window_share_their_plan(make_encoder, make_batch):
    encoder, plans = make_encoder(window=(2, 4, 2)), []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, args: plans.append(args[1]))
    encoder(make_batch(LENGTHS))
    assert plans[0] is plans[2]
    assert plans[0] is not plans[1]


def test_projections_of_global_tokens_get_a_gradient_of_zeros_where_there_is_none(
    make_encoder, make_batch
):
    encoder = make_encoder(global_projections="separate")  # None instead would stop DDP
    loss_of(encoder(make_batch(LENGTHS, global_positions=()))).backward()
    for layer in encoder.layers:
        assert layer.attention.global_qkv.weight.grad.eq(0).all()
        assert layer.attention.global_qkv.bias.grad.eq(0).all()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@torch.no_grad()
def test_separate_projections_equal_to_the_others_change_nothing(make_encoder, make_batch):
    shared, separate = make_encoder(), make_encoder(seed=1, global_projections="separate")
    missing = separate.load_state_dict(shared.state_dict(), strict=False).missing_keys
    assert {key.split(".")[-2] for key in missing} == {"global_qkv"}
    batch = make_batch(LENGTHS, (0, 5))
    assert (separate(batch) - shared(batch)).abs().max() > 0.1
    for layer in separate.layers:
        layer.attention.global_qkv.load_state_dict(layer.attention.qkv.state_dict())
    close(separate(batch), shared(batch))


@torch.no_grad()
def test_separate_projections_serve_global_tokens_only(make_encoder, make_batch):
    encoder = make_encoder(global_projections="separate", num_layers=1)
    batch = make_batch(LENGTHS, (0, 5))
    before = encoder(batch)
    encoder.layers[0].attention.global_qkv.weight.mul_(-1)
    changed = (encoder(batch) != before).any(dim=1)
    alone = batch.cu_seqlens[:-1][batch.cu_seqlens.diff() == 1].long()
    assert changed[batch.global_mask].sum() >= batch.global_mask.sum() - len(alone)
    assert not changed[~batch.global_mask].any()


@torch.no_grad()
def test_grouped_queries_are_repeated_keys_and_values(make_encoder, make_batch):
    grouped, full = make_encoder(num_kv_heads=2), make_encoder(seed=1)
    state = grouped.state_dict()
    for name in [name for name in state if ".qkv." in name]:
        q, k, v = state[name].unflatten(0, (-1, 8)).split([4, 2, 2])
        repeated = (x.repeat_interleave(2, dim=0) for x in (k, v))
        state[name] = torch.cat([q, *repeated]).flatten(0, 1)
    full.load_state_dict(state)
    batch = make_batch(LENGTHS)
    close(grouped(batch), full(batch))


@torch.no_grad()
def test_token_types_count_where_there_are_embeddings_of_them(make_encoder, make_batch):
    batch = make_batch(LENGTHS)
    other = replace(batch, token_type_ids=1 - batch.token_type_ids)
    without, with_types = make_encoder(), make_encoder(type_vocab_size=2)
    assert without(batch).equal(without(other))
    one = make_encoder(type_vocab_size=1)  # as RoBERTa has it, whatever its tokenizer says
    assert one(batch).equal(one(other))
    assert not with_types(batch).isclose(with_types(other)).all(dim=1).any()


def test_biases_exist_where_they_are_asked_for(make_encoder):
    def biased(**changes):
        names = dict(make_encoder(**changes).named_parameters())
        return {name.split(".")[-2] for name in names if name.endswith("bias")}

    norms = {"embedding_norm", "attention_norm", "mlp_norm", "final_norm"}
    assert biased() == {"qkv", "out", "up", "down"} | norms
    assert biased(attention_bias=False) == {"up", "down"} | norms
    assert biased(mlp_bias=False, norm_bias=False) == {"qkv", "out"}
    assert biased(attention_bias=False, global_projections="separate") == {"up", "down"} | norms
    assert biased(norm="rmsnorm") == {"qkv", "out", "up", "down"}


def test_a_post_norm_stack_ends_normalised_and_without_a_final_norm(make_encoder, make_batch):
    encoder = make_encoder(norm_position="post")
    assert not any("final_norm" in name for name, _ in encoder.named_parameters())
    hidden = encoder(make_batch(LENGTHS))
    close(hidden.mean(dim=1), torch.zeros(len(hidden)))
    close(hidden.var(dim=1, correction=0), torch.ones(len(hidden)), atol=1e-3)


# --- training -----------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_memory_and_nothing_else(make_encoder, make_batch):
    batch = make_batch(LENGTHS, (0, 5))

    def loss_and_gradients(checkpointing):
        encoder = make_encoder(
            gradient_checkpointing=checkpointing, hidden_dropout=0.2, attention_dropout=0.2
        ).train()
        calls = []
        encoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)
        loss = loss_of(encoder(batch))
        loss.backward()
        return len(calls), loss, [p.grad for p in encoder.parameters()]

    calls, loss, gradients = loss_and_gradients(False)
    calls_again, loss_again, gradients_again = loss_and_gradients(True)
    assert (calls, calls_again) == (1, 2)  # once more in the backward pass
    assert loss_again.equal(loss)
    close(gradients_again, gradients)


@torch.no_grad()
@pytest.mark.parametrize("name", ["hidden_dropout", "attention_dropout"])
def test_dropout_is_for_training_only(make_encoder, make_batch, name):
    off = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    encoder, without = make_encoder(**{**off, name: 0.3}), make_encoder(**off)
    batch = make_batch(LENGTHS)
    assert encoder(batch).equal(without(batch))
    assert without.train()(batch).equal(without.eval()(batch))
    first, second = encoder.train()(batch), encoder(batch)
    assert not first.equal(second)


def test_mixed_precision_stays_near_and_keeps_gradients_in_float32(encoder, make_batch):
    batch = make_batch(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = encoder(batch)
    assert (hidden - encoder(batch)).abs().mean() < 0.05
    loss_of(hidden.float()).backward()
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters())
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


# --- initialisation -----------------------------------------------------------------------------


def test_every_parameter_is_initialised(encoder):
    for parameter in encoder.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    initialise(encoder)
    assert all(p.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_initial_values(make_encoder, std):
    encoder = make_encoder(
        initializer_range=std,
        global_projections="separate",
        positions="learned",
        max_positions=64,
        type_vocab_size=2,
    )
    expected = {"qkv": std, "global_qkv": std, "up": std}
    expected |= dict.fromkeys(["token_embedding", "position_embedding"], std)
    expected |= {"token_type_embedding": std}
    expected |= dict.fromkeys(["out", "down"], std / (2 * 3) ** 0.5)  # 3 layers write twice each
    seen = set()
    for name, parameter in encoder.named_parameters():
        module, kind = name.split(".")[-2:]
        if kind == "bias":
            assert not parameter.any(), name
        elif module.endswith("norm"):
            assert (parameter == 1).all(), name
        else:
            seen.add(module)
            n = parameter.numel()
            assert abs(parameter.std() / expected[module] - 1) < 5 * (2 * n) ** -0.5, name
            assert abs(parameter.mean() / expected[module]) < 5 * n**-0.5, name
    assert seen == set(expected)


# --- reach --------------------------------------------------------------------------------------


def reached(encoder, batch, token):
    """(T,) bool: the tokens whose embeddings the hidden state of `token` depends on."""
    embeddings = []
    hook = encoder.token_embedding.register_forward_hook(lambda *args: embeddings.append(args[2]))
    hidden = encoder(batch)[token]
    hook.remove()
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(hidden @ direction, embeddings)
    return (gradient != 0).any(dim=1)


@pytest.mark.parametrize("token", [0, 3, 30, 59])
@pytest.mark.parametrize("windows", [(0, 0, 0), (2, 2, 2), (1, 0, 5), (3, 1, 20)], ids=str)
def test_without_globals_the_reach_is_the_sum_of_the_windows(
    make_encoder, make_batch, windows, token
):
    encoder = make_encoder(window=windows)
    distance = (torch.arange(60) - token).abs()
    assert reached(encoder, make_batch([60], ()), token).equal(distance <= sum(windows))


def test_a_full_layer_reaches_everything(make_encoder, make_batch):
    encoder = make_encoder(window=1, full_attention_every=3)
    assert encoder.config.windows == (None, 1, 1)
    assert reached(encoder, make_batch([60], ()), 40).all()


@pytest.mark.parametrize("token", [0, 17, 59])
@pytest.mark.parametrize("position", [0, 30, 59])
def test_two_layers_and_one_global_token_reach_the_document(
    make_encoder, make_batch, position, token
):
    batch = make_batch([10, 60, 20], (position,))
    inside = torch.zeros(90, dtype=torch.bool)
    inside[10:70] = True
    assert reached(make_encoder(num_layers=2, window=1), batch, 10 + token).equal(inside)


def test_one_layer_and_a_global_token_reach_the_window_and_the_token(make_encoder, make_batch):
    encoder, batch = make_encoder(num_layers=1, window=2), make_batch([60], (5,))
    assert reached(encoder, batch, 40).nonzero().flatten().tolist() == [5, 38, 39, 40, 41, 42]
    assert reached(encoder, batch, 5).all()
