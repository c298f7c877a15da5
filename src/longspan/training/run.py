"""A run, from config to run folder."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from longspan.checkpoint import save_model
from longspan.config import Config
from longspan.cost.machine import resident_bytes
from longspan.data.datamodule import DocumentData
from longspan.errors import UserError
from longspan.pretrained.load import load_encoder, load_head
from longspan.training import report
from longspan.training.adapters import adapt, check_adapters, merged_state
from longspan.training.bad_step_files import BadStepFiles
from longspan.training.bad_steps import BadSteps
from longspan.training.budget import documents_of, fill_in_budget, predicted
from longspan.training.build import (
    Prepared,
    build_trainer,
    check_attention,
    check_trainer,
    draw_of,
    misconfigurations,
    prepare,
)
from longspan.training.callbacks import (
    InterruptionNotice,
    StepLimit,
    Throughput,
    forget_peak_memory,
    peak_memory_bytes,
)
from longspan.training.capacity import check_capacity
from longspan.training.figures import draw_figures
from longspan.training.memory_guard import MemoryGuard
from longspan.training.module import CalibratedTask, LongDocumentModule
from longspan.training.run_folder import RunFolder, folder_of
from longspan.training.tracking import MetricsFile, build_loggers
from longspan.training.wandb_logger import DetachedWandbLogger
from longspan.typed import to_dict

log = logging.getLogger(__name__)


def train(config: Config) -> dict[str, Any]:
    """Train, evaluate, and leave everything in the run folder.

    The same config finds its own folder: a finished run is not repeated, a broken one goes on
    from its last checkpoint.

    Returns:
        the report, as in report.json.

    Raises:
        UserError: what the user can mend; the folder is untouched or holds a resumable run.
    """
    folder = folder_of(config)
    folder.check_free(config)
    config = folder.with_its_budget(config)
    if folder.is_finished and not config.overwrite:
        finished = report.show_again(folder)
        log.info("this run was finished before; overwrite=true does it again")
        return finished
    check_capacity(config)
    check_trainer(config)
    check_attention(config)
    check_adapters(config)
    started = time.perf_counter()
    forget_peak_memory()
    L.seed_everything(config.seed, workers=True, verbose=False)
    prepared = fill_in_budget(prepare(config))
    config = replace(config, data=prepared.config.data)
    if config.checkpoint.patience is not None and "dev" not in prepared.splits:
        raise UserError(
            f"checkpoint.patience={config.checkpoint.patience} needs a dev split; drop it"
        )
    check_capacity(config)  # once more, with the tokenizer's vocabulary
    process = resident_bytes()  # without the model
    module = _new_module(prepared)
    # from here on nothing is left that the user could have to mend: a folder is made, or emptied
    if rank_zero_only.rank == 0:
        folder.prepare(config)
    with misconfigurations(config):
        return _train(prepared, module, folder, started, process)


def _new_module(prepared: Prepared) -> LongDocumentModule:
    """Encoder and head, pretrained where the config says so; the schedule's length comes later."""
    config = prepared.config
    module = LongDocumentModule(config, prepared.task)
    if config.model.pretrained is not None:
        load_encoder(module.encoder)
        load_head(module.head, config.task.name, config.model.pretrained)
    adapt(module)
    return module


def _train(
    prepared: Prepared, module: LongDocumentModule, folder: RunFolder, started: float, process: int
) -> dict[str, Any]:
    config, task = prepared.config, prepared.task
    data = DocumentData(config, prepared.splits, task, prepared.stream, draw_of(task))
    packing = data.report_packing()
    loggers = build_loggers(
        config.logger,
        folder.path,
        run_id=f"{config.experiment}-{config.name}",
        group=config.logger.group or config.experiment,
        hparams=to_dict(config),
    )
    throughput = Throughput()
    bad_steps = BadSteps(
        config.trainer.max_bad_steps, BadStepFiles(folder.path, prepared.tokenizer)
    )
    memory_guard = MemoryGuard(config, documents_of(prepared))
    notice = InterruptionNotice(folder.last_checkpoint)
    callbacks = [throughput, bad_steps, memory_guard, notice]
    if config.trainer.max_steps > 0:
        callbacks.append(StepLimit(config.trainer.max_steps))
    callbacks += _checkpointing(config, folder, task.monitor, "dev" in prepared.splits)
    arguments = {"logger": loggers, "callbacks": callbacks, "default_root_dir": folder.path}
    if "dev" not in prepared.splits:
        arguments["limit_val_batches"] = 0
    trainer = build_trainer(config, **arguments)
    module.num_steps = data.num_steps(trainer.world_size)
    parameters = sum(weight.numel() for weight in merged_state(module).values())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    forecast = predicted(prepared, parameters, trained, process)
    _fit(trainer, module, data, folder)
    facts = {
        "tokens_per_second": throughput.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": time.perf_counter() - started,
        "parameters": parameters,
        "trained_parameters": trained,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "packing_efficiency": packing,
        **bad_steps.facts(),
        "split_batches": memory_guard.split_batches,
        "data": prepared.facts,
        "predicted": forecast,
    }
    return _finish(trainer, module, data, prepared, folder, loggers, facts)


def _fit(
    trainer: L.Trainer, module: LongDocumentModule, data: DocumentData, folder: RunFolder
) -> None:
    """Train from the last checkpoint, if there is one, and take the best weights."""
    resume = folder.last_checkpoint if folder.last_checkpoint.is_file() else None
    step = 0 if resume is None else _step_of(resume)
    if resume is not None:
        log.info("resuming from %s, step %d", resume, step)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):  # what was recorded after it will be recorded again
            logger.discard_from(step)
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    if folder.best_checkpoint.is_file():
        best = torch.load(folder.best_checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])


def _step_of(checkpoint: Path) -> int:
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)[
            "global_step"
        ]
    except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError) as error:
        raise UserError(
            f"{checkpoint} cannot be read ({error}); remove it to start this run anew"
        ) from error


def _finish(
    trainer: L.Trainer,
    module: LongDocumentModule,
    data: DocumentData,
    prepared: Prepared,
    folder: RunFolder,
    loggers: list[Logger],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate on test, write model, predictions, figures and, last of all, the report."""
    split = "test" if "test" in prepared.splits else "dev" if "dev" in prepared.splits else None
    summary: dict[str, Any] = {"split": split, **facts}
    config = _calibrated(trainer, module, data, prepared)
    if module.calibration:
        summary["calibration"] = module.calibration
    if split is not None:
        evaluate = trainer.test if split == "test" else trainer.validate
        evaluate(module, dataloaders=data.evaluation_loader(split), verbose=False)
        summary["monitor"] = list(module.task.monitor)  # the metric that counts; min or max
        summary |= report.breakdown(module.task, module.predictions)
    if trainer.is_global_zero:
        save_model(
            folder.model,
            merged_state(module),
            config,
            prepared.task.labels,
            prepared.tokenizer,
        )
        if split is not None:
            folder.write_predictions(split, module.predictions)
            _log_figures(loggers, draw_figures(module.task, module.predictions, folder.figures))
        folder.write_report(summary)
        report.show(summary, folder.path)
    for logger in loggers:
        if isinstance(logger, DetachedWandbLogger):
            logger.close()
    return summary


def _calibrated(
    trainer: L.Trainer, module: LongDocumentModule, data: DocumentData, prepared: Prepared
) -> Config:
    """The config of the model that is saved, with what its task fits to dev in place of "auto"."""
    config, task = prepared.config, module.task
    if not isinstance(task, CalibratedTask) or not task.is_calibrated_on_dev:
        return config
    if "dev" in prepared.splits:  # once more, with the weights that are kept
        trainer.validate(module, dataloaders=data.evaluation_loader("dev"), verbose=False)
    if module.calibration:
        said = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in module.calibration.items())  # fmt: skip
        log.info("calibrated on dev: %s", said)
    else:
        log.info("nothing to calibrate on: no dev split whose labels are known")
    return replace(config, task=task.calibrated_config())


def _log_figures(loggers: list[Logger], figures: dict[str, Path]) -> None:
    for logger in loggers:
        if isinstance(logger, DetachedWandbLogger):
            for name, file in figures.items():
                logger.log_image(f"figures/{name}", [str(file)])


def _checkpointing(
    config: Config, folder: RunFolder, task_monitor: tuple[str, str], has_dev: bool
) -> list[Callback]:
    """The last state for resuming; the best weights by the dev metric; early stopping on it."""
    own = config.checkpoint
    last = ModelCheckpoint(
        folder.checkpoints,
        folder.last_checkpoint.stem,
        every_n_train_steps=own.every_n_steps,
        enable_version_counter=False,
    )
    if not has_dev:
        return [last]
    metric, mode = (own.monitor, own.mode) if own.monitor and own.mode else task_monitor
    best = ModelCheckpoint(
        folder.checkpoints,
        folder.best_checkpoint.stem,
        monitor=f"dev/{metric}",
        mode=mode,
        save_weights_only=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    if own.patience is None:
        return [best, last]
    return [best, EarlyStopping(f"dev/{metric}", mode=mode, patience=own.patience), last]
