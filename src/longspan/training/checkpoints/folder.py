"""One checkpoint on the disk.

weights.safetensors  every tensor of the module, tied ones once
state.pt             the rest: optimiser, schedule, loops, callbacks; nothing in it can run
manifest.json        step, score, and what the other two must be
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from longspan.durable import written_aside
from longspan.training.checkpoints.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    read_manifest,
    record_of,
)

WEIGHTS = "weights.safetensors"
STATE = "state.pt"
STATE_DICT = "state_dict"  # Lightning's name of the module's tensors in a checkpoint


def write_checkpoint(folder: Path, checkpoint: dict[str, Any], score: float | None = None) -> None:
    """Write a checkpoint, or none at all.

    Args:
        folder: `step=…`; replaced where it is there.
        checkpoint: as Lightning dumps it.
        score: of the weights, by the metric that chooses among them.

    Raises:
        OSError: naming a file; the folder is as it was.
    """
    rest = {name: value for name, value in checkpoint.items() if name != STATE_DICT}
    weights, tied = _stored_once(checkpoint[STATE_DICT])
    with written_aside(folder) as new:
        files = {WEIGHTS: _write(new / WEIGHTS, to_safetensors(weights, {"format": "pt"}))}
        state = BytesIO()
        torch.save(rest, state)
        files[STATE] = _write(new / STATE, state.getbuffer())
        manifest = Manifest(checkpoint["global_step"], files, score, tied)
        (new / MANIFEST).write_bytes(manifest.to_bytes())


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint that verifies, as it was given to `write_checkpoint`; tensors on the CPU."""
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state | {STATE_DICT: read_weights(folder)}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The module's tensors alone."""
    weights = load_file(folder / WEIGHTS)
    tied = read_manifest(folder).tied
    return weights | {name: weights[stored] for name, stored in tied.items()}


def size_of(checkpoint: dict[str, Any]) -> int:
    """Bytes of all tensors, each once: within a little of what a checkpoint needs on the disk."""
    sizes: dict[int, int] = {}
    pending: list[Any] = [checkpoint]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            sizes[value.data_ptr()] = value.nbytes
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
    return sum(sizes.values())


def _write(file: Path, content: bytes | memoryview) -> FileRecord:
    file.write_bytes(content)
    return record_of(content)


def _stored_once(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors to store, and names of those that are the same memory as one that is stored.

    safetensors refuses tensors that share memory; a module that ties weights has such.
    """
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr()
        view = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and view in names:
            tied[name] = names[view]
            continue
        names[view] = name
        kept = tensor.detach().cpu().contiguous()
        stored[name] = kept.clone() if storage in storages else kept  # another part of the memory
        storages.add(storage)
    return stored, tied
