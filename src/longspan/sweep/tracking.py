"""A sweep's report in Weights & Biases: a run of its own in the group of its cells."""

from dataclasses import asdict

from longspan.config import LoggerConfig
from longspan.sweep.report import Drawn
from longspan.training.tracking import build_loggers
from longspan.training.wandb_logger import DetachedWandbLogger


def track_report(drawn: Drawn, config: LoggerConfig) -> None:
    """Log the sheet of figures, and all files as an artifact; a report drawn again continues it.

    It waits `logger.timeout_seconds` at most and never raises, whatever the tracker does.
    """
    folder = drawn.results.folder
    plan = asdict(drawn.results.plan)
    loggers = build_loggers(
        config,
        folder,
        run_id=f"{folder.name}-report",
        group=config.group or folder.name,
        hparams={"sweep": {name: plan[name] for name in ("swept", "cost", "ceiling")}},
    )
    for logger in loggers:
        if isinstance(logger, DetachedWandbLogger):
            sheet = next(file for file in drawn.files if file.suffix == ".png")
            logger.log_image("report", [str(sheet)])
            logger.log_files(f"{folder.name}-report", "report", drawn.files)
            logger.finalize("success")
            logger.close()
