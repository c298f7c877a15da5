"""The largest batch that fits, and the documents that it is counted for."""

from dataclasses import replace

import numpy as np
import pytest

from longspan.config import Config, DataConfig, GlobalsConfig, QAConfig
from longspan.cost import machine
from longspan.cost.budget import STEP, USABLE, largest_budget
from longspan.cost.documents import Documents, assumed_documents
from longspan.cost.memory import TrainingMemory
from longspan.errors import UserError


@pytest.fixture
def make_memory(make_small, make_documents):
    def make(max_length=512, **model):
        config = replace(
            make_small(**model), data=DataConfig(max_length=max_length, tokens_per_batch="auto")
        )
        return TrainingMemory(config, make_documents([max_length]), 10**6, 10**6, process=5e8)

    return make


@pytest.mark.parametrize("gibibytes", [1, 4, 16])
def test_it_fits_and_no_larger_one_does(gibibytes, make_memory):
    memory, available = make_memory(), gibibytes * 2**30
    budget = largest_budget(memory, available)
    assert budget % STEP == 0
    assert memory.at(budget).total <= USABLE * available < memory.at(budget + STEP).total


def test_every_smaller_batch_fits_too(make_memory):
    memory = replace(make_memory(num_layers=12), from_heap=True)
    sizes = [memory.at(tokens).total for tokens in range(STEP, 128 * STEP, STEP)]
    assert sizes == sorted(sizes)


def test_deeper_and_wider_models_get_smaller_batches(make_memory):
    budgets = [
        largest_budget(make_memory(**shape), 4 * 2**30)
        for shape in ({}, {"num_layers": 4}, {"num_layers": 4, "hidden_size": 128})
    ]
    assert budgets == sorted(budgets, reverse=True)
    assert len(set(budgets)) == 3


def test_a_document_that_does_not_fit_is_said(make_memory):
    with pytest.raises(UserError, match=r"data\.max_length=65536 tokens takes .* lower data"):
        largest_budget(make_memory(max_length=65_536), 2**29 + 2**28)


def test_a_container_has_what_it_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    physical = machine.memory_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_bytes() == physical
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert machine.memory_bytes() == 2**30
    assert 0 < machine.resident_bytes() < physical


def test_batches_are_filled_with_whole_documents():
    documents = Documents([5, 3], [np.array([0, 4]), np.array([], np.int64)])
    assert documents.filling(4).lengths == [5]  # one at least
    assert documents.filling(17).lengths == [5, 3, 5, 3]
    cu_seqlens, global_mask = documents.filling(17).packed(3)
    assert cu_seqlens.tolist() == [0, 5, 8, 13]
    assert global_mask.nonzero().squeeze(1).tolist() == [0, 4, 8, 12]
    assert documents.beginnings(2).lengths == [2, 1]
    assert [p.tolist() for p in documents.beginnings(2).positions] == [[0], []]


def test_documents_that_nobody_read_have_the_globals_of_the_policies():
    config = Config(
        data=DataConfig(max_length=20),
        globals=GlobalsConfig(first_k=2, every_k=8, question=True, separators=True),
        task=QAConfig(max_question_length=3),
    )
    documents = assumed_documents(config)
    assert not documents.are_read
    assert documents.lengths == [20]
    assert documents.positions[0].tolist() == [0, 1, 2, 3, 8, 16, 19]
