"""The end of a run: its evaluation, and all that it leaves."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from longspan.checkpoint import save_model
from longspan.config import Config
from longspan.data.datamodule import DocumentData
from longspan.training import report
from longspan.training.adapters import merged_state
from longspan.training.build import Prepared
from longspan.training.figures import draw_figures
from longspan.training.module import CalibratedTask, LongDocumentModule
from longspan.training.run_folder import RunFolder, write_errors_told
from longspan.training.tracking import MetricsFile
from longspan.training.wandb_logger import DetachedWandbLogger

log = logging.getLogger(__name__)


def finish(
    trainer: L.Trainer,
    module: LongDocumentModule,
    data: DocumentData,
    prepared: Prepared,
    folder: RunFolder,
    loggers: list[Logger],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate on test, write model, predictions, figures and, last of all, the report.

    Args:
        facts: of the training, for the report.

    Returns:
        the report, as in report.json.

    Raises:
        UserError: the disk takes it not; the same command goes on.
    """
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


def _log_figures(loggers: list[Logger], figures: dict[str, Path]) -> None:
    for logger in loggers:
        if isinstance(logger, DetachedWandbLogger):
            for name, file in figures.items():
                logger.log_image(f"figures/{name}", [str(file)])
