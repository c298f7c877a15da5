"""Published encoders into ours: architecture first, weights second, both checked name by name."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from longspan.config import ModelConfig
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained import (
    bert,
    bigbird,
    distilbert,
    longformer,
    mistral,
    modernbert,
    own,
    roberta,
)
from longspan.pretrained.family import Family, expand, gather_weights
from longspan.pretrained.folder import (
    pretrained_folder,
    read_config,
    read_model_type,
    read_weights,
)
from longspan.pretrained.layers import kept_layers, select_layers
from longspan.typed import typed_fields

FAMILIES = {
    family.model_type: family
    for family in (
        bert.FAMILY,
        roberta.FAMILY,
        roberta.XLM_ROBERTA,
        longformer.FAMILY,
        modernbert.FAMILY,
        distilbert.FAMILY,
        bigbird.FAMILY,
        mistral.FAMILY,
        mistral.MINISTRAL,
        own.FAMILY,
    )
}
KEEP = "keep"  # in conf/model/pretrained.yaml: as the pretrained model has it

log = logging.getLogger(__name__)


def family_of(folder: Path) -> Family:
    """The family that the folder's config.json names.

    Raises:
        UserError: a family that is not supported, with those that are.
    """
    # before `transformers` reads it, which knows neither families of other people's code nor ours
    model_type = read_model_type(folder) or read_config(folder).model_type
    if model_type not in FAMILIES:
        raise UserError(
            f"model.pretrained: {folder} is a {model_type} model, which is not supported; "
            f"supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def complete_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelConfig` where a pretrained model decides what the user left open.

    Args:
        model: as Hydra composed it; "keep" stands for what the pretrained model has.

    Returns:
        fields for `typed.from_dict`, with `window`, `rope_theta` and `num_layers` of the layers
        that are kept.
    """
    if model.get("pretrained") is None:
        return dict(model)
    given = given_fields(model)
    # what follows computes with them; a pattern's fields may mean something with theirs only
    alone = {n: x for n, x in given.items() if n != "pattern" or not isinstance(x, Mapping)}
    typed_fields(ModelConfig, alone, "model")
    folder = pretrained_folder(model["pretrained"])
    theirs = family_of(folder).architecture(read_config(folder))
    if "pattern" in given:
        given["pattern"] = theirs.get("pattern", {}) | given["pattern"]
        typed_fields(ModelConfig, {"pattern": given["pattern"]}, "model")
    kept = kept_layers(
        theirs["num_layers"], given.get("num_layers"), model.get("keep_layers", "spaced")
    )
    theirs = select_layers(theirs, kept)
    if "window" in given:
        given["window"] = _new_windows(theirs["window"], given["window"])
    decided = {n for n in theirs.keys() & given.keys() if n not in OPEN and given[n] != theirs[n]}
    for name in sorted(decided):
        raise UserError(
            f"model.{name}={given[name]} contradicts model.pretrained, which has {theirs[name]}; "
            "leave it out, or use model=pretrained"
        )
    return {**theirs, **given, "num_layers": len(kept)}


def given_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """What is not left as the pretrained model has it."""
    return {
        name: given_fields(value) if isinstance(value, Mapping) else value
        for name, value in model.items()
        if value != KEEP
    }


def complete_config(data: dict[str, Any]) -> dict[str, Any]:
    """A composed configuration where a pretrained model decides what the user left open.

    Its architecture, the shape of its task heads, and its tokenizer.
    """
    name = data["model"].get("pretrained")
    if name is None:
        return data
    model = complete_model(data["model"])
    family = family_of(pretrained_folder(name))
    task, rows = data["task"], data["data"]
    decided = family.head.get(str(task.get("name", "classification")), {})
    head = {field: value for field, value in decided.items() if task.get(field) is None}
    return data | {
        "model": model,
        "task": task | head,
        "data": rows | {"tokenizer": rows.get("tokenizer") or name},
    }


# what a user may choose though the model is pretrained
OPEN = ("window", "pattern", "num_layers", "max_positions", "hidden_dropout", "attention_dropout",
        "global_projections")  # fmt: skip


def _new_windows(theirs: Any, wanted: Any) -> Any:
    """One number replaces the windows of the layers that have one; of all, where none has."""
    if isinstance(theirs, tuple) and isinstance(wanted, int) and any(w is not None for w in theirs):
        return tuple(None if window is None else wanted for window in theirs)
    return wanted


def load_encoder(encoder: Encoder) -> None:
    """Fill the encoder with the weights of `config.pretrained`, and log what was changed.

    Raises:
        UserError: weights that are missing, or that the encoder does not know, each named.
    """
    config = encoder.config
    assert config.pretrained is not None
    folder = pretrained_folder(config.pretrained)
    family = family_of(folder)
    hf_config = read_config(folder)
    architecture = family.architecture(hf_config)
    kept = kept_layers(architecture["num_layers"], config.num_layers, config.keep_layers)
    theirs = encoder_weights(family, read_weights(folder))
    names = set(encoder.state_dict())
    copied = {name for name in names if ".global_qkv." in name} - set(expand(family.weights, kept))
    wanted = {n: parts for n, parts in expand(family.weights, kept).items() if n in names}
    found, missing = gather_weights(wanted, theirs)
    _check_missing(folder, missing, names - copied - set(wanted))
    _check_unexpected(folder, family, set(theirs), architecture["num_layers"])
    if "position_embedding.weight" in found:
        table = found["position_embedding.weight"][family.unused_positions(hf_config) :]
        assert config.max_positions is not None
        found["position_embedding.weight"] = extend_by_copying(table, config.max_positions)
    found |= {name: found[name.replace(".global_qkv.", ".qkv.")] for name in copied}
    _check_shapes(folder, wanted, found, encoder)
    encoder.load_state_dict(found)
    _log_changes(config, architecture, kept, folder)


def load_head(head: nn.Module, task: str, pretrained: str) -> bool:
    """Fill a task head where the pretrained model has one of that task and size; else say so.

    Args:
        head: a fresh one.
        task: its name, as in `Family.heads`.
        pretrained: the model's name.

    Returns:
        whether it was filled.
    """
    folder = pretrained_folder(pretrained)
    family = family_of(folder)
    theirs = read_weights(folder)
    names = head.state_dict()
    wanted = expand(family.heads.get(task, {}), ())
    found, _ = gather_weights({n: p for n, p in wanted.items() if n in names}, theirs)
    # few models have this score: it starts fresh beside those that they have
    found |= {n: x for n, x in names.items() if n.startswith("answerable.") and n not in found}
    if {n: x.shape for n, x in found.items()} == {n: x.shape for n, x in names.items()}:
        head.load_state_dict(found)
        log.info("the %s head comes from %s", task, pretrained)
        return True
    log.info("the %s head starts fresh: %s has none that fits", task, pretrained)
    return False


def encoder_weights(family: Family, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under the names they have in a bare encoder."""
    if not any(name.startswith(family.prefix) for name in weights):
        return dict(weights)
    return {name.removeprefix(family.prefix): tensor for name, tensor in weights.items()}


def extend_by_copying(table: Tensor, num_positions: int) -> Tensor:
    """(P, C) learned positions to (num_positions, C), the table repeated (Longformer, section 5)."""
    repeats = -(-num_positions // len(table))
    return table.repeat(repeats, 1)[:num_positions].clone()


def _check_missing(folder: Path, missing: list[str], unmapped: set[str]) -> None:
    assert not unmapped, f"no family weights for {sorted(unmapped)}"
    if missing:
        raise UserError(
            f"model.pretrained: {folder} lacks {len(missing)} weights of the encoder "
            f"({', '.join(missing)}); fetch it anew, nothing is filled in at random"
        )


def _check_shapes(
    folder: Path,
    wanted: Mapping[str, tuple[str, ...]],
    found: Mapping[str, Tensor],
    encoder: Encoder,
) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    others = [
        f"{' + '.join(parts)}: {tuple(found[name].shape)}, not {shapes[name]}"
        for name, parts in wanted.items()
        if tuple(found[name].shape) != shapes[name]
    ]
    if others:
        raise UserError(
            f"model.pretrained: {folder} has {len(others)} weights of another shape than its "
            f"config.json says ({'; '.join(others)}); is config.json of this model?"
        )


def _check_unexpected(folder: Path, family: Family, given: set[str], num_layers: int) -> None:
    known = {name for parts in expand(family.weights, range(num_layers)).values() for name in parts}
    unexpected = sorted(name for name in given - known if not name.startswith(family.ignored))
    if unexpected:
        raise UserError(
            f"model.pretrained: {folder} has {len(unexpected)} weights that a {family.model_type} "
            f"encoder does not have ({', '.join(unexpected)}); is config.json of this model?"
        )


def _log_changes(
    config: ModelConfig, theirs: Mapping[str, Any], kept: tuple[int, ...], folder: Path
) -> None:
    """Say what was done to the pretrained model."""
    log.info("pretrained: %s, %d of %d layers", folder, len(kept), theirs["num_layers"])
    if len(kept) < theirs["num_layers"]:
        log.info("layers kept: %s", ", ".join(map(str, kept)))
    windows = select_layers(dict(theirs), kept)["window"]
    before = windows if isinstance(windows, tuple) else (windows,) * len(kept)
    if before != config.windows:
        log.info("window: %s → %s", _say_windows(before), _say_windows(config.windows))
    if config.positions == "learned" and config.max_positions != theirs["max_positions"]:
        log.info(
            "positions: %d → %d, by copying the table",
            theirs["max_positions"],
            config.max_positions,
        )
    if config.global_projections != theirs.get("global_projections", "shared"):
        log.info("global projections: separate, starting as copies of the local ones")


def _say_windows(windows: tuple[int | None, ...]) -> str:
    names = ["full" if window is None else str(window) for window in windows]
    return names[0] if len(set(names)) == 1 else ", ".join(names)
