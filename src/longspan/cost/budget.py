"""The largest `data.tokens_per_batch` that fits."""

from longspan.cost.memory import TrainingMemory
from longspan.errors import UserError

USABLE = 0.8  # of the machine's memory; the rest is for others, fragments and what was not foreseen
STEP = 1024  # tokens; budgets are multiples of it where a document is no longer
LARGEST = 2**22  # tokens; no batch profits from more


def largest_budget(memory: TrainingMemory, available: float) -> int:
    """Tokens of the largest batch whose training step stays within `USABLE` of the memory.

    Args:
        memory: of the configuration; its `process` included.
        available: bytes of the machine, for this process.

    Raises:
        UserError: not even one document of `data.max_length` fits.
    """
    shortest, limit = memory.config.data.max_length, USABLE * available
    if memory.at(shortest).total > limit:
        raise UserError(
            f"data.tokens_per_batch=auto: one document of data.max_length={shortest} tokens takes "
            f"{memory.at(shortest).total / 2**30:.1f} GiB of the {limit / 2**30:.1f} GiB that may "
            "be used; lower data.max_length or model.*, or set model.gradient_checkpointing=true"
        )
    larger = range(shortest // STEP * STEP + STEP, LARGEST + STEP, STEP)
    too_large = (tokens for tokens in larger if memory.at(tokens).total > limit)
    return max(shortest, next(too_large, LARGEST + STEP) - STEP)
