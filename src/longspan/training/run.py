"""A run, from config to run folder."""

import logging
import time
from dataclasses import replace
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from longspan.config import Config
from longspan.cost.machine import resident_bytes
from longspan.data.datamodule import DocumentData
from longspan.errors import UserError
from longspan.pretrained.load import load_encoder, load_head
from longspan.training import report
from longspan.training.adapters import adapt, check_adapters, merged_state
from longspan.training.budget import fill_in_budget, predicted
from longspan.training.build import (
    Prepared,
    build_trainer,
    check_attention,
    check_trainer,
    draw_of,
    misconfigurations,
    prepare,
)
from longspan.training.callbacks import forget_peak_memory, peak_memory_bytes
from longspan.training.capacity import check_capacity
from longspan.training.checkpoints.choose import step_to_resume, take_best_weights
from longspan.training.checkpoints.store import CheckpointStore
from longspan.training.finish import finish
from longspan.training.module import LongDocumentModule
from longspan.training.notice import Notice
from longspan.training.run_callbacks import RunCallbacks
from longspan.training.run_folder import RunFolder, folder_of
from longspan.training.run_lock import alone_in, check_alone
from longspan.training.tracking import MetricsFile, build_loggers
from longspan.typed import to_dict

log = logging.getLogger(__name__)


def train(config: Config) -> dict[str, Any]:
    """Train, evaluate, and leave everything in the run folder.

    The same config finds its own folder: a finished run is not repeated, a broken one goes on
    from its last checkpoint that is whole.

    Returns:
        the report, as in report.json.

    Raises:
        UserError: what the user can mend; the folder is untouched or holds a resumable run.
        Preempted: the machine is wanted back; the folder holds a resumable run.
    """
    folder = folder_of(config)
    folder.check_free(config)
    config = folder.with_its_budget(config)
    if folder.is_finished and not config.overwrite:
        return _show_finished(folder)
    check_alone(folder)
    check_capacity(config)
    check_trainer(config)
    check_attention(config)
    check_adapters(config)
    with Notice() as notice:
        return _start(config, folder, notice)


def _show_finished(folder: RunFolder) -> dict[str, Any]:
    finished = report.show_again(folder)
    log.info("this run was finished before; overwrite=true does it again")
    return finished


def _start(config: Config, folder: RunFolder, notice: Notice) -> dict[str, Any]:
    """Read data and model, and train where nobody else does."""
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
    with alone_in(folder):
        folder.check_free(config)  # once more: somebody may have been here while data was prepared
        if folder.is_finished and not config.overwrite:
            return _show_finished(folder)
        if rank_zero_only.rank == 0:
            folder.prepare(config)
            folder.clear_leftovers()
        with misconfigurations(config):
            return _train(prepared, module, folder, started, process, notice)


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
    prepared: Prepared,
    module: LongDocumentModule,
    folder: RunFolder,
    started: float,
    process: int,
    notice: Notice,
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
    callbacks = RunCallbacks(prepared, folder, started, notice)
    arguments: dict[str, Any] = {
        "logger": loggers,
        "callbacks": callbacks.in_order(),
        "plugins": callbacks.store.with_plugin(config.trainer.plugins),
        "default_root_dir": folder.path,
    }
    if "dev" not in prepared.splits:
        arguments["limit_val_batches"] = 0
    trainer = build_trainer(config, **arguments)
    module.num_steps = data.num_steps(trainer.world_size)
    parameters = sum(weight.numel() for weight in merged_state(module).values())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    forecast = predicted(prepared, parameters, trained, process)
    kept_step = _fit(trainer, module, data, callbacks.store)
    facts = {
        "tokens_per_second": callbacks.throughput.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": callbacks.throughput.seconds_in_all,
        "parameters": parameters,
        "trained_parameters": trained,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "kept_step": kept_step,  # whose weights the model has
        "packing_efficiency": packing,
        **callbacks.bad_steps.facts(),
        "split_batches": callbacks.memory_guard.split_batches,
        "data": prepared.facts,
        "predicted": forecast,
    }
    return finish(trainer, module, data, prepared, folder, loggers, facts)


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
