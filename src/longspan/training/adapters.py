"""Training a part of the model: low-rank adapters by `peft`, frozen embeddings, frozen layers."""

import logging
from typing import Any

from torch import Tensor, nn

from longspan.config import Config
from longspan.errors import UserError
from longspan.training.module import LongDocumentModule
from longspan.training.optim import layers_below_head

log = logging.getLogger(__name__)


def check_adapters(config: Config) -> None:
    """Whether what `optim.lora` needs is installed, before anything is loaded.

    Raises:
        UserError: it is not.
    """
    if config.optim.lora.rank:
        _import_peft(config.optim.lora.rank)


def adapt(module: LongDocumentModule, announce: bool = True) -> None:
    """Freeze what shall not train and add the adapters, in place, as `module.config` says.

    The task head always trains in full. With `optim.lora.rank` the encoder trains its adapters
    alone: each target layer W gets W + alpha / rank · B A (Hu et al. 2021, section 4.1), A (rank,
    in) random and B (out, rank) zero, so that training starts from the weights as they are.
    `qkv` is one linear layer, so queries, keys and values share their A, and have rows of B of
    their own. Layers below `optim.freeze_layers` get no adapters.

    Call this when the weights are in place: their names are others afterwards.

    Args:
        module: with fresh or loaded weights.
        announce: log what was done.
    """
    config = module.config
    said = _freeze(module)
    if config.optim.lora.rank:
        said.append(_add_lora(module))
    if said and announce:
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        trained, total = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
        share = f"{trained:,} of {total:,} parameters train ({trained / total:.1%})"
        log.info("%s: %s", share, "; ".join(said))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights under the names, and in the shapes, that they have without adapters.

    Args:
        module: with or without adapters; stays as it is.

    Returns:
        `module.state_dict()`, the adapters added to the weights that they adapt.
    """
    state = {
        name.replace(".base_layer.", "."): weight
        for name, weight in module.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in _adapted(module).items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight("default")
    return {name: weight.detach() for name, weight in state.items()}


def _freeze(module: LongDocumentModule) -> list[str]:
    """Take parameters out of training; what was taken, for the log."""
    optim, num_layers = module.config.optim, module.config.model.num_layers
    said = []
    lowest = num_layers + 1  # as `layers_below_head` counts: the embeddings, then layer 0, …
    if optim.freeze_layers:
        lowest = num_layers - optim.freeze_layers + 1
        said.append(f"frozen: embeddings, lowest {optim.freeze_layers} of {num_layers} layers")
    elif optim.freeze_embeddings:
        said.append("frozen: embeddings")
    if said:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(layers_below_head(name, num_layers) < lowest)
    separate = module.config.model.global_projections == "separate"
    if separate and not module.config.trains_global_projections:
        # they never get a gradient, and DDP takes that for a mistake
        for name, parameter in module.encoder.named_parameters():
            if ".global_qkv." in name:
                parameter.requires_grad_(False)
        said.append("frozen: global projections, for no policy of globals.* is on")
    return said


def _add_lora(module: LongDocumentModule) -> str:
    """Adapters in place of training the encoder; what was added, for the log."""
    lora = module.config.optim.lora
    peft = _import_peft(lora.rank)
    targets = set(lora.targets)
    if not module.config.trains_global_projections:
        targets.discard("global_qkv")
    names = [
        f"layers.{layer}.{name}"
        for layer, block in enumerate(module.encoder.layers)
        if layer >= module.config.optim.freeze_layers
        for name, child in block.named_modules()
        if isinstance(child, nn.Linear) and name.rpartition(".")[2] in targets
    ]
    module.encoder.requires_grad_(False)
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=names,
        ),
        module.encoder,
    )
    assert _adapted(module).keys() == {f"encoder.{name}" for name in names}
    chosen = [target for target in lora.targets if target in targets]
    return f"LoRA of rank {lora.rank} on {', '.join(chosen)}, {len(names)} linear layers"


def _adapted(module: nn.Module) -> dict[str, Any]:
    """Layers with adapters by name; peft's class is not asked for, it may not be installed."""
    return {n: layer for n, layer in module.named_modules() if hasattr(layer, "get_delta_weight")}


def _import_peft(rank: int) -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"optim.lora.rank={rank} needs peft ({error}); pip install 'longspan[lora]'"
        ) from error
    return peft
