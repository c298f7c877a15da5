"""What follows a sweep: its report, and one line and an exit code about what failed."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from longspan.config import LoggerConfig
from longspan.terminal import on_one_line
from longspan.typed import from_dict


class SweepReport(Callback):
    """Draws the report at the end of every multirun."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Draw; end with code 1 where cells have no result."""
        from longspan.sweep.report import draw  # loads matplotlib

        drawn = draw(Path(config.sweep.dir) / config.sweep.name)
        print(on_one_line(drawn.verdict))
        print(f"report: {drawn.files[-1]}")
        logger = from_dict(LoggerConfig, OmegaConf.to_container(config.logger), "logger")
        if logger.kind != "none":
            from longspan.sweep.tracking import track_report  # loads Lightning

            track_report(drawn, logger)
        if drawn.summary:
            print(f"error: {on_one_line(drawn.summary)}", file=sys.stderr)
            raise SystemExit(1)
