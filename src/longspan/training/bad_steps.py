"""Steps whose loss or gradient is not finite: skipped, counted, written down, and too many of them.

A skipped step changes neither weights nor the optimiser's state; steps are counted and the
learning rate goes on as if it had been made. Losses that are finite but far above the usual are
made, and reported.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from longspan.errors import UserError
from longspan.training.bad_step_files import BadStepFiles
from longspan.training.loss_spikes import LossSpikes
from longspan.training.module import LongDocumentModule
from longspan.training.step_batch import StepBatch

SAID = 20  # warnings of each kind that a process gives; the metrics go on counting
NAMED = 8  # documents or parameters in one line

log = logging.getLogger(__name__)


class BadSteps(L.Callback):
    """Watches every optimiser step before it is made.

    With `precision=16-mixed` gradients overflow while the loss scale is being searched: such a
    step is skipped and not counted, as long as there is a smaller scale to try.

    Args:
        most_in_a_row: bad steps after which training ends (`trainer.max_bad_steps`).
        files: where they are written down.

    Attributes:
        total, in_a_row: bad steps so far, and since the last good one.
        spikes: of the loss.
    """

    def __init__(self, most_in_a_row: int, files: BadStepFiles) -> None:
        self.most_in_a_row, self.files = most_in_a_row, files
        self.total = self.in_a_row = 0
        self.spikes = LossSpikes()
        self._said = {"bad": 0, "spike": 0}

    def state_dict(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "in_a_row": self.in_a_row,
            "spikes": self.spikes.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total, self.in_a_row = state_dict["total"], state_dict["in_a_row"]
        self.spikes.load_state_dict(state_dict["spikes"])

    def facts(self) -> dict[str, int]:
        """For the report."""
        return {"bad_steps": self.total, "loss_spikes": self.spikes.count}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, LongDocumentModule)
        losses = [batch.loss for batch in pl_module.step_batches if batch.loss is not None]
        mean = torch.stack(losses).sum()
        measured = torch.stack([mean, gradient_norm(optimizer).to(mean)])
        # of all ranks, which must agree: what is not finite on one is so in the sum
        loss, norm = trainer.strategy.reduce(measured, reduce_op="sum").tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            self._watch_loss(trainer, pl_module, loss)
        else:
            parameters = parameters_not_finite(pl_module)
            if not (math.isfinite(loss) and parameters and searches_scale(trainer)):
                self._count(trainer, pl_module, loss, parameters)
            optimizer.zero_grad(set_to_none=True)  # parameters without one are left as they are
        if self.total:
            pl_module.log("train/bad_steps", float(self.total))
        if self.spikes.count:
            pl_module.log("train/loss_spikes", float(self.spikes.count))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if 0 < trainer.global_step <= self.total:
            raise UserError(
                f"none of the {self.total} steps had a finite loss and gradient, so nothing was "
                f"learned; {self._remedy(trainer.global_step - 1)}"
            )

    def _count(
        self,
        trainer: L.Trainer,
        module: LongDocumentModule,
        loss: float,
        parameters: list[str],
    ) -> None:
        self.total += 1
        self.in_a_row += 1
        step = trainer.global_step
        self.files.write(
            module,
            {
                "step": step,
                "epoch": trainer.current_epoch,
                "seed": module.config.seed,
                "precision": str(trainer.precision),
                "loss": str(loss),  # JSON has no NaN
                "parameters": parameters[:NAMED],
                "num_parameters": len(parameters),
            },
            is_first=self.in_a_row == 1,
        )
        what = f"the loss is {loss}" if not math.isfinite(loss) else _overflow(parameters)
        documents = names_of_documents(trainer, module.step_batches)
        if self.in_a_row >= self.most_in_a_row:
            raise UserError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite "
                f"(trainer.max_bad_steps={self.most_in_a_row}); at step {step} {what}; documents "
                f"{documents}; {self._remedy(step)}"
            )
        if self._may_say("bad"):
            log.warning(
                "step %d is skipped: %s; documents %s; longspan replay %s --step %d computes it "
                "again",
                step, what, documents, self.files.run, step,
            )  # fmt: skip

    def _watch_loss(self, trainer: L.Trainer, module: LongDocumentModule, loss: float) -> None:
        threshold = self.spikes.see(loss)
        if threshold is None:
            return
        # all ranks are here: they saw the same loss
        documents = names_of_documents(trainer, module.step_batches)
        if self._may_say("spike"):
            log.info(
                "step %d: the loss %.4g is a spike, beyond %.4g (median and deviations of the "
                "steps before); the step is made; documents %s",
                trainer.global_step, loss, threshold, documents,
            )  # fmt: skip

    def _may_say(self, kind: str) -> bool:
        self._said[kind] += 1
        if self._said[kind] == SAID + 1:
            log.warning("further warnings of this kind are left out; the metrics count on")
        return self._said[kind] <= SAID

    def _remedy(self, step: int) -> str:
        return (
            "lower optim.learning_rate, or set trainer.precision=32-true; longspan replay "
            f"{self.files.run} --step {step} says where it begins"
        )


def names_of_documents(trainer: L.Trainer, batches: Sequence[StepBatch]) -> str:
    """Documents of a step on all ranks; where losses are not finite, of those batches alone."""
    names = [[feature.id for feature in one.batch.features] for one in batches]
    are_bad = [one.loss is not None and not torch.isfinite(one.loss) for one in batches]
    bad = [own for own, is_bad in zip(names, are_bad, strict=True) if is_bad]
    ranks: list[Any] = [(names, bad)]
    if trainer.world_size > 1:
        ranks = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, (names, bad))
    chosen = [batch for _, bad in ranks for batch in bad]
    chosen = chosen or [batch for names, _ in ranks for batch in names]
    unique = list(dict.fromkeys(name for batch in chosen for name in batch))
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Of all parameters together; not finite where a gradient, or the sum of squares, is not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def parameters_not_finite(module: nn.Module) -> list[str]:
    """Names of the parameters with a gradient that is not finite, in the model's order."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]


def searches_scale(trainer: L.Trainer) -> bool:
    """Whether float16's loss scale can still be lowered."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() > 1.0


def _overflow(parameters: list[str]) -> str:
    if not parameters:
        return "the norm of the gradient overflows"
    more = f" and {len(parameters) - 1} more" if len(parameters) > 1 else ""
    return f"the gradient of {parameters[0]}{more} is not finite"
