"""A batch of an optimiser step, with all that computing it again needs beside the weights."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from longspan.batch import PackedBatch


@dataclass(frozen=True)
class GeneratorState:
    """PyTorch's random generators in this process.

    Attributes:
        cpu: bytes of the CPU's generator.
        cuda: of the current GPU's; None where none is in use.
    """

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> Self:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return cls(torch.get_rng_state(), cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)


@dataclass
class StepBatch:
    """Of this rank.

    Attributes:
        batch: as the loader gave it.
        generators: before its forward pass, so that dropout draws the same again.
        loss: what it adds to the step's mean loss; None before it is computed.
    """

    batch: PackedBatch
    generators: GeneratorState
    loss: Tensor | None = None
