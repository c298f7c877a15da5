"""Padded (B, N) tensors, as transformers passes them, to packed batches and back."""

import torch
from torch import Tensor

from longspan.batch import PackedBatch
from longspan.config import Config, GlobalsConfig
from longspan.errors import UserError


def pack_padded(
    config: Config,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    global_attention_mask: Tensor | None,
) -> tuple[PackedBatch, Tensor]:
    """The packed batch of padded inputs, and (B, N) bool: which of them are its tokens."""
    mask = _token_mask(input_ids, attention_mask)
    check_shape("token_type_ids", token_type_ids, input_ids)
    check_shape("global_attention_mask", global_attention_mask, input_ids)
    lengths = mask.sum(dim=1)  # (B,)
    limit = config.model.max_positions
    if config.model.positions == "learned" and limit and int(lengths.max()) > limit:
        raise UserError(
            f"input_ids: a document of {int(lengths.max())} tokens exceeds the model's {limit} "
            f"positions; tokenise with truncation=True, max_length={limit}"
        )
    if global_attention_mask is None:
        global_mask = _first_tokens_if_global(config.globals, mask)
    else:
        global_mask = global_attention_mask.bool()
    if token_type_ids is None:
        token_type_ids = torch.zeros_like(input_ids)
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))  # (B+1,)
    batch = PackedBatch(
        input_ids=input_ids[mask].long(),
        cu_seqlens=bounds.to(torch.int32),
        token_type_ids=token_type_ids[mask].long(),
        global_mask=global_mask[mask],
        labels=None,
        features=(),
        weight=float(len(input_ids)),
        step_weight=float(len(input_ids)),
    )
    return batch, mask


def padded(values: Tensor, mask: Tensor) -> Tensor:
    """(T, X) to (B, N, X), zeros at padding."""
    rows = values.new_zeros(*mask.shape, values.shape[-1])
    return rows.masked_scatter(mask[..., None], values)


def _token_mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(B, N) bool: the tokens of each document, one or more and side by side."""
    if input_ids.ndim != 2:
        raise UserError(
            f"input_ids of shape {tuple(input_ids.shape)} is no batch; give (documents, tokens)"
        )
    check_shape("attention_mask", attention_mask, input_ids)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    mask = mask.bool()
    lengths = mask.sum(dim=1)  # (B,)
    if not mask.numel() or not bool(lengths.all()):
        row = int((lengths == 0).nonzero()[0]) if len(lengths) else 0
        raise UserError(f"attention_mask: document {row} is nothing but padding; leave it out")
    place = torch.arange(mask.shape[1], device=mask.device)
    first = mask.int().argmax(dim=1)
    last = place.mul(mask).amax(dim=1)
    gaps = last - first + 1 != lengths
    if bool(gaps.any()):
        raise UserError(
            f"attention_mask: document {int(gaps.nonzero()[0])} has padding between its tokens; "
            "pad on one side"
        )
    return mask


def _first_tokens_if_global(policies: GlobalsConfig, mask: Tensor) -> Tensor:
    """(B, N) bool: the global tokens, where the run's policies need no text."""
    by_text = {name: value for name, value in vars(policies).items() if value and name != "cls"}
    if by_text:
        chosen = ", ".join(f"globals.{name}={value}" for name, value in by_text.items())
        raise UserError(
            f"global_attention_mask is missing: in training {chosen} chose the global tokens by "
            "the text; give (documents, tokens) with 1 where a token is global"
        )
    chosen = torch.zeros_like(mask)
    if policies.cls:
        chosen.scatter_(1, mask.int().argmax(dim=1, keepdim=True), True)
    return chosen


def check_shape(name: str, given: Tensor | None, input_ids: Tensor) -> None:
    if given is not None and given.shape != input_ids.shape:
        raise UserError(
            f"{name} has shape {tuple(given.shape)}, input_ids has {tuple(input_ids.shape)}; "
            "make them the same"
        )
