"""Who decays, who learns how fast, and when: by name, by layer, by step."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from longspan.config import ClassificationConfig, Config, ModelConfig, OptimConfig
from longspan.tasks.classification import Classification
from longspan.training.module import LongDocumentModule
from longspan.training.optim import bf16_in_hardware, build_optimizer, build_schedule

MODEL = ModelConfig(vocab_size=11, hidden_size=8, num_layers=3, num_heads=2)
TASK = ClassificationConfig()


def groups_of(model=MODEL, **optim):
    """Parameter name to the options of its group."""
    config = Config(model=model)
    module = LongDocumentModule(config, Classification(TASK, ["a", "b"]))
    optimizer = build_optimizer(module, model.num_layers, OptimConfig(**optim))
    name_of = {parameter: name for name, parameter in module.named_parameters()}
    named = [(name_of[p], group) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(name for name, _ in named) == sorted(name_of.values())  # each once
    return dict(named)


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        replace(MODEL, positions="learned", max_positions=4096, norm="rmsnorm"),
        replace(MODEL, global_projections="separate", norm_position="post"),
    ],
)
def test_matrices_and_embeddings_decay_and_nothing_else(model):
    for name, group in groups_of(model, weight_decay=0.1).items():
        is_norm = "norm" in name
        is_bias = name.endswith("bias")
        assert group["weight_decay"] == (0.0 if is_norm or is_bias else 0.1), name


def test_every_layer_learns_slower_than_the_one_above():
    rate = {
        name: group["lr"] for name, group in groups_of(learning_rate=1.0, layer_decay=0.5).items()
    }
    assert rate["head.out.weight"] == rate["head.dense.bias"] == 1.0
    assert rate["encoder.final_norm.weight"] == 1.0
    assert rate["encoder.layers.2.attention.qkv.weight"] == 0.5
    assert rate["encoder.layers.1.mlp.up.bias"] == 0.25
    assert rate["encoder.layers.0.attention_norm.weight"] == 0.125
    assert rate["encoder.token_embedding.weight"] == 0.0625
    assert rate["encoder.embedding_norm.weight"] == 0.0625
    for name, value in rate.items():
        assert value == 1.0 or name.startswith("encoder."), name


def test_all_layers_learn_alike_by_default():
    assert {group["lr"] for group in groups_of(learning_rate=0.5).values()} == {0.5}


def test_what_is_frozen_is_left_out():
    module = nn.Module()
    module.head = nn.Linear(2, 2)
    module.head.weight.requires_grad = False
    (group,) = build_optimizer(module, 0, OptimConfig()).param_groups
    assert [p.shape for p in group["params"]] == [(2,)]


def test_the_fused_step_is_adamw():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3))
    expected = {name: p.detach().double() for name, p in module.named_parameters()}
    config = OptimConfig(learning_rate=0.1, weight_decay=0.2)
    optimizer = build_optimizer(module, 0, config)
    assert all(group["fused"] for group in optimizer.param_groups)
    first, second = config.betas
    moments = dict.fromkeys(expected, (0.0, 0.0))
    for step in range(1, 5):
        for name, p in module.named_parameters():
            p.grad = torch.randn(p.shape)
            gradient = p.grad.double()
            mean, square = moments[name]
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient**2
            moments[name] = mean, square
            decayed = expected[name] * (1 - 0.1 * (0.2 if p.ndim > 1 else 0.0))
            root = (square / (1 - second**step)).sqrt() + config.eps
            expected[name] = decayed - 0.1 * mean / (1 - first**step) / root
        optimizer.step()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], atol=1e-6, rtol=1e-5)


def factors(num_steps, **optim):
    """The multiple of the learning rate at each step, and at those after the last."""
    config = OptimConfig(learning_rate=2.0, **optim)
    optimizer = build_optimizer(nn.Linear(2, 2), 0, config)
    schedule = build_schedule(optimizer, config, num_steps)
    rates = []
    for _ in range(num_steps + 2):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()
    return rates


def test_linear_schedule():
    up = [1 / 3, 2 / 3]
    down = [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert factors(10, schedule="linear", warmup_ratio=0.2) == pytest.approx([*up, *down, 0, 0])


def test_cosine_schedule():
    down = [0.5 * (1 + math.cos(math.pi * done / 8)) for done in range(8)]
    found = factors(10, schedule="cosine", warmup_ratio=0.2)
    assert found == pytest.approx([1 / 3, 2 / 3, *down, 0, 0])


def test_constant_schedule():
    found = factors(10, schedule="constant", warmup_ratio=0.2)
    assert found == pytest.approx([1 / 3, 2 / 3, *[1] * 10])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("num_steps", "ratio"), [(1, 0.0), (1, 0.5), (3, 0.9), (7, 0.0)])
def test_no_step_is_wasted_and_none_exceeds_the_rate(schedule, num_steps, ratio):
    found = factors(num_steps, schedule=schedule, warmup_ratio=ratio)[:num_steps]
    assert all(0 < factor <= 1 for factor in found)


def test_the_rate_of_each_group_follows_the_schedule():
    config = OptimConfig(learning_rate=1.0, layer_decay=0.5, schedule="linear", warmup_ratio=0.0)
    module = LongDocumentModule(Config(model=MODEL), Classification(TASK, ["a", "b"]))
    optimizer = build_optimizer(module, MODEL.num_layers, config)
    before = [group["lr"] for group in optimizer.param_groups]
    schedule = build_schedule(optimizer, config, 4)
    optimizer.step()
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.75 * r for r in before])


@pytest.mark.parametrize(
    ("capabilities", "has_bf16"),
    [
        ({"avx512_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ],
)
def test_bf16_on_processors_that_multiply_it(monkeypatch, capabilities, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bf16_in_hardware("auto") is has_bf16
    assert bf16_in_hardware("cpu") is has_bf16
    assert bf16_in_hardware("gpu") is False


def test_without_a_way_to_tell_there_is_no_bf16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch before 2.11
    assert bf16_in_hardware("cpu") is False
