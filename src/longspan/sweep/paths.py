"""Where things lie in a sweep folder."""

from dataclasses import dataclass
from pathlib import Path

from longspan.training.run_folder import RunFolder

PLAN = "sweep.json"
RESERVED = ("logs", "set-aside")  # folders of a sweep that are no cells


@dataclass(frozen=True)
class CellPaths:
    """Paths of one cell.

    Attributes:
        sweep: the sweep folder.
        name: of the cell: `window=64,num_layers=4,seed=0`.
    """

    sweep: Path
    name: str

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.sweep / self.name)

    @property
    def failure(self) -> Path:
        return self.folder.path / "failed.json"

    @property
    def lock(self) -> Path:
        """That of the run, which does not take it again."""
        return self.folder.lock

    @property
    def log(self) -> Path:
        """What the run printed, every attempt behind the one before."""
        return self.sweep / "logs" / f"{self.name}.log"

    def set_aside(self, number: int) -> Path:
        return self.sweep / "set-aside" / f"{self.name}-{number}"
