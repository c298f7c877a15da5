"""A long run gives free pages back where it holds a quarter more than its largest step needs."""

from typing import Any

import lightning as L

from longspan.cost.heap import give_back_heap
from longspan.cost.machine import resident_bytes
from longspan.training.memory_guard import ERROR

# bytes of a trained parameter beside itself: its gradient and AdamW's two moments, in float32
BESIDE_WEIGHT = 12
REGROWN = 1.2  # times what was left the last time: what cannot be given back is not asked for again


class HeapLimit(L.Callback):
    """Gives memory back to the system where free pages have piled up in the heap.

    Batches of other lengths leave other holes, and `keep_pages` lets glibc keep them all: in
    hundreds of steps they add up. What is live between them cannot be given back.

    Args:
        step_bytes: that the largest batch takes beside weights, gradients and optimiser, as the
            cost model has it; the estimate may be wrong by `memory_guard.ERROR`.
    """

    def __init__(self, step_bytes: float) -> None:
        self.step_bytes = step_bytes
        self.limit = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trained = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        growth = self.step_bytes + BESIDE_WEIGHT * trained
        self.limit = resident_bytes() + ERROR * growth

    def on_train_batch_end(self, *_: Any) -> None:
        if resident_bytes() > self.limit:
            give_back_heap()
            self.limit = max(self.limit, REGROWN * resident_bytes())
