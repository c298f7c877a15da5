"""The formulas against what autograd saves, and against all that a training step allocates."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from longspan.attention import Pattern, blocked, native
from longspan.config import Config, MaskedLMConfig, PatternConfig
from longspan.cost.attention_memory import AttentionMemory
from longspan.cost.memory import TrainingMemory, block_matrices
from longspan.forecast.steps import random_batch
from longspan.known_tasks import known_task
from longspan.model.layers import Block
from longspan.training.module import LongDocumentModule

LENGTHS = [500, 300, 224]
SHAPES = [
    {},
    {"num_layers": 1},
    {"window": 64},
    {"window": None},
    {"window": (16, None)},
    {"norm_position": "post", "positions": "learned", "max_positions": 500},
    {"mlp": "geglu", "norm": "rmsnorm", "norm_bias": False},
    {"hidden_dropout": 0.0},
    {"num_kv_heads": 2},
    {"global_projections": "separate"},
    {"global_projections": "separate", "window": None, "num_kv_heads": 2},
    {"gradient_checkpointing": True, "num_layers": 4},
]
PATTERNS = [  # none of which `native` serves
    {"window": 1, "pattern": PatternConfig(block=16, random_blocks=2)},
    {"window": 0, "pattern": PatternConfig(block=32, summaries=4)},
    {"window": 1, "pattern": PatternConfig(block=16, global_edges=1, random_blocks=1)},
    {"window": 8, "pattern": PatternConfig(stride=32)},
    {"window": 8, "pattern": PatternConfig(random_blocks=4)},
]
AUTOCAST = [pytest.param(None, id="float32"), pytest.param(torch.bfloat16, id="bf16")]


@pytest.fixture(params=["native", "blocked"])
def backend(request):
    if request.param == "native" and (reason := native.unavailable()):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def make_step(make_documents, tokenizers):
    """Make a training step, without the optimiser, and the memory that is expected of it."""

    def make(config, autocast, num_globals=1):
        task = known_task(config, ["war", "peace"], None, tokenizers["embedded"])
        module = LongDocumentModule(config, task)
        documents = make_documents(LENGTHS, num_globals)
        batch = random_batch(config, task, documents)

        def forward():
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                return task.loss(module(batch), batch).sum()

        memory = TrainingMemory(config, documents, 0, 0, autocast=autocast).at(sum(LENGTHS))
        return module, forward, memory

    return make


def saved_bytes(module, forward):
    """Of the distinct storages that backward will read, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), x)  # kept alive: no address comes twice
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        forward()
    return sum(size for size, _ in kept.values())


def peak_bytes(call):
    """The most that is allocated at once during the call, beyond what was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("num_globals", [0, 1])
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_what_backward_needs_is_what_autograd_saves(
    shape, num_globals, autocast, backend, make_small, make_step
):
    config = make_small(attention_backend=backend, **shape)
    module, forward, memory = make_step(config, autocast, num_globals)
    # what a head of a few numbers a document saves is not counted
    expected = memory.activations + memory.attention + memory.weights
    assert saved_bytes(module, forward) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("num_globals", "autocast"), [(0, None), (1, torch.bfloat16)], ids=["float32", "bf16"]
)
@pytest.mark.parametrize("shape", PATTERNS, ids=lambda shape: shape["pattern"].said())
def test_patterns_save_what_is_expected_of_them(
    shape, num_globals, autocast, make_small, make_step
):
    config = make_small(**shape)
    module, forward, memory = make_step(config, autocast, num_globals)
    expected = memory.activations + memory.attention + memory.weights
    assert saved_bytes(module, forward) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("num_globals", [0, 1])
@pytest.mark.parametrize("window", [16, None])
def test_dropout_of_probabilities_saves_them(window, num_globals, autocast, make_small, make_step):
    config = make_small(window=window, attention_dropout=0.1)
    module, forward, memory = make_step(config, autocast, num_globals)
    without = make_step(make_small(window=window), autocast, num_globals)[2]
    expected = memory.activations + memory.attention + memory.weights
    assert memory.attention > 2 * without.attention
    assert saved_bytes(module, forward) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("autocast", AUTOCAST)
@pytest.mark.parametrize("shape", [{}, {"num_layers": 1}, {"window": None}, SHAPES[-1]], ids=str)
def test_the_peak_is_what_a_step_allocates(shape, autocast, backend, make_small, make_step):
    _, forward, memory = make_step(make_small(attention_backend=backend, **shape), autocast)
    forward().backward()  # gradients are there before
    found = peak_bytes(lambda: forward().backward())
    rel = 0.25 if shape.get("gradient_checkpointing") else 0.15
    assert found == pytest.approx(memory.total, rel=rel)


@pytest.mark.parametrize("autocast", AUTOCAST)
def test_logits_over_a_vocabulary(autocast, make_small, make_step, tokenizers):
    vocab_size = len(tokenizers["embedded"])
    model = make_small(vocab_size=vocab_size, num_layers=1).model
    config = Config(model=model, task=MaskedLMConfig())
    _, forward, memory = make_step(config, autocast)
    forward().backward()
    found = peak_bytes(lambda: forward().backward())
    # the embedding's gradient is made anew and added to the one of the step before
    assert memory.logits > memory.total / 2
    assert found == pytest.approx(memory.total + 4 * vocab_size * 64, rel=0.15)


def test_a_square_of_scores_is_expected_of_the_oracle(make_small, make_step):
    config = make_small(attention_backend="reference", num_layers=1)
    _, forward, memory = make_step(config, autocast=None)
    forward().backward()
    found = peak_bytes(lambda: forward().backward())
    assert found == pytest.approx(memory.total, rel=0.3)


def test_weights_gradients_and_moments(make_small, make_documents):
    memory = TrainingMemory(make_small(), make_documents([50]), 1000, 400).at(50)
    assert (memory.weights, memory.gradients, memory.optimizer) == (4000, 1600, 3200)
    parts = [getattr(memory, name) for name in vars(memory)]
    assert memory.total == sum(parts)


def test_frozen_layers_save_nothing(make_small, make_documents):
    config = make_small(num_layers=4)
    frozen = replace(config, optim=replace(config.optim, freeze_layers=3))
    whole, top = (
        TrainingMemory(c, make_documents(LENGTHS), 0, 0).at(1024) for c in (config, frozen)
    )
    one = TrainingMemory(make_small(num_layers=1), make_documents(LENGTHS), 0, 0).at(1024)
    assert top.activations == one.activations < whole.activations
    assert top.attention == one.attention < whole.attention


@pytest.mark.parametrize("shape", [{}, {"num_kv_heads": 1}, {"global_projections": "separate"}])
def test_matrices_of_a_block(shape, make_small):
    model = make_small(**shape).model
    matrices = [p.numel() for p in Block(model).parameters() if p.ndim == 2]
    assert block_matrices(model) == sum(matrices)


@pytest.mark.parametrize("has_compiler", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
def test_the_backend_that_is_expected_is_the_one_that_computes(
    autocast, dropout, has_compiler, make_small, make_step, make_documents, monkeypatch
):
    if not has_compiler:
        monkeypatch.setattr(native, "unavailable", lambda: "no compiler")
    used = []
    for module, name in ((native, "attention"), (blocked, "local_attention")):
        call, who = getattr(module, name), module.__name__.rpartition(".")[2]
        spy = lambda *args, call=call, who=who: used.append(who) or call(*args)  # noqa: E731
        monkeypatch.setattr(module, name, spy)
    config = make_small(attention_dropout=dropout)
    make_step(config, autocast)[1]()
    dtype = autocast or torch.float32
    memory = AttentionMemory(config, make_documents(LENGTHS), dtype, on_gpu=False)
    # the last layer's only row is that of the first token, which is global
    assert set(used) == {memory.backend(Pattern(16))}
    assert len(used) == (2 if dropout else 1)
    if dropout or not has_compiler or autocast == torch.float16:
        assert set(used) == {"blocked"}


@pytest.mark.parametrize("has_triton", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_gpu_is_served_by_flex_where_it_can(
    dropout, has_triton, make_small, make_documents, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_triton else None)
    config = make_small(attention_dropout=dropout)
    memory = AttentionMemory(config, make_documents(LENGTHS), torch.float32, on_gpu=True)
    assert config.model.head_size == 16
    assert memory.backend(Pattern(16)) == ("flex" if has_triton and not dropout else "blocked")


def test_flex_keeps_what_no_window_changes(make_small, make_documents, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    narrow, wide = (
        AttentionMemory(make_small(window=w), make_documents(LENGTHS), torch.bfloat16, on_gpu=True)
        for w in (1, 128)
    )
    # queries, keys, values, output of all rows and of the tokens, log-sum-exps; of the last layer
    # keys, and the probabilities of one row of four heads in float32 and in bf16
    first, last = 2 * (3 * 64 + 2 * 64) + 4 * 4, 2 * 64 + 4 * (4 + 2)
    assert sum(narrow.at(1024)) == sum(wide.at(1024)) == first + last


def test_native_keeps_what_no_window_changes(make_small, make_documents):
    if reason := native.unavailable():
        pytest.skip(reason)
    narrow, wide, full = (
        TrainingMemory(make_small(window=window), make_documents(LENGTHS), 0, 0).at(1024).attention
        for window in (1, 128, None)
    )
    # products, outputs (64 values a token) and log-sum-exps; keys and probabilities of one row
    # of four heads in the last layer
    assert narrow == wide == full == 1024 * 4 * (3 * 64 + 64 + 4) + 1024 * 4 * (64 + 4)
