"""A run folder's model on a split of its own data or of other data with the same columns."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longspan.checkpoint import fill, read_model
from longspan.config import (
    Config,
    DataConfig,
    EvalConfig,
    MaskedLMConfig,
    ModelConfig,
    QAConfig,
    TrainerConfig,
)
from longspan.data.datamodule import DocumentData
from longspan.data.features import FeatureSet, encode_split, raw_documents
from longspan.data.rows import class_names, row_ids
from longspan.data.sources import load_other, load_split
from longspan.data.stream_sources import load_stream
from longspan.errors import UserError
from longspan.known_tasks import has_classes, known_task, report_losses, task_cells, task_columns
from longspan.pretrained.tokenizer import document_encoder, load_tokenizer
from longspan.tasks.qa_answers import gold_answers
from longspan.training import report
from longspan.training.answer_page import ShownAnswer, answer_page, worst_first
from longspan.training.build import build_trainer
from longspan.training.module import LongDocumentModule, Task
from longspan.training.official import official_format
from longspan.training.run_folder import RunFolder, folder_name
from longspan.typed import from_dict, to_dict, typed_fields

log = logging.getLogger(__name__)


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Rebuild the model from its run folder, evaluate it, write predictions beside it.

    Returns:
        `split` and the figures of `report.breakdown`.

    Raises:
        UserError: no finished run, no such split, data that does not fit.
    """
    folder = RunFolder(Path(config.run))
    if not folder.config_file.is_file():
        raise UserError(f"run={config.run} holds no run; give a folder that train.py printed")
    if not folder.model.is_dir():
        raise UserError(f"run={config.run} has no model yet; let its training finish first")
    trained, labels, state = read_model(folder.model)
    official = official_format(config, trained.task)
    wanted = replace(
        trained,
        model=_other_window(trained.model, config.model.window),
        data=_other_data(trained.data, config.data),
        trainer=_whole_and_here(trained.trainer),
    )
    table = _table(wanted, config.split, config.data)
    columns = _columns(wanted, table)
    if official is not None and columns.id_column is None:
        raise UserError(
            f"format={config.format} needs the names that the data set gives its rows; set "
            "data.id_column"
        )
    features, task = _features(wanted, columns, labels, config.split, folder.model, table)
    with torch.device("meta"):  # shapes without values
        module = LongDocumentModule(wanted, task)
    fill(module, state, folder.model)
    data = DocumentData(wanted, {config.split: features}, task)
    trainer = build_trainer(wanted, logger=False, callbacks=[], enable_checkpointing=False)
    data.trainer = trainer
    trainer.test(module, dataloaders=data.evaluation_loader(config.split), verbose=False)
    summary: dict[str, Any] = {"split": config.split} | report.breakdown(task, module.predictions)
    name = config.output or _name(config)
    written = {"predictions": folder.write_predictions(name, module.predictions)}
    if official is not None:
        files = official.files(module.predictions)
        written[f"for {config.format}'s scorer"] = folder.write_official(
            f"{name}.{config.format}", files
        )
    if config.page and isinstance(wanted.task, QAConfig):
        shown = _worst(config, wanted, columns, table, module.predictions)
        title = f"{config.run}: {config.split}"
        page = answer_page(title, summary["metrics"], shown, len(module.predictions))
        written["page"] = folder.write_page(name, page)
    if config.model.window != "keep" and not _given(config.data):
        folder.write_evaluation(_name(config), summary | {"window": wanted.model.window})
    report.show(summary, folder.path)
    for what, file in written.items():
        log.info("%s: %s", what, file)
    return summary


def _whole_and_here(trainer: TrainerConfig) -> TrainerConfig:
    """For the whole split, in this process, whatever the training ran on or loaded beside it."""
    return replace(
        trainer,
        accelerator="auto",
        strategy="auto",
        devices=1,
        num_nodes=1,
        limit_test_batches=None,
        fast_dev_run=False,
        overfit_batches=0.0,
        plugins=None,
        profiler=None,
        model_registry=None,
    )


def _other_window(trained: ModelConfig, window: Any) -> ModelConfig:
    """The model with the window that the user gave."""
    return trained if window == "keep" else replace(trained, window=window)


def _name(config: EvalConfig) -> str:
    """Of the files: `test`; `test-window=64` where the window is another, `test-of-more` for more.csv.

    So the predictions of the run itself are never written over.
    """
    given, window = _given(config.data), config.model.window
    sources = [given["path"]] if "path" in given else list(given.get("files", {}).values())
    parts = [config.split, *(f"of-{folder_name([Path(s).stem])}" for s in sources[:1])]
    if window != "keep":
        parts.append(folder_name(["window=" + json.dumps(window)]))
    return "-".join(parts)


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


def _columns(config: Config, table: Any) -> DataConfig:
    """Where this table has what the task reads."""
    data = config.data
    if data.id_column not in (None, *table.column_names):
        log.info("no column %s here: documents are named by their row", data.id_column)
        data = replace(data, id_column=None)
    return task_columns(config.task, data, table.column_names)


def _worst(
    config: EvalConfig, run: Config, columns: DataConfig, table: Any, predictions: Sequence[Any]
) -> list[ShownAnswer]:
    """The worst predictions beside their documents, which are read once more."""
    split = config.split
    place = {name: row for row, name in enumerate(row_ids(table, split, columns))}
    assert isinstance(run.task, QAConfig), "other answers have no page"
    worst = worst_first(predictions, run.task.scoring)[: config.page]
    places = [place[prediction.id] for prediction in worst]
    labelled = columns.label_column in table.column_names
    documents = raw_documents(table[places], places, split, columns, run.globals, labelled)
    return [
        ShownAnswer(
            prediction,
            d.text,
            gold_answers(d.label, d.text, d.where or "").spans,
            run.task.scoring,
        )
        for prediction, d in zip(worst, documents, strict=True)
    ]


def _features(
    config: Config,
    columns: DataConfig,
    labels: list[str],
    split: str,
    model_folder: Path,
    table: Any,
) -> tuple[FeatureSet, Task]:
    """The split as the model reads it, with the labels that the model knows."""
    tokenizer = load_tokenizer(str(model_folder))
    column = columns.label_column
    task = known_task(config, labels, class_names(table, column), tokenizer)
    features = encode_split(
        table,
        split,
        data=columns,
        policies=config.globals,
        encoder=document_encoder(config, tokenizer),
        task=task,
        labelled=not isinstance(config.task, MaskedLMConfig) and column in table.column_names,
        cells=task_cells(config.task, columns, table.column_names),
    )
    report_losses(config.task, f"{split} of this evaluation", features.report_truncation())
    return features, task


def _other_data(trained: DataConfig, given: dict[str, Any]) -> DataConfig:
    """The run's data config with what the user gave; a new place replaces the old one."""
    changes = _given(given)
    typed_fields(DataConfig, changes, "data")
    if "splits" in changes:
        changes["splits"] = trained.splits | changes["splits"]
    if "path" in changes or "files" in changes:
        replaced = ("files", "name", "revision", "format", "split_column")
        changes = dict.fromkeys(replaced) | changes
    data = from_dict(DataConfig, to_dict(trained) | changes, "data")
    if data.tokens_per_batch == "auto":
        raise UserError(
            "data.tokens_per_batch=auto is decided by training; give a number, or drop it to take "
            "the run's"
        )
    return data


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, inside mappings too."""
    inner = {k: _given(v) if isinstance(v, dict) else v for k, v in fields.items()}
    return {name: value for name, value in inner.items() if value not in (None, {})}
