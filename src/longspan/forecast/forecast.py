"""Cells to what they cost: operations, memory, time and the largest batch, before any training."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from longspan.compose.cells import Cell
from longspan.config import Config
from longspan.cost.documents import Documents
from longspan.cost.flops import Flops, document_flops, training_flops
from longspan.cost.machine import resident_bytes
from longspan.cost.memory import Memory
from longspan.data.batching import training_batches
from longspan.errors import UserError
from longspan.forecast.calibration import Rates, calibrate, calibrated, measurements, shape_of
from longspan.forecast.sample import Sample, read_samples
from longspan.forecast.steps import Stopwatch, device_of
from longspan.training.budget import budget_that_fits, count_parameters, training_memory
from longspan.training.build import autocast_dtype

MOST_DOCUMENTS = 4096  # that batches are packed of for a look; more are the same again

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batches:
    """How an epoch is packed.

    Attributes:
        budget: tokens a batch may hold.
        mean, largest: tokens of a batch.
        number: of an epoch; None where nobody knows how many documents there are.
    """

    budget: int
    mean: float
    largest: int
    number: float | None


@dataclass(frozen=True)
class Forecast:
    """What one cell costs.

    Attributes:
        name: of what varies in the sweep.
        parameters, trained: of the model; what the optimiser moves.
        documents: that it was counted for.
        forward: operations of the mean document.
        training: likewise, forward and backward.
        batches: how an epoch is packed.
        memory: at the peak of the largest batch's training step.
        largest_budget: `data.tokens_per_batch` that fits; None where not even one document does.
        seconds: of the mean batch, by what they are spent on; None without calibration.
        total_seconds: of all training steps; None where their number or a step's time is unknown.
    """

    name: str
    parameters: int
    trained: int
    documents: Documents
    forward: Flops
    training: Flops
    batches: Batches
    memory: Memory
    largest_budget: int | None
    seconds: dict[str, float] | None
    total_seconds: float | None

    @property
    def step_seconds(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.step_seconds is None else self.batches.mean / self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "cell": self.name,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "documents": {
                "read": len(self.documents) if self.documents.are_read else 0,
                "mean_tokens": self.documents.mean_length,
                "mean_global_tokens": self.documents.mean_globals,
            },
            "flops_per_document": _with_total(self.forward),
            "training_flops_per_document": _with_total(self.training),
            "batches": asdict(self.batches),
            "memory_bytes": _with_total(self.memory),
            "largest_tokens_per_batch": self.largest_budget,
            "seconds_per_step": self.seconds and self.seconds | {"total": self.step_seconds},
            "tokens_per_second": self.tokens_per_second,
            "training_seconds": self.total_seconds,
        }


def forecast(
    cells: Sequence[Cell], count: int | None = None, seconds: float = 20.0
) -> tuple[list[Forecast], list[Rates]]:
    """What the cells cost, and what was measured to tell their time.

    Args:
        cells: of `compose_cells`.
        count: documents to read (`read_sample`).
        seconds: of the calibration, all in all; 0 = none, and no times.

    Raises:
        UserError: data that cannot be read.
    """
    samples = read_samples([cell.config for cell in cells], count)
    process = resident_bytes()  # about as much as a training will hold before its model
    rows = [
        (sample, _without_time(cell.name, sample, process))
        for cell, sample in zip(cells, samples, strict=True)
    ]
    rates = _calibrate(rows, seconds) if seconds else {}
    return [_with_time(sample, row, rates) for sample, row in rows], list(rates.values())


def _without_time(name: str, sample: Sample, process: int) -> Forecast:
    config = sample.config
    parameters, trained = count_parameters(config, sample.task)
    forward = document_flops(config, sample.documents, len(sample.task.labels))
    memory = training_memory(config, sample.documents, parameters, trained, process)
    try:
        largest = budget_that_fits(memory)
    except UserError as error:
        log.warning("%s: %s", name or "this configuration", error)
        largest = None
    budget = config.data.tokens_per_batch
    if budget == "auto":
        budget = largest or config.data.max_length
    batches = _batches(sample, budget)
    return Forecast(
        name=name,
        parameters=parameters,
        trained=trained,
        documents=sample.documents,
        forward=forward,
        training=training_flops(config, forward),
        batches=batches,
        memory=memory.at(batches.largest),
        largest_budget=largest,
        seconds=None,
        total_seconds=None,
    )


def _batches(sample: Sample, budget: int) -> Batches:
    """Pack as training will, documents like those of the sample."""
    lengths = list(sample.documents.lengths)
    total = sample.total
    wanted = min(total or max(1, budget // lengths[0]), MOST_DOCUMENTS)
    lengths = (lengths * (wanted // len(lengths) + 1))[:wanted]
    (specs,) = training_batches(lengths, budget=budget, seed=sample.config.seed, epoch=0)
    tokens = [sum(lengths[row] for row in spec.rows) for spec in specs]
    number = None if total is None else len(specs) * total / wanted
    return Batches(budget, sum(tokens) / len(tokens), max(tokens), number)


def _calibrate(rows: Sequence[tuple[Sample, Forecast]], seconds: float) -> dict[str, Rates]:
    """Rates of each shape that occurs, in equal shares of the time."""
    groups: dict[str, list[tuple[Sample, Forecast]]] = {}
    for sample, row in rows:
        groups.setdefault(_shape_key(sample.config), []).append((sample, row))
    rates = {}
    for key, group in groups.items():
        sample, _ = group[0]
        patterns = {p for other, _ in group for p in calibrated(other.config.model)}
        share = seconds / len(groups) / measurements(patterns)
        watch = Stopwatch(share, device_of(sample.config), autocast_dtype(sample.config))
        tokens = round(max(row.batches.mean for _, row in group))
        shape = shape_of(sample.config)
        rates[key] = calibrate(shape, sample.task, sample.documents, patterns, tokens, watch)
    return rates


def _with_time(sample: Sample, row: Forecast, rates: dict[str, Rates]) -> Forecast:
    config = sample.config
    measured = rates.get(_shape_key(config))
    if measured is None:
        return row
    seconds = measured.step_seconds(config, sample.documents, row.batches.mean, row.trained)
    batches = row.batches.number and row.batches.number * config.trainer.max_epochs
    if config.trainer.max_steps > 0:
        steps = config.trainer.max_steps * config.trainer.accumulate_grad_batches
        batches = min(steps, batches or steps)
    total = None if batches is None else batches * sum(seconds.values())
    return replace(row, seconds=seconds, total_seconds=total)


def _shape_key(config: Config) -> str:
    data = replace(config.data, tokens_per_batch=config.data.max_length)
    trainer = replace(config.trainer, max_epochs=1, max_steps=-1)
    return repr(replace(shape_of(config), name="any", seed=0, data=data, trainer=trainer))


def _with_total(parts: Any) -> dict[str, float]:
    return asdict(parts) | {"total": parts.total}
