"""Which checkpoint a run goes on from, and which weights it ends with."""

import logging

import lightning as L

from longspan.training.checkpoints.folder import read_weights
from longspan.training.checkpoints.manifest import best_first, step_of
from longspan.training.checkpoints.shelf import Shelf

log = logging.getLogger(__name__)


def step_to_resume(last: Shelf, mend: bool) -> int:
    """The step of the newest state that is whole; 0 = there is none, and the run starts anew.

    Args:
        last: the run's states.
        mend: set damaged ones aside, and say so; one process of all does.
    """
    had_any = bool(last.steps())
    newest = last.newest_whole(mend)
    if newest is None:
        if had_any:
            log.warning("no checkpoint in %s is whole: the run starts anew", last.path)
        return 0
    step = step_of(newest.name)
    assert step is not None
    log.info("resuming from %s, step %d", newest, step)
    return step


def take_best_weights(trainer: L.Trainer, module: L.LightningModule, best: Shelf, mode: str) -> int:
    """Load the best weights that are whole, the same ones on all ranks.

    Args:
        trainer: whose training is done.
        module: with the weights of its last step, which stay where there are no others.
        best: the run's best weights.
        mode: min or max, which is best.

    Returns:
        the step that the weights are of.
    """
    last = trainer.global_step
    step = trainer.strategy.broadcast(_best_step(best, mode, last) if trainer.is_global_zero else 0)
    if step is None:
        return last
    module.load_state_dict(read_weights(best.folder(step)))
    return step


def _best_step(best: Shelf, mode: str, last: int) -> int | None:
    had_any = any(step <= last for step in best.steps())
    wanted = best_first(best.scores(last), mode)
    found = best.first_whole(wanted, mend=True)
    if found is not None:
        return step_of(found.name)
    if had_any:
        log.warning("no best checkpoint is whole: the weights of the last step are kept")
    return None
