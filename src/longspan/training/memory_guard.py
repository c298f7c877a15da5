"""A batch that memory does not hold is computed in parts, whose gradients add up to its own.

On a CPU nobody can catch it: Linux grants memory and kills whoever uses it. So the cost model's
estimate is held against what is available before anything is allocated. On CUDA the error is
caught, and what was computed of the step's gradient is done again in smaller parts.
"""

import logging
from dataclasses import dataclass
from functools import cached_property

import lightning as L
import torch
from torch import Tensor

from longspan.batch import PackedBatch
from longspan.config import Config
from longspan.cost.documents import Documents
from longspan.cost.heap import give_back_heap
from longspan.cost.machine import available_bytes, uses_gpu
from longspan.cost.memory import TrainingMemory
from longspan.errors import UserError
from longspan.training.budget import training_memory
from longspan.training.halves import halves
from longspan.training.module import LongDocumentModule
from longspan.training.step_batch import GeneratorState

ERROR = 1.25  # the largest factor between estimated and measured memory (docs/cost.md)

log = logging.getLogger(__name__)


@dataclass
class Planned:
    """A batch of the optimiser step, as it is computed.

    Attributes:
        parts: documents of it that are computed together.
        generators: before the first part, so that dropout draws the same when it is done again.
        loss: summed over its documents, once it is computed.
    """

    parts: list[PackedBatch]
    generators: GeneratorState
    loss: Tensor | None = None


class MemoryGuard(L.Callback):
    """Splits batches by documents; the loss weights stay those of the whole step.

    Args:
        config: the run.
        documents: of training, which the estimate is made for.

    Attributes:
        split_batches: that were computed in parts so far, on all ranks, as of the last step.
        holds_gradient: whether the gradient of the batch at hand is there before Lightning's
            backward pass, and before it would clear the one of the step before.
        overlaps: whether DDP sends gradients while Lightning's backward pass goes on.
        catches: whether running out of memory is an error that can be caught.
    """

    def __init__(self, config: Config, documents: Documents) -> None:
        self.config = config
        self.memory = training_memory(config, documents, 0, 0, 0)
        self.split_batches = 0
        self.holds_gradient = self.overlaps = False
        self.catches = uses_gpu(config.trainer.accelerator)
        self._before, self._here = 0, 0  # of `split_batches`: before a resume, on this rank since
        self._module: LongDocumentModule | None = None
        self._step: list[Planned] = []  # batches of this optimiser step
        self._too_large: int | None = None  # tokens of the smallest batch that ran out of memory
        self._passed = 0  # tokens of the largest one that did not

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, LongDocumentModule)
        if self.config.trainer.split_batches:
            self._module, pl_module.memory_guard = pl_module, self

    def state_dict(self) -> dict[str, int | None]:
        return {"split_batches": self.split_batches, "too_large": self._too_large}

    def load_state_dict(self, state_dict: dict[str, int | None]) -> None:
        self.split_batches = self._before = state_dict["split_batches"] or 0
        self._too_large = state_dict["too_large"]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object
    ) -> None:
        here = torch.tensor(float(self._here), device=pl_module.device)
        self.split_batches = self._before + int(trainer.strategy.reduce(here, reduce_op="sum"))
        if self.split_batches:
            pl_module.log("train/split_batches", float(self.split_batches))

    def summed_loss(self, batch: PackedBatch) -> Tensor:
        """The loss of the module's last batch (`step_batches`).

        Where it is computed here already, with its gradient, it is a number without a graph.

        Raises:
            UserError: not even one of its documents fits.
        """
        module = self.module
        is_first = len(module.step_batches) == 1
        if is_first:
            self._step = []
        self.holds_gradient = self.overlaps = False
        parts = self._parts_below_limit(batch) if self.catches else self._parts_that_fit(batch)
        if len(parts) == 1 and not self.catches:
            return module.summed_loss(batch)
        if len(parts) == 1 and self._may_overlap(batch):
            loss = self._forward(batch)
            if loss is not None:
                self.overlaps = True
                return loss
        self.holds_gradient = True
        if is_first:
            self._forget_gradient()
        loss = self._compute(Planned(parts, module.step_batches[-1].generators))
        self._report(batch)
        return loss + self._touch() if module.trainer.world_size > 1 else loss.requires_grad_()

    @property
    def module(self) -> LongDocumentModule:
        assert self._module is not None, "Lightning calls `setup` first"
        return self._module

    # --- computing in parts ---------------------------------------------------------------------

    def _compute(self, batch: Planned) -> Tensor:
        """Add a batch's gradient to that of the step, in smaller and smaller parts; its loss."""
        self._step.append(batch)
        open_batches = [batch]
        while (failed := self._first_failure(open_batches)) is not None:
            # some of its gradient may be there already: all of the step's is computed anew
            self._forget_gradient()
            torch.cuda.empty_cache()
            self._too_large = min(failed.num_tokens, self._too_large or failed.num_tokens)
            open_batches = self._step
            for planned in open_batches:
                planned.parts = [
                    half
                    for part in planned.parts
                    for half in (self._halves(part, "ran out") if part is failed else [part])
                ]
        self._passed = max(self._passed, *(part.num_tokens for part in batch.parts))
        assert batch.loss is not None
        return batch.loss

    def _first_failure(self, batches: list[Planned]) -> PackedBatch | None:
        """Compute batches; the part that ran out of memory, None where none did.

        The error is gone when this returns, and with it all that its frames held.
        """
        for batch in batches:
            batch.generators.restore()
            batch.loss = None
            for part in batch.parts:
                try:
                    loss = self._backward(part)
                except torch.OutOfMemoryError:
                    if not self.catches:
                        raise
                    return part
                batch.loss = loss if batch.loss is None else batch.loss + loss
        return None

    def _forward(self, batch: PackedBatch) -> Tensor | None:
        """The summed loss with its graph; None where memory ran out."""
        try:
            return self.module.summed_loss(batch)
        except torch.OutOfMemoryError:
            return None

    def _backward(self, part: PackedBatch) -> Tensor:
        """Forward and backward, as Lightning does them; the summed loss.

        DDP's hooks take no notice: they wait for the end of the forward pass that this is part of.
        """
        module, trainer = self.module, self.module.trainer
        loss = module.summed_loss(part)
        own = module.share_of_step(loss, part) / trainer.accumulate_grad_batches
        with torch.autocast(part.input_ids.device.type, enabled=False):  # as after a forward pass
            trainer.strategy.backward(own, None)
        return loss.detach()

    def _touch(self) -> Tensor:
        """Zero, whose gradients of zeros let DDP's hooks add up what the ranks have."""
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return torch.stack([p.flatten()[0] for p in trained]).sum() * 0.0

    def _forget_gradient(self) -> None:
        for optimizer in self.module.trainer.optimizers:
            optimizer.zero_grad()

    def _may_overlap(self, batch: PackedBatch) -> bool:
        """Whether DDP may send gradients while the backward pass goes on.

        Ranks that have begun to do so cannot take it back. So a batch larger than all that passed
        is computed before anything is sent.
        """
        model = self.module.trainer.strategy.model
        sends = getattr(model, "require_backward_grad_sync", False)
        return sends and batch.num_tokens <= self._passed

    # --- what fits ------------------------------------------------------------------------------

    def _parts_below_limit(self, batch: PackedBatch) -> list[PackedBatch]:
        """Parts smaller than what ran out of memory before, as far as documents can be parted.

        What passed at another time is tried again: memory may have been short for a moment.
        """
        if self._too_large is None or batch.num_tokens < max(self._too_large, self._passed + 1):
            return [batch]
        halves = self._split(batch)
        if len(halves) == 1:
            return halves
        return [part for half in halves for part in self._parts_below_limit(half)]

    def _parts_that_fit(self, batch: PackedBatch) -> list[PackedBatch]:
        available = self._available()
        if available is None:
            return [batch]
        if batch.num_tokens <= self._budget and self._budget_bytes <= available:  # the usual case
            return [batch]
        if bytes_beside(self.memory, batch.num_tokens) <= available:
            return [batch]
        give_back_heap()  # of earlier steps: these would use it again
        return self._parts_within(batch, self._available() or 0)

    @property
    def _budget(self) -> int:
        return self.config.data.token_budget

    @cached_property
    def _budget_bytes(self) -> float:
        return bytes_beside(self.memory, self._budget)

    def _parts_within(self, batch: PackedBatch, available: int) -> list[PackedBatch]:
        needed = bytes_beside(self.memory, batch.num_tokens)
        if needed <= available:
            return [batch]
        why = f"needs {needed / 2**30:.2f} GiB of the {available / 2**30:.2f} that are available"
        if len(self._split(batch)) == 1 and needed <= ERROR * available:
            return [batch]  # the estimate may be as wrong as that
        halves = self._halves(batch, why)
        return [part for half in halves for part in self._parts_within(half, available)]

    def _available(self) -> int | None:
        """Bytes for this process: the ranks on a machine compute at the same time."""
        available = available_bytes()
        return None if available is None else available // max(1, self.module.trainer.num_devices)

    def _halves(self, batch: PackedBatch, why: str) -> list[PackedBatch]:
        halves = self._split(batch)
        if len(halves) > 1:
            return halves
        names = ", ".join(dict.fromkeys(feature.id for feature in batch.features))
        remedies = ["lower data.max_length", "or take a smaller model"]
        if not self.config.model.gradient_checkpointing:
            remedies = ["set model.gradient_checkpointing=true", *remedies]
        raise UserError(
            f"out of memory at step {self.module.trainer.global_step}: document {names} of "
            f"{batch.num_tokens} tokens {why}, and it cannot be split; {', '.join(remedies)}"
        )

    def _split(self, batch: PackedBatch) -> list[PackedBatch]:
        return halves(batch, self.config.keeps_documents_whole)

    def _report(self, batch: PackedBatch) -> None:
        parts = self._step[-1].parts
        if len(parts) == 1:
            return
        if not self.split_batches + self._here:
            log.warning(
                "step %d: a batch of %d documents and %d tokens does not fit into memory; it is "
                "computed in %d parts, and so will be others like it; the gradient is the same, "
                "and a smaller data.tokens_per_batch is faster",
                self.module.trainer.global_step,
                batch.num_documents,
                batch.num_tokens,
                len(parts),
            )
        self._here += 1


def bytes_beside(memory: TrainingMemory, tokens: int) -> float:
    """What a batch takes beside weights, gradients and the optimiser's state, by the cost model."""
    found = memory.at(tokens)
    return found.activations + found.attention + found.logits + found.workspace + found.heap
