"""Whether this machine could hold a model at all, before anything of it is made."""

from dataclasses import replace

from longspan.config import Config, ModelConfig
from longspan.cost.machine import memory_bytes
from longspan.cost.memory import block_matrices
from longspan.errors import UserError

FLOAT = 4  # bytes of a weight; as many of its gradient and of each of AdamW's two moments
SIZES = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
         "intermediate_size", "vocab_size", "max_positions", "type_vocab_size")  # fmt: skip


def check_capacity(config: Config) -> None:
    """Refuse a model whose matrices alone exceed the machine's memory.

    Arithmetic on the config: nothing is allocated, whatever the numbers are. What a step takes
    beside weights, gradients and moments is for `training/budget.py` to say.

    Raises:
        UserError: it cannot be held.
    """
    needed = FLOAT * _copies(config) * matrix_values(config)
    available = memory_bytes(config.trainer.accelerator)
    if needed <= available:
        return
    small = ModelConfig()
    small = replace(
        small,
        num_kv_heads=small.kv_heads,
        head_dim=small.head_size,
        intermediate_size=small.mlp_size,
    )
    sizes = {name: getattr(config.model, name) for name in SIZES}
    large = [
        f"model.{name}={value}"
        for name, value in sizes.items()
        if value is not None and value > (getattr(small, name) or 0)
    ]
    if config.model.positions == "learned":
        large.append(f"data.max_length={config.data.max_length}")
    raise UserError(
        f"{', '.join(large)}: the model's matrices need {needed / 2**30:.0f} GiB to train, more "
        f"than this machine's {available / 2**30:.0f} GiB; lower one"
    )


def matrix_values(config: Config) -> int:
    """Of all blocks and embeddings; without a vocabulary where the tokenizer is to say it."""
    model = config.model
    positions = 0
    if model.positions == "learned":
        positions = model.max_positions or config.data.max_length
    rows = (model.vocab_size or 0) + positions + model.type_vocab_size
    return model.num_layers * block_matrices(model) + rows * model.hidden_size


def _copies(config: Config) -> int:
    """Of a weight: alone where some are frozen or strategies may shard them, or all four."""
    optim = config.optim
    partly = optim.freeze_layers or optim.freeze_embeddings or optim.lora.rank
    return 4 if config.trainer.strategy in ("auto", "ddp") and not partly else 1
