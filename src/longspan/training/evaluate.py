"""A run folder's model on a split of its own data or of other data with the same columns."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from longspan.checkpoint import read_model
from longspan.config import (
    Config,
    DataConfig,
    EvalConfig,
    MaskedLMConfig,
    ModelConfig,
    QAConfig,
)
from longspan.data.datamodule import DocumentData
from longspan.data.features import FeatureSet, encode_split
from longspan.data.rows import class_names
from longspan.data.sources import load_other, load_split
from longspan.data.stream_sources import load_stream
from longspan.errors import UserError
from longspan.known_tasks import has_classes, known_task, task_columns
from longspan.pretrained.tokenizer import document_encoder, load_tokenizer
from longspan.tasks.qa import report_losses
from longspan.training import report
from longspan.training.build import build_trainer
from longspan.training.module import LongDocumentModule, Task
from longspan.training.run_folder import RunFolder, folder_name
from longspan.typed import from_dict, to_dict

log = logging.getLogger(__name__)


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Rebuild the model from its run folder, evaluate it, write predictions beside it.

    Returns:
        `split`, `metrics` and `by_length`.

    Raises:
        UserError: no finished run, no such split, data that does not fit.
    """
    folder = RunFolder(Path(config.run))
    if not folder.config_file.is_file():
        raise UserError(f"run={config.run} holds no run; give a folder that train.py printed")
    if not folder.model.is_dir():
        raise UserError(f"run={config.run} has no model yet; let its training finish first")
    trained, labels, state = read_model(folder.model)
    # the whole split, in this process, whatever the training ran on
    whole = replace(
        trained.trainer,
        accelerator="auto",
        strategy="auto",
        devices=1,
        num_nodes=1,
        limit_test_batches=None,
        fast_dev_run=False,
        overfit_batches=0.0,
    )
    model = _other_window(trained.model, config.model.window)
    data = _other_data(trained.data, config.data)
    wanted = replace(trained, model=model, data=data, trainer=whole)
    features, task = _features(
        wanted, labels, config.split, folder.model, _table(wanted, config.split, config.data)
    )
    module = LongDocumentModule(wanted, task)
    module.load_state_dict(state)
    documents = DocumentData(wanted, {config.split: features}, task)
    trainer = build_trainer(wanted, logger=False, callbacks=[], enable_checkpointing=False)
    documents.trainer = trainer
    trainer.test(module, dataloaders=documents.evaluation_loader(config.split), verbose=False)
    summary = {
        "split": config.split,
        "metrics": task.metrics(module.predictions),
        "by_length": report.by_length(task, module.predictions),
    }
    name = config.output or _name(config)
    file = folder.write_predictions(name, module.predictions)
    if config.model.window != "keep" and not _given(config.data):
        folder.write_evaluation(_name(config), summary | {"window": model.window})
    report.show(summary, folder.path)
    log.info("predictions: %s", file)
    return summary


def _other_window(trained: ModelConfig, window: Any) -> ModelConfig:
    """The model with the window that the user gave."""
    return trained if window == "keep" else replace(trained, window=window)


def _name(config: EvalConfig) -> str:
    """Of the files: `test`, or `test-window=64` where the window is another."""
    window = config.model.window
    if window == "keep":
        return config.split
    return f"{config.split}-{folder_name(['window=' + json.dumps(window)])}"


def _table(config: Config, split: str, given: dict[str, Any]) -> Any:
    """The rows of the split: of the run's own data, or of what was given in its place."""
    if _given(given).keys() & {"path", "files"}:
        return load_other(config.data, split)
    if not config.data.streaming:
        return load_split(config.data, split, stratify=has_classes(config.task))
    _, held_out = load_stream(config.data)
    if split not in held_out:
        raise UserError(f"split={split} is not there; a stream holds out {', '.join(held_out)}")
    return held_out[split]


def _features(
    config: Config, labels: list[str], split: str, model_folder: Path, table: Any
) -> tuple[FeatureSet, Task]:
    """The split as the model reads it, with the labels that the model knows."""
    tokenizer = load_tokenizer(str(model_folder))
    data = config.data
    if data.id_column not in (None, *table.column_names):
        log.info("no column %s here: documents are named by their row", data.id_column)
        data = replace(data, id_column=None)
    data = task_columns(config.task, data, table.column_names)
    column = data.label_column
    task = known_task(config, labels, class_names(table, column), tokenizer)
    features = encode_split(
        table,
        split,
        data=data,
        policies=config.globals,
        encoder=document_encoder(config, tokenizer),
        task=task,
        labelled=not isinstance(config.task, MaskedLMConfig) and column in table.column_names,
    )
    facts = features.report_truncation()
    if isinstance(config.task, QAConfig):
        report_losses(f"{split} of this evaluation", facts)
    return features, task


def _other_data(trained: DataConfig, given: dict[str, Any]) -> DataConfig:
    """The run's data config with what the user gave; a new place replaces the old one."""
    changes = _given(given)
    if "splits" in changes:
        changes["splits"] = trained.splits | changes["splits"]
    if "path" in changes or "files" in changes:
        changes = {"files": None, "split_column": None, "name": None} | changes
    return from_dict(DataConfig, to_dict(trained) | changes, "data")


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, inside mappings too."""
    inner = {k: _given(v) if isinstance(v, dict) else v for k, v in fields.items()}
    return {name: value for name, value in inner.items() if value not in (None, {})}
