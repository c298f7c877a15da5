"""Which layers of a pretrained model stay, and the architecture that they make."""

from typing import Any

from longspan.errors import UserError


def kept_layers(
    total: int, wanted: int | None, keep: str | tuple[int, ...] | list[int]
) -> tuple[int, ...]:
    """Which layers of a pretrained model stay.

    Evenly spaced layers include the first and the last, as DistilBERT's initialisation does
    (Sanh et al. 2019, section 3).
    """
    if not isinstance(keep, str):
        chosen = tuple(sorted(keep))
        if not chosen or len(set(chosen)) < len(chosen) or not 0 <= chosen[0] <= chosen[-1] < total:
            raise UserError(
                f"model.keep_layers={list(keep)} must list different layers of 0 … {total - 1}"
            )
        if wanted not in (None, len(chosen)):
            raise UserError(
                f"model.num_layers={wanted} contradicts model.keep_layers={list(keep)}; drop one"
            )
        return chosen
    wanted = total if wanted is None else wanted
    if not 1 <= wanted <= total:
        raise UserError(
            f"model.num_layers={wanted}: the pretrained model has {total} layers; choose 1 … {total}"
        )
    if keep == "first":
        return tuple(range(wanted))
    if keep == "last":
        return tuple(range(total - wanted, total))
    if wanted == 1:
        return (0,)
    return tuple(round(i * (total - 1) / (wanted - 1)) for i in range(wanted))


def select_layers(architecture: dict[str, Any], kept: tuple[int, ...]) -> dict[str, Any]:
    """The architecture of the kept layers alone."""
    chosen = dict(architecture)
    for name in ("window", "rope_theta"):
        if isinstance(chosen.get(name), tuple):
            chosen[name] = tuple(chosen[name][layer] for layer in kept)
    if "pattern" in chosen:
        chosen["pattern"] = _select_pattern(chosen["pattern"], kept, chosen["num_layers"])
    if not chosen.get("first_norm", True):
        # the layer without a norm is their layer 0
        chosen["first_norm"] = kept[0] != 0
    return chosen | {"num_layers": len(kept)}


def _select_pattern(pattern: dict[str, Any], kept: tuple[int, ...], total: int) -> dict[str, Any]:
    if pattern.get("random_blocks") and pattern.get("random_table") is None and len(kept) < total:
        raise UserError(
            f"model.num_layers={len(kept)} of {total}: random blocks are drawn by the layer's place, "
            "which changes; keep all layers"
        )
    per_layer = {n: x for n, x in pattern.items() if isinstance(x, tuple | list)}
    return pattern | {n: tuple(x[layer] for layer in kept) for n, x in per_layer.items()}
