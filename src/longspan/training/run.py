"""A run, from config to run folder."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping
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
    prepare,
)
from longspan.training.callbacks import (
    InterruptionNotice,
    StepLimit,
    Throughput,
    forget_peak_memory,
    peak_memory_bytes,
)
from longspan.training.checkpoints.callback import SaveCheckpoints
from longspan.training.checkpoints.choose import step_to_resume, take_best_weights
from longspan.training.checkpoints.store import CheckpointStore
from longspan.training.figures import draw_figures
from longspan.training.memory_guard import MemoryGuard
from longspan.training.module import CalibratedTask, LongDocumentModule
from longspan.training.run_folder import RunFolder, folder_of, write_errors_told
from longspan.training.run_lock import alone_in, check_alone
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
        return _show_finished(folder)
    check_alone(folder)
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
    process = resident_bytes()  # without the model
    module = _new_module(prepared)
    # from here on nothing is left that the user could have to mend: a folder is made, or emptied
    with alone_in(folder):
        folder.check_free(config)  # once more: somebody may have been here while data was prepared
        if folder.is_finished and not config.overwrite:
            return _show_finished(folder)
        if rank_zero_only.rank == 0:
            folder.prepare(config)
            folder.clear_leftovers()
        return _train(prepared, module, folder, started, process)


def _show_finished(folder: RunFolder) -> dict[str, Any]:
    finished = folder.read_report()
    report.show(finished, folder.path)
    log.info("this run was finished before; overwrite=true does it again")
    return finished


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
        stop_on_write_error=config.checkpoint.on_write_error == "stop",
    )
    throughput = Throughput()
    bad_steps = BadSteps(
        config.trainer.max_bad_steps, BadStepFiles(folder.path, prepared.tokenizer)
    )
    memory_guard = MemoryGuard(config, documents_of(prepared))
    notice = InterruptionNotice(folder.last_checkpoints)
    callbacks = [throughput, bad_steps, memory_guard, notice]
    if config.trainer.max_steps > 0:
        callbacks.append(StepLimit(config.trainer.max_steps))
    store = _store(config, folder, task.monitor, "dev" in prepared.splits)
    callbacks += _checkpointing(config, store)
    arguments = {"logger": loggers, "callbacks": callbacks, "default_root_dir": folder.path}
    arguments["plugins"] = store.with_plugin(config.trainer.plugins)
    if "dev" not in prepared.splits:
        arguments["limit_val_batches"] = 0
    trainer = build_trainer(config, **arguments)
    module.num_steps = data.num_steps(trainer.world_size)
    parameters = sum(weight.numel() for weight in merged_state(module).values())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    forecast = predicted(prepared, parameters, trained, process)
    kept_step = _fit(trainer, module, data, store)
    facts = {
        "tokens_per_second": throughput.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": time.perf_counter() - started,
        "parameters": parameters,
        "trained_parameters": trained,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "kept_step": kept_step,  # whose weights the model has
        "packing_efficiency": packing,
        **bad_steps.facts(),
        "split_batches": memory_guard.split_batches,
        "data": prepared.facts,
        "predicted": forecast,
    }
    return _finish(trainer, module, data, prepared, folder, loggers, facts)


def _fit(
    trainer: L.Trainer, module: LongDocumentModule, data: DocumentData, store: CheckpointStore
) -> int:
    """Train from the last checkpoint that is whole, and take the best weights: of which step?"""
    # a further rank may have come before the first had emptied the folder
    anew = module.config.overwrite
    step = store.resumed = 0 if anew else step_to_resume(store.last, mend=trainer.is_global_zero)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):  # what was recorded after it will be recorded again
            logger.discard_from(step)
    resume = store.last.folder(step) if step else None
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    if store.monitor is None:
        return trainer.global_step
    return take_best_weights(trainer, module, store.best, store.monitor[1])


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
        with write_errors_told(folder.path):
            _write(prepared, module, config, folder, loggers, summary)
        report.show(summary, folder.path)
    for logger in loggers:
        if isinstance(logger, DetachedWandbLogger):
            logger.close()
    return summary


def _write(
    prepared: Prepared,
    module: LongDocumentModule,
    config: Config,
    folder: RunFolder,
    loggers: list[Logger],
    summary: dict[str, Any],
) -> None:
    """All that a finished run leaves, the report last: it says that everything else is there."""
    weights = merged_state(module)
    save_model(folder.model, weights, config, prepared.task.labels, prepared.tokenizer)
    split = summary["split"]
    if split is not None:
        folder.write_predictions(split, module.predictions)
        _log_figures(loggers, draw_figures(module.task, module.predictions, folder.figures))
    for logger in loggers:
        if isinstance(logger, MetricsFile):
            logger.sync()
    folder.write_report(summary)


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


def _store(
    config: Config, folder: RunFolder, task_monitor: tuple[str, str], has_dev: bool
) -> CheckpointStore:
    own = config.checkpoint
    monitor = None
    if has_dev:
        monitor = (own.monitor, own.mode) if own.monitor and own.mode else task_monitor
    return CheckpointStore(own, folder.last_checkpoints, folder.best_checkpoints, monitor)


def _checkpointing(config: Config, store: CheckpointStore) -> list[Callback]:
    """The last state for resuming; the best weights by the dev metric; early stopping on it."""
    every, patience = config.checkpoint.every_n_steps, config.checkpoint.patience
    if store.monitor is None:
        if config.data.streaming and every is None:  # no validation, and no end of an epoch
            every = max(1, config.trainer.max_steps // 10)
        return [SaveCheckpoints(store, every)]
    saving = SaveCheckpoints(store, every)
    if patience is None:
        return [saving]
    metric, mode = store.monitor
    return [EarlyStopping(f"dev/{metric}", mode=mode, patience=patience), saving]
