"""A bad step computed again, to see where its first number that is not finite comes from."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from longspan.checkpoint import read_model
from longspan.cost.machine import uses_gpu
from longspan.errors import UserError
from longspan.known_tasks import known_task
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.training.bad_step_files import recorded_step
from longspan.training.bad_steps import NAMED, parameters_not_finite
from longspan.training.build import autocast_dtype
from longspan.training.module import LongDocumentModule
from longspan.training.recorded_batches import load_batches
from longspan.training.step_batch import StepBatch


def replay(run: Path, step: int | None = None) -> Iterator[str]:
    """Compute a recorded step's batches one by one, forward and backward, and say what is found.

    With the weights, the batches and the random numbers that the step had, but by itself: without
    the other ranks, and in one piece where memory made training take several.

    Args:
        run: the run folder.
        step: None = the last that was recorded.

    Yields:
        lines for a person.

    Raises:
        UserError: nothing was recorded, or its weights were removed since.
    """
    folder = recorded_step(run, step)
    batches, facts = load_batches(folder / "rank=0")
    yield f"step {facts['step']}, epoch {facts['epoch']}: the loss was {facts['loss']}"
    module = _load_module(folder.with_name(facts["model"]) / "model")
    weights = [name for name, p in module.named_parameters() if not p.isfinite().all()]
    if weights:
        yield f"weights that are not finite: {_some(weights)}"
    found = False
    ranks = sorted(folder.glob("rank=*.json"), key=lambda file: int(file.stem[len("rank=") :]))
    for file in ranks:
        batches, _ = load_batches(file.with_suffix(""))
        for number, batch in enumerate(batches):
            lines = list(_replay_batch(module, batch))
            found |= bool(lines)
            names = [feature.id for feature in batch.batch.features]
            yield f"{file.stem}, batch {number}, {batch.batch.num_tokens} tokens: {_some(names)}"
            yield from (f"  {line}" for line in lines or ["loss and gradient are finite"])
    if not found:
        yield "each batch alone is finite: it was their sum, or another precision or device"


def _load_module(folder: Path) -> LongDocumentModule:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is gone: the weights of the last bad steps in a row are kept; replay those"
        )
    config, labels, state = read_model(folder)
    task = known_task(config, labels, None, load_tokenizer(str(folder)))
    module = LongDocumentModule(config, task)
    module.load_state_dict(state)
    return module.train().to("cuda" if uses_gpu(config.trainer.accelerator) else "cpu")


def _replay_batch(module: LongDocumentModule, recorded: StepBatch) -> Iterator[str]:
    """What is not finite, from the loss to its origin; nothing where all is."""
    module.zero_grad()
    losses, outputs = _forward(module, recorded)
    bad = [
        feature.id
        for feature, loss in zip(recorded.batch.features, losses.tolist(), strict=True)
        if not torch.isfinite(torch.tensor(loss))
    ]
    if bad:
        yield f"documents whose loss is not finite: {_some(bad)}"
    if outputs:
        yield f"first output that is not finite: of {outputs[0]}"
    losses.sum().backward()
    names = parameters_not_finite(module)
    if names:
        yield f"parameters whose gradient is not finite: {_some(names)}"
        yield from _origin(module, recorded)


def _forward(module: LongDocumentModule, recorded: StepBatch) -> tuple[Tensor, list[str]]:
    """The loss of each document, (D,), and the modules whose output is not finite, in turn."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(part: nn.Module, arguments: Any, output: Any) -> None:
            tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
            if not all(x.isfinite().all() for x in tensors):
                found.append(f"{name} ({type(part).__name__})")

        return hook

    hooks = [part.register_forward_hook(look(name)) for name, part in module.named_modules()]
    device = module.device
    dtype = autocast_dtype(module.config)
    recorded.generators.restore()
    try:
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            batch = recorded.batch.to(device)
            return module.task.loss(module(batch), batch), found
    finally:
        for hook in hooks:
            hook.remove()


def _origin(module: LongDocumentModule, recorded: StepBatch) -> Iterator[str]:
    """The operation whose backward pass gave the first NaN, and the line that called it."""
    module.zero_grad()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly():
            losses, _ = _forward(module, recorded)
            try:
                losses.sum().backward()
            except RuntimeError as error:
                if "nan values" not in str(error):
                    raise
                yield f"first NaN of the backward pass: {error}"
    for warning in said:  # a traceback of the forward pass
        calls = re.findall(
            r'File "[^"]*/(longspan/[^"]+)", line (\d+), in (\S+)', str(warning.message)
        )
        if calls:
            file, line, name = calls[-1]
            yield f"  called by {name} in {file}, line {line}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
