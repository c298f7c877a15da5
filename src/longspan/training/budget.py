"""What a run will take of memory and operations, and the token budget that fits where it is open."""

import logging
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from longspan.config import Config
from longspan.cost.budget import largest_budget
from longspan.cost.documents import Documents, assumed_documents
from longspan.cost.flops import document_flops, pairs_per_token, training_flops
from longspan.cost.machine import memory_bytes, resident_bytes, uses_gpu
from longspan.cost.memory import TrainingMemory
from longspan.data.features import FeatureSet
from longspan.training.adapters import adapt
from longspan.training.build import Prepared, autocast_dtype
from longspan.training.module import LongDocumentModule, Task

LOOKED_AT = 512  # documents whose lengths and global tokens stand for all
# at least so much is left to Python, libraries and data, so that ranks agree about the rest
PROCESS_BYTES = 2**30

log = logging.getLogger(__name__)


def fill_in_budget(prepared: Prepared) -> Prepared:
    """The same, with a number for `data.tokens_per_batch=auto`.

    Raises:
        UserError: not even one document fits.
    """
    config = prepared.config
    if config.data.tokens_per_batch != "auto":
        return prepared
    memory = training_memory(
        config, documents_of(prepared), *count_parameters(config, prepared.task), resident_bytes()
    )
    budget = budget_that_fits(memory)
    log.info(
        "data.tokens_per_batch=auto: %d tokens, %.1f GiB of this machine's %.1f GiB",
        budget,
        memory.at(budget).total / 2**30,
        memory_bytes(config.trainer.accelerator) / 2**30,
    )
    return replace(prepared, config=with_budget(config, budget))


def with_budget(config: Config, tokens: int) -> Config:
    return replace(config, data=replace(config.data, tokens_per_batch=tokens))


def budget_that_fits(memory: TrainingMemory) -> int:
    """The largest `data.tokens_per_batch` on this machine (`largest_budget`)."""
    trainer = memory.config.trainer
    available = memory_bytes(trainer.accelerator)
    if memory.on_gpu:
        return largest_budget(memory, available)
    if isinstance(trainer.devices, int):
        available //= max(1, trainer.devices)  # ranks on one machine share its memory
    return largest_budget(replace(memory, process=max(memory.process, PROCESS_BYTES)), available)


def predicted(prepared: Prepared, parameters: int, trained: int, process: int) -> dict[str, Any]:
    """For the report, beside what will be measured.

    Args:
        prepared: with its token budget.
        parameters, trained: of the model; those that the optimiser moves.
        process: bytes that this process held before the model was built.
    """
    config, documents = prepared.config, documents_of(prepared)
    largest = config.data.token_budget
    if prepared.stream is None:
        largest = min(largest, sum(prepared.splits["train"].lengths))
    memory = training_memory(config, documents, parameters, trained, process).at(largest)
    forward = document_flops(config, documents, len(prepared.task.labels))
    training = training_flops(config, forward)
    return {
        "peak_memory_bytes": round(memory.total),
        "memory_bytes": {kind: round(size) for kind, size in asdict(memory).items()},
        "tokens_per_batch": config.data.token_budget,
        "pairs_per_token": pairs_per_token(config, documents),
        "flops_per_token": forward.total / documents.mean_length,
        "training_flops_per_token": training.total / documents.mean_length,
    }


def training_memory(
    config: Config, documents: Documents, parameters: int, trained: int, process: int
) -> TrainingMemory:
    """On the device and in the precision that the run will have."""
    on_gpu = uses_gpu(config.trainer.accelerator)
    return TrainingMemory(
        config,
        documents,
        parameters,
        trained,
        autocast=autocast_dtype(config),
        on_gpu=on_gpu,
        process=0 if on_gpu else process,
        from_heap=not on_gpu and sys.platform == "linux",
    )


def count_parameters(config: Config, task: Task) -> tuple[int, int]:
    """Of the whole model, and of what trains, without making it."""
    with torch.device("meta"):  # shapes without values
        module = LongDocumentModule(config, task)
        adapt(module, announce=False)
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)


def documents_of(prepared: Prepared) -> Documents:
    """Training documents, evenly spaced over the split; assumed ones where it is a stream."""
    if prepared.stream is not None:
        return assumed_documents(prepared.config)
    documents = sample_documents(prepared.splits["train"])
    return documents.with_edges(prepared.config.model.pattern)


def sample_documents(features: FeatureSet, count: int = LOOKED_AT) -> Documents:
    """Lengths and global tokens of some documents, evenly spaced over a split."""
    rows = np.unique(np.linspace(0, len(features) - 1, count).astype(int))
    cells = features.table.select_columns(["global_positions"])[rows]["global_positions"]
    lengths = [features.lengths[row] for row in rows]
    return Documents(lengths, [np.asarray(cell, np.int64) for cell in cells])
