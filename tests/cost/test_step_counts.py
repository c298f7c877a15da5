"""A guard against slow steps that no machine's mood can trip: counts, never times.

Operations that a training step launches, the tensors it allocates, and how both, and attention's
own products, grow with documents, tokens and window.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from longspan.attention import AttentionPlan, Pattern, attend, native
from longspan.config import ClassificationConfig
from longspan.cost.flops import document_flops
from longspan.forecast.steps import random_batch
from longspan.tasks.classification import Classification
from longspan.training.module import LongDocumentModule
from longspan.training.optim import build_optimizer

# Heads that read all rows: where few are read, the last layer computes them document by document.
TASK = ClassificationConfig(pooling="mean")
# What a step may launch and allocate: a little above what it does. Who raises them says why.
OPERATIONS = {"layer": 540, "beside layers": 580}
ALLOCATIONS = {"layer": 130, "beside layers": 160}
OPERATIONS_PER_DOCUMENT = 100  # of a layer of `blocked`, which serves documents one by one


@dataclass(frozen=True)
class Counts:
    """Of one call.

    Attributes:
        operations: of PyTorch and of longspan, those that others call included.
        allocations: tensors that memory was taken for.
        bytes: of them together.
    """

    operations: int
    allocations: int
    bytes: int


def count(call):
    call()  # what happens once: plans' tables, moments of the optimiser, threads
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    names = [event.name for event in profiler.events()]
    memory = [e.nbytes() for e in profiler.profiler.kineto_results.events() if is_memory(e)]
    taken = [size for size in memory if size > 0]
    operations = sum(name.startswith(("aten::", "longspan::")) for name in names)
    return Counts(operations, len(taken), sum(taken))


def is_memory(event):
    return event.name() == "[memory]"


@pytest.fixture
def count_step(make_small, make_documents):
    """Count a training step on documents of these lengths, with some of the model's fields."""

    def of(lengths, **model):
        config = replace(make_small(**model), task=TASK)
        task = Classification(TASK, ["war", "peace"])
        module = LongDocumentModule(config, task).train()
        optimizer = build_optimizer(module, config.model.num_layers, config.optim)
        batch = random_batch(config, task, make_documents(lengths))

        def step():
            with torch.autocast("cpu", torch.bfloat16):
                loss = task.loss(module(batch), batch).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

        return count(step)

    return of


@pytest.fixture
def has_native():
    if reason := native.unavailable():
        pytest.skip(reason)


# --- a whole step -------------------------------------------------------------------------------


@pytest.mark.usefixtures("has_native")
def test_neither_documents_nor_tokens_nor_window_add_to_what_a_step_launches(count_step):
    two = count_step([512] * 2)
    for other in (count_step([64] * 16), count_step([1024] * 4), count_step([512] * 2, window=200)):
        assert other.operations == two.operations
        assert other.allocations == two.allocations


@pytest.mark.usefixtures("has_native")
def test_a_layer_launches_no_more_than_it_may(count_step):
    shallow, deep = (count_step([512] * 2, num_layers=layers) for layers in (2, 6))
    for name, most in (("operations", OPERATIONS), ("allocations", ALLOCATIONS)):
        layer = (getattr(deep, name) - getattr(shallow, name)) / 4
        beside = getattr(shallow, name) - 2 * layer
        assert layer <= most["layer"], f"{name} of a layer"
        assert beside <= most["beside layers"], f"{name} beside layers"
        assert layer > most["layer"] / 2, f"{name}: lower the bound of a layer"


@pytest.mark.usefixtures("has_native")
def test_bytes_of_a_step_follow_the_tokens_and_nothing_else(count_step):
    one, two, four = (count_step([1024] * n).bytes for n in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
    assert count_step([64] * 32).bytes == pytest.approx(two, rel=0.01)
    assert count_step([2048]).bytes == pytest.approx(two, rel=0.01)
    assert count_step([2048], window=200).bytes == pytest.approx(two, rel=0.05)


def test_a_document_adds_few_operations_where_there_is_no_kernel(count_step):
    few, many = (count_step([512 // n] * n, attention_backend="blocked") for n in (2, 16))
    a_document = (many.operations - few.operations) / 14
    assert a_document <= 2 * OPERATIONS_PER_DOCUMENT  # two layers
    assert many.bytes <= 1.1 * few.bytes


# --- attention alone ----------------------------------------------------------------------------


def make_call(num_tokens, window, backend):
    """Attention of one document with two global tokens, forward and backward."""
    global_mask = torch.zeros(num_tokens, dtype=torch.bool)
    global_mask[:2] = True
    plan = AttentionPlan(torch.tensor([0, num_tokens]).int(), global_mask, Pattern(window))
    q, k, v = (torch.randn(num_tokens, 4, 16, requires_grad=True) for _ in range(3))
    out_gradient = torch.randn(num_tokens, 4, 16)

    def call():
        out = attend(q, k, v, plan, backend=backend)
        torch.autograd.grad(out, (q, k, v), out_gradient)

    return call


@pytest.mark.usefixtures("has_native")
def test_the_kernel_takes_bytes_for_tokens_and_none_for_the_window():
    taken = {
        (tokens, window): count(make_call(tokens, window, "native")).bytes
        for tokens, window in [(2048, 32), (4096, 32), (4096, 64), (4096, 256)]
    }
    assert taken[4096, 32] == pytest.approx(2 * taken[2048, 32], rel=0.02)
    # sums of keys that two segments reach: segments are as long as four windows at least
    assert taken[4096, 64] == pytest.approx(taken[4096, 32], rel=0.1)
    assert taken[4096, 256] == pytest.approx(taken[4096, 32], rel=0.1)


def test_blocks_take_bytes_for_the_keys_that_they_gather():
    taken = {
        (tokens, window): count(make_call(tokens, window, "blocked")).bytes
        for tokens, window in [(2048, 64), (4096, 64), (4096, 256)]
    }
    assert taken[4096, 64] == pytest.approx(2 * taken[2048, 64], rel=0.02)
    assert taken[4096, 256] == pytest.approx(taken[4096, 64], rel=0.1)  # three keys a query


def counted_flops(num_tokens, window, make_small, make_documents):
    """Of the products of attention's forward pass: what `blocked` computes, what the model says."""
    config = replace(make_small(window=window, num_layers=1), task=TASK)
    expected = document_flops(config, make_documents([num_tokens], num_globals=2)).attention
    call = make_call(num_tokens, window, "blocked")
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch counts CUDA's only
    with FlopCounterMode(display=False, custom_mapping={op: sdpa_of_shapes}) as counter:
        call()
    return counter.get_flop_counts()["Global"][op], expected


def sdpa_of_shapes(q, k, v, *args, **kwargs):
    return sdpa_flop_count(q, k, v)


def test_products_of_attention_grow_with_tokens_times_window(make_small, make_documents):
    found = {
        shape: counted_flops(*shape, make_small, make_documents)
        for shape in [(2048, 64), (4096, 64), (8192, 64), (4096, 128), (4096, 256)]
    }
    for shape, (counted, expected) in found.items():
        # blocks of as many queries as the window is long read three windows, for two that count
        assert expected <= counted <= 1.55 * expected, shape

    def growth(larger, smaller):
        return [a / b for a, b in zip(found[larger], found[smaller], strict=True)]

    for larger, smaller in [
        ((4096, 64), (2048, 64)), ((8192, 64), (4096, 64)),  # twice the tokens
        ((4096, 128), (4096, 64)), ((4096, 256), (4096, 128)),  # twice the window
    ]:  # fmt: skip
        counted, expected = growth(larger, smaller)
        assert 1.9 < expected < 2.05
        assert counted == pytest.approx(expected, rel=0.05)
