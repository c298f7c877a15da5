"""From a config to the objects of a run: tokenizer, task, features, trainer."""

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers.logger import DummyLogger

from longspan.config import ClassificationConfig, Config, MaskedLMConfig, TrainerConfig
from longspan.config.training import OUR_OWN
from longspan.cost.heap import bound_primitive_cache, keep_pages
from longspan.cost.machine import uses_gpu
from longspan.data.features import FeatureSet, encode_split
from longspan.data.rows import check_columns, label_cells, warn_about_shared_texts
from longspan.data.sources import load_splits
from longspan.data.stream_sources import load_stream
from longspan.data.streaming import TrainingStream
from longspan.data.task import Draw
from longspan.errors import UserError
from longspan.globals import globals_cost, warn_if_many
from longspan.known_tasks import has_classes, new_task, report_losses, task_cells, task_columns
from longspan.model.backend import training_refusal
from longspan.pretrained.tokenizer import (
    PreTrainedTokenizerFast,
    document_encoder,
    give_token_types,
    load_tokenizer,
    vocabulary_size,
)
from longspan.tasks.qa import QuestionAnswering
from longspan.training.module import Task
from longspan.training.optim import bf16_in_hardware

GLOBALS_SAMPLE = 512  # documents that the cost of the global tokens is measured on

EMBEDDED_TOKENIZER = "embedded:sotu"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """All that training needs beside weights.

    Attributes:
        config: the run's, with what only the data tells filled in.
        task: with its labels.
        tokenizer: as loaded.
        splits: features of train, dev and test.
        stream: train, where it is not among the splits.
        train_rows: documents of train, before any is left out for a sample; 0 of a stream.
        facts: what the report says about the data.
    """

    config: Config
    task: Task
    tokenizer: PreTrainedTokenizerFast
    splits: dict[str, FeatureSet]
    stream: TrainingStream | None
    train_rows: int
    facts: dict[str, Any]


def prepare(config: Config, sample: int | None = None) -> Prepared:
    """Load, check and tokenise the data.

    Args:
        config: the run.
        sample: documents of train that are drawn for a look at them, and no other split;
            None = everything, for a run.
    """
    tokenizer = load_tokenizer(config.data.tokenizer or EMBEDDED_TOKENIZER)
    config = complete(config, vocabulary_size(tokenizer))
    give_token_types(tokenizer, config.model)
    encoder = document_encoder(config, tokenizer)
    rows = None
    if config.data.streaming:
        rows, tables = load_stream(config.data)
    else:
        tables = load_splits(config.data, stratify=has_classes(config.task))
    labelled = not isinstance(config.task, MaskedLMConfig)
    columns = {
        split: task_columns(config.task, config.data, table.column_names)
        for split, table in tables.items()
    }
    for split, table in tables.items():
        check_columns(table, split, columns[split], config.globals, labelled)
    has_names = isinstance(config.task, ClassificationConfig)
    cells, names = (
        label_cells(tables["train"], config.data.label_column) if has_names else ([], None)
    )
    task = new_task(config, cells, names, tokenizer)
    train_rows = 0 if rows is not None else len(tables["train"])
    if sample is not None:
        train = tables["train"]
        tables = {"train": train.shuffle(seed=0).select(range(min(sample, len(train))))}
    splits = {
        split: encode_split(
            table,
            split,
            data=columns[split],
            policies=config.globals,
            encoder=encoder,
            task=task,
            labelled=labelled,
            cells=task_cells(config.task, config.data, table.column_names),
        )
        for split, table in tables.items()
    }
    stream = None if rows is None else TrainingStream(rows, encoder, task)
    if stream is not None:
        stream.check(config)
    return Prepared(config, task, tokenizer, splits, stream, train_rows, _facts(config, splits))


def complete(config: Config, vocab_size: int) -> Config:
    """Fill in what the tokenizer and the data decide."""
    model = config.model
    if model.vocab_size is not None and model.vocab_size < vocab_size:
        raise UserError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {vocab_size}; "
            "set it to null"
        )
    max_positions = model.max_positions
    if model.positions == "learned" and max_positions is None:
        max_positions = config.data.max_length
    model = replace(model, vocab_size=model.vocab_size or vocab_size, max_positions=max_positions)
    return replace(config, model=model)


def draw_of(task: Task) -> Draw | None:
    """What the task draws anew for every epoch of its training features; None = it reads all."""
    if isinstance(task, QuestionAnswering) and task.config.negative_slices is not None:
        return task.draw
    return None


def build_trainer(config: Config, **arguments: Any) -> L.Trainer:
    """Lightning's Trainer: `trainer.*` as the user set it, and what the run itself decides.

    Args:
        config: the run.
        **arguments: of the Trainer; they win over the config.
    """
    if config.trainer.precision == "auto":
        log.info("trainer.precision=auto: %s", precision(config))
    if not uses_gpu(config.trainer.accelerator):
        keep_pages()
        bound_primitive_cache()
    return _trainer(config, **arguments)


def check_trainer(config: Config) -> None:
    """Whether Lightning takes `trainer.*`, before anything is loaded.

    Raises:
        UserError: it does not.
    """
    error = _refusal(config)
    if error is None:
        return
    default = TrainerConfig()
    changed = {
        name: value for name, value in vars(config.trainer).items() if value != vars(default)[name]
    }
    # the fields without which it would be taken; all where no single one is to blame
    guilty = [
        name
        for name in changed
        if _refusal(replace(config, trainer=replace(config.trainer, **{name: vars(default)[name]})))
        is None
    ]
    given = ", ".join(f"trainer.{name}={changed[name]}" for name in guilty or changed)
    reason = " ".join(str(error).split()).rstrip(".")
    raise UserError(f"{given}: Lightning does not take that ({reason}); change it") from error


@contextmanager
def misconfigurations(config: Config) -> Iterator[None]:
    """What Lightning finds wrong with `trainer.*` only as it meets the data, as a `UserError`."""
    try:
        yield
    except MisconfigurationException as error:
        default = vars(TrainerConfig())
        given = ", ".join(
            f"trainer.{name}={value}"
            for name, value in vars(config.trainer).items()
            if value != default[name] and ("batches" in name or "val" in name)
        )
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{given or 'trainer'}: Lightning does not take that ({reason}); change it"
        ) from error


def _refusal(config: Config) -> Exception | None:
    """What Lightning has against `trainer.*`."""
    try:
        _trainer(config, logger=DummyLogger())
    except (
        MisconfigurationException,
        ValueError,
        TypeError,
        OverflowError,
        ImportError,
    ) as error:
        return error
    return None


def check_attention(config: Config) -> None:
    """Whether the attention backend that is asked for by name can train this, before it does.

    Raises:
        UserError: it cannot.
    """
    device = "cuda" if uses_gpu(config.trainer.accelerator) else "cpu"
    reason = training_refusal(config.model, autocast_dtype(config) or torch.float32, device)
    if reason is not None:
        raise UserError(
            f"model.attention_backend={config.model.attention_backend} cannot train this: {reason}; "
            "or set it to auto"
        )


def _trainer(config: Config, **arguments: Any) -> L.Trainer:
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config.trainer).items()
        if name not in OUR_OWN
    }
    given["precision"] = precision(config)
    if config.data.streaming and config.trainer.val_check_interval is None:
        # nobody waits for the end of a stream to see how it goes: ten times in all
        batches = config.trainer.max_steps * config.trainer.accumulate_grad_batches
        given |= {"val_check_interval": max(1, batches // 10), "check_val_every_n_epoch": None}
    known = inspect.signature(L.Trainer).parameters
    default = asdict(TrainerConfig())
    # a field that this release of Lightning does not know may stay at its default only
    given = {name: v for name, v in given.items() if name in known or v != default[name]}
    decided = {
        "use_distributed_sampler": False,  # our batches are dealt to the ranks already
        "reload_dataloaders_every_n_epochs": 1,  # every epoch is packed anew
        "max_steps": -1,  # StepLimit ends the training
    }
    return L.Trainer(**given | decided | arguments)


def precision(config: Config) -> Any:
    wanted = config.trainer.precision
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if bf16_in_hardware(config.trainer.accelerator) else "32-true"


def autocast_dtype(config: Config) -> torch.dtype | None:
    """Type of matrix products in training; None = float32."""
    wanted = str(precision(config))
    if wanted.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if wanted.startswith("16") else None


def _facts(config: Config, splits: dict[str, FeatureSet]) -> dict[str, Any]:
    """Log, and keep for the report, what the data looks like to the model."""
    facts: dict[str, Any] = {name: s.report_truncation() for name, s in splits.items()}
    facts = {name: told | report_losses(config.task, name, told) for name, told in facts.items()}
    sample = splits.get("train", splits.get("dev"))
    if sample is None:  # a stream with nothing held out: nothing is known before it is read
        return facts
    positions = sample.global_positions(GLOBALS_SAMPLE)
    lengths = sample.lengths[: len(positions)]
    cost = globals_cost(lengths, positions, config.model.layer_patterns)
    log.info("%s", cost)
    warn_if_many(cost, config.model.layer_patterns)
    digests = {name: s.text_digests() for name, s in splits.items()}
    shared = warn_about_shared_texts(digests)
    return facts | {"globals": asdict(cost), "texts_shared_with_train": shared}
