"""The formulas against what PyTorch counts as the model runs."""

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from longspan.attention import Pattern
from longspan.config import ClassificationConfig, Config, GlobalsConfig, MaskedLMConfig, QAConfig
from longspan.cost.documents import Documents
from longspan.cost.flops import (
    absorbed_flops,
    attention_flops,
    document_flops,
    guessed_tokens,
    head_flops,
    training_flops,
)
from longspan.forecast.steps import random_batch
from longspan.known_tasks import known_task
from longspan.training.module import LongDocumentModule

LENGTH = 40
SHAPES = [
    {},
    {"num_layers": 3, "intermediate_size": 96},
    {"num_kv_heads": 2},
    {"head_dim": 8},
    {"mlp": "geglu", "intermediate_size": 40},
    {"mlp": "swiglu", "norm": "rmsnorm", "positions": "none"},
    {"global_projections": "separate"},
    {"norm_position": "post", "positions": "learned", "max_positions": LENGTH},
]


def counted(module, batch, backward=True):
    """Operations by module, as PyTorch counted them; `""` holds everything."""
    with FlopCounterMode(display=False) as counter:
        out = module(batch)
        if backward:
            out.sum().backward()
    prefix = type(module).__name__
    tables = counter.get_flop_counts()
    return {
        name.removeprefix(prefix).removeprefix("."): sum(table.values())
        for name, table in tables.items()
        if name.startswith(prefix)
    }


@pytest.fixture
def make_module(make_documents, tokenizers):
    def make(config, lengths=(LENGTH,)):
        task = known_task(config, ["war", "peace", "trade"], None, tokenizers["embedded"])
        module = LongDocumentModule(config, task)
        return module, random_batch(config, task, make_documents(lengths))

    return make


@pytest.mark.parametrize(
    ("shape", "backward"),
    [(shape, False) for shape in SHAPES]
    # PyTorch gives some of the backward pass of global projections to two modules at once
    + [(shape, True) for shape in SHAPES if "global_projections" not in shape],
    ids=str,
)
def test_linear_layers_are_counted_exactly(
    shape, backward, make_small, make_module, make_documents
):
    config = make_small(**shape)
    module, batch = make_module(config)
    found = counted(module, batch, backward)
    flops = document_flops(config, make_documents([LENGTH]), 3)
    if backward:
        flops = training_flops(config, flops)

    def of(*names):
        return sum(count for name, count in found.items() if name.endswith(names))

    # the first token's row of the last layer, and of each where it has projections of its own;
    # what the kernel computes PyTorch does not count
    _, in_products = absorbed_flops(config.model, LENGTH, rows=1, pairs=LENGTH)
    in_products *= config.model.num_layers if "global_projections" in shape else 1
    assert of(".attention") == flops.projections + in_products * (3 if backward else 1)
    assert of(".mlp.up", ".mlp.down") == flops.mlp


@pytest.mark.parametrize(
    ("shape", "positions"),
    [({"window": 2}, []), ({"attention_dropout": 0.1}, [0])],
    ids=["no global token", "dropout"],
)
def test_rows_that_need_windows_project_all_tokens(shape, positions, make_small, make_module):
    config = make_small(positions="none", **shape)
    module, batch = make_module(config)
    batch.global_mask[:] = False
    batch.global_mask[positions] = True
    documents = Documents([LENGTH], [np.array(positions, int)])
    found = counted(module, batch, backward=False)
    flops = document_flops(config, documents, 3)
    modules = (".attention.qkv", ".attention.out")
    assert flops.projections == sum(n for name, n in found.items() if name.endswith(modules))
    assert flops.mlp == sum(n for name, n in found.items() if name.endswith(".mlp"))


@pytest.mark.parametrize(
    ("task", "backward_share"),
    [(ClassificationConfig(), 3), (QAConfig(), 3), (QAConfig(head_activation="gelu"), 3)],
)
def test_heads_are_counted_exactly(task, backward_share, make_small, make_module):
    config = Config(task=task, model=make_small().model)
    module, batch = make_module(config)
    found = counted(module, batch)
    assert found["head"] == backward_share * head_flops(config, LENGTH, 1, 3)


def test_a_guessed_token_costs_the_vocabulary(make_small, make_module, tokenizers):
    vocab_size = len(tokenizers["embedded"])
    config = Config(
        task=MaskedLMConfig(masked_share=0.25), model=make_small(vocab_size=vocab_size).model
    )
    module, batch = make_module(config)
    found = counted(module, batch)
    guessed = int((batch.labels != -100).sum())
    assert guessed == pytest.approx(guessed_tokens(config.task, LENGTH), abs=1)
    assert found["head"] == 3 * head_flops(config, guessed / 0.25, 1, 0)


@pytest.mark.parametrize("shape", [{}, {"num_kv_heads": 2}, {"head_dim": 8}], ids=str)
def test_full_attention_is_counted_exactly(shape, make_small, make_module, make_documents):
    # the oracle's products are dense: all pairs are what a full pattern holds
    config = make_small(window=None, attention_backend="reference", **shape)
    module, batch = make_module(config)
    found = counted(module, batch, backward=False)
    flops = document_flops(config, make_documents([LENGTH]))
    everything = sum(found[name] for name in ("encoder",))
    assert everything == flops.projections + flops.mlp + flops.attention
    assert flops.attention == 2 * attention_flops(config.model, LENGTH**2)


def test_attention_counts_the_pairs_of_the_pattern(make_small, make_documents):
    documents = make_documents([30, 50], num_globals=2)
    config = make_small(window=(4, None, 4), num_layers=3)
    pairs = sum(documents.mean_pairs(Pattern(window)) for window in (4, None))
    last = absorbed_flops(config.model, 40, rows=1, pairs=40)[1]  # the first token's row
    assert document_flops(config, documents).attention == 4 * 64 * pairs + last

    mask = Pattern(4).dense_mask(*documents.packed(2))
    assert documents.mean_pairs(Pattern(4)) == mask.sum() / 2


def test_a_checkpointed_block_runs_forward_once_more(make_small, make_documents):
    config = make_small(gradient_checkpointing=True)
    forward = document_flops(config, make_documents([LENGTH]), 3)
    training = training_flops(config, forward)
    assert training.linear == 4 * forward.linear
    assert training.attention == 4 * forward.attention
    assert training.head == 3 * forward.head


def test_projections_of_their_own_cost_only_where_tokens_are_global(make_small, make_documents):
    shared = make_small()
    separate = make_small(global_projections="separate")
    nobody = Config(model=separate.model, globals=GlobalsConfig(cls=False))
    documents = make_documents([LENGTH])
    plain = document_flops(shared, documents).projections
    assert document_flops(separate, documents).projections > plain
    without = make_documents([LENGTH], num_globals=0)
    plain = document_flops(shared, without).projections
    assert document_flops(nobody, without).projections == plain
