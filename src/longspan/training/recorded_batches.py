"""Packed batches as files: tensors as safetensors, the rest as JSON; nothing in them can run.

What the task drew for them (masked tokens, say) is in them, and so are the random generators as
they were, so that the same loss comes out again.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from longspan.batch import Feature, PackedBatch
from longspan.errors import UserError
from longspan.training.run_folder import write_bytes, write_text
from longspan.training.step_batch import GeneratorState, StepBatch

OF_BATCH = ("input_ids", "cu_seqlens", "token_type_ids", "global_mask", "labels")
NOT_BY_TOKEN = ("cu_seqlens", "labels", "generators.cpu", "generators.cuda")
OF_TOKENS = ("words", "characters", "offsets")  # of a feature, beside what the batch has


def save_batches(path: Path, recorded: Sequence[StepBatch], facts: dict[str, Any]) -> None:
    """Write `<path>.safetensors` and `<path>.json`.

    Args:
        path: without a suffix.
        recorded: the batches of a step, in order.
        facts: what else the JSON file says.
    """
    tensors: dict[str, Tensor] = {}
    batches = []
    for number, one in enumerate(recorded):
        tensors |= {f"{number}.{name}": x for name, x in _tensors(one).items()}
        batches.append(
            {
                "weight": one.batch.weight,
                "step_weight": one.batch.step_weight,
                "features": [_plain(feature) for feature in one.batch.features],
            }
        )
    write_bytes(path.with_name(f"{path.name}.safetensors"), save(tensors))
    text = json.dumps(facts | {"batches": batches}, indent=1, ensure_ascii=False)
    write_text(path.with_name(f"{path.name}.json"), text + "\n")


def load_batches(path: Path) -> tuple[list[StepBatch], dict[str, Any]]:
    """What `save_batches` wrote: the batches, and the facts.

    Raises:
        UserError: files that it did not write, or that are damaged.
    """
    try:
        tensors = load_file(path.with_name(f"{path.name}.safetensors"))
        facts = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
        batches = facts.pop("batches")
        return [_batch(tensors, f"{n}.", about) for n, about in enumerate(batches)], facts
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}.* hold no recorded batches ({error})") from error


def _tensors(one: StepBatch) -> dict[str, Tensor]:
    batch = one.batch
    tensors = {name: getattr(batch, name) for name in OF_BATCH}
    for name in OF_TOKENS:
        rows = [getattr(feature, name) for feature in batch.features]
        if all(row is not None for row in rows):
            tensors[name] = torch.from_numpy(np.concatenate(rows))
    tensors |= {"generators.cpu": one.generators.cpu, "generators.cuda": one.generators.cuda}
    # copies: safetensors refuses tensors that share memory
    return {name: x.cpu().contiguous().clone() for name, x in tensors.items() if x is not None}


def _plain(feature: Feature) -> dict[str, Any]:
    """What of a feature is in no tensor."""
    said = {f.name: getattr(feature, f.name) for f in fields(Feature)}
    return {name: value for name, value in said.items() if not isinstance(value, np.ndarray)}


def _batch(tensors: dict[str, Tensor], prefix: str, about: dict[str, Any]) -> StepBatch:
    own = {name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)}
    bounds = own["cu_seqlens"].tolist()
    parts = zip(about["features"], bounds, bounds[1:], strict=False)
    batch = PackedBatch(
        **{name: own.get(name) for name in OF_BATCH},  # pyright: ignore[reportArgumentType]
        features=tuple(_feature(own, plain, slice(*span)) for plain, *span in parts),
        weight=float(about["weight"]),
        step_weight=float(about["step_weight"]),
    )
    return StepBatch(batch, GeneratorState(own["generators.cpu"], own.get("generators.cuda")))


def _feature(own: dict[str, Tensor], plain: dict[str, Any], span: slice) -> Feature:
    parts = {name: own[name][span].numpy() for name in own if name not in NOT_BY_TOKEN}
    global_mask, labels = parts.pop("global_mask"), own.get("labels")
    known: dict[str, Any] = parts | {"global_positions": np.flatnonzero(global_mask)} | plain
    if "label" not in known:  # one for every token
        assert labels is not None
        known["label"] = labels[span].numpy()
    return Feature(**known)
