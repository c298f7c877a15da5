"""The fields of `sweep.*`: many runs of one command."""

from dataclasses import dataclass
from typing import Literal

from longspan.config.checks import at_least, file_name, path_name
from longspan.errors import UserError

Cost = Literal["time", "memory", "flops"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep (`train.py -m`), and which cell of it a run is."""

    name: str | None = None  # sweeps/<name>/; null = made from the command
    dir: str = "sweeps"
    cell: str | None = None  # set by the sweeper: this run is that cell
    overwrite: bool = False  # redo cells whose folder holds another config
    prune_after: int | None = None  # stop a cell below the median of so many finished; null = none
    cost: Cost = "time"  # what the report weighs quality against: a token's time, memory or FLOPs
    calibrate: float = 20.0  # seconds before the first cell, to predict times; 0 = predict none
    ceiling: float | None = None  # the most it may be: µs a token, GiB, or MFLOPs a token

    def __post_init__(self) -> None:
        for field in ("name", "cell"):
            value = getattr(self, field)
            if value is None:
                continue
            file_name(f"sweep.{field}", value)
            if value[0] == ".":  # as `.locks`, which lies beside the cells
                raise UserError(f"sweep.{field}={value!r} begins with a dot; choose another name")
        path_name("sweep.dir", self.dir)
        if not self.dir:
            raise UserError("sweep.dir is empty; name the folder that holds the sweeps")
        if self.prune_after is not None:
            at_least(1, "sweep.prune_after", self.prune_after)
        at_least(0, "sweep.calibrate", self.calibrate)
        if self.ceiling is not None and self.ceiling <= 0:
            raise UserError(f"sweep.ceiling={self.ceiling} must be above 0, or null for none")
