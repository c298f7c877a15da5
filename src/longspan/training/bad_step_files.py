"""Bad steps in the run folder, for replay: their batches, and the weights that they met.

    bad_steps/step=12/rank=0.safetensors  the step's batches on a rank, as tensors
    bad_steps/step=12/rank=0.json         losses, documents, parameters with a gradient of NaN, …
    bad_steps/step=12/model/              a model folder with the weights before the step

Weights do not change over bad steps in a row, so the first of a row has them for all; those of
earlier rows are removed.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from longspan.checkpoint import SavesItself, save_model
from longspan.errors import UserError
from longspan.training.adapters import merged_state
from longspan.training.module import LongDocumentModule
from longspan.training.recorded_batches import save_batches

KEPT = 8  # steps; beyond them the oldest is removed

log = logging.getLogger(__name__)


class BadStepFiles:
    """Written by the callback `BadSteps`.

    Args:
        run: the run folder.
        tokenizer: as loaded.
    """

    def __init__(self, run: Path, tokenizer: SavesItself) -> None:
        self.run, self.tokenizer = run, tokenizer
        self.first_of_row: int | None = None

    def write(
        self,
        module: LongDocumentModule,
        facts: dict[str, Any],
        is_first: bool,
    ) -> None:
        """Record a step, on every rank; a full disk is reported and stops no training.

        Args:
            module: with the weights before the step, and its batches on this rank.
                facts: with the `step`.
            is_first: whether the step before was a good one.
        """
        step = facts["step"]
        if is_first or self.first_of_row is None:
            self.first_of_row = step
        rank = rank_zero_only.rank or 0
        folder = bad_steps(self.run) / f"step={step}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            facts = facts | {"rank": rank, "model": f"step={self.first_of_row}"}
            save_batches(folder / f"rank={rank}", module.step_batches, facts)
            if rank == 0:
                self._tidy(step)
                if self.first_of_row == step:
                    task, config = module.task, module.config
                    save_model(
                        folder / "model", merged_state(module), config, task.labels, self.tokenizer
                    )
        except OSError as error:
            log.warning("step %d cannot be written to %s for replay: %s", step, folder, error)

    def _tidy(self, step: int) -> None:
        """Remove weights of earlier rows, and the oldest steps beyond `KEPT`."""
        own = {step, self.first_of_row}
        others = [number for number in recorded_steps(self.run) if number not in own]
        room = KEPT - len(own)
        for number in others[:-room]:
            shutil.rmtree(bad_steps(self.run) / f"step={number}")
        for number in others[-room:]:
            shutil.rmtree(bad_steps(self.run) / f"step={number}" / "model", ignore_errors=True)


def bad_steps(run: Path) -> Path:
    return run / "bad_steps"


def recorded_steps(run: Path) -> list[int]:
    """Steps that a run folder holds, ascending."""
    found = [re.fullmatch(r"step=(\d+)", folder.name) for folder in bad_steps(run).glob("step=*")]
    return sorted(int(match[1]) for match in found if match)


def recorded_step(run: Path, step: int | None) -> Path:
    """The folder of a bad step; of the last one without a number.

    Raises:
        UserError: it was not recorded.
    """
    steps = recorded_steps(run)
    if not steps:
        raise UserError(f"{run} has no bad steps: nothing to replay; give the folder of a run")
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps))
        raise UserError(f"--step {step} was not recorded in {run}; there are {there}")
    return bad_steps(run) / f"step={steps[-1] if step is None else step}"
