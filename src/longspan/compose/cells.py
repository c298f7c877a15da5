"""A command line of overrides to configurations, as `train.py -m` composes them, one for each cell.

`train.py` gets what Hydra composed from Hydra's own application; other commands ask here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from longspan.command import implied_choices
from longspan.compose.configuration import as_config, placed
from longspan.config import Config
from longspan.errors import UserError
from longspan.typed import from_dict, to_dict

FOLDER = Path(__file__).parents[3] / "conf"
IMPLIED = {"model.pretrained": "model=pretrained"}  # as in train.py


@dataclass(frozen=True)
class Cell:
    """One configuration of a sweep.

    Attributes:
        name: of what varies: `window=64,num_layers=4`; empty where nothing does.
        config: as train.py would run it.
    """

    name: str
    config: Config


def compose_cells(overrides: Sequence[str]) -> list[Cell]:
    """The cartesian product of all values that are given with commas, or by a `sweep=…` preset.

    Raises:
        UserError: a configuration that train.py would refuse.
    """
    if not FOLDER.is_dir():
        raise UserError(f"{FOLDER} is missing; run this from a checkout of longspan")
    with initialize_config_dir(version_base="1.3", config_dir=str(FOLDER)):
        given = [*implied_choices(overrides, IMPLIED), *overrides]
        choices = _choices(given)
        varied = [key for key, values in choices.items() if len(values) > 1]
        cells = []
        for values in product(*choices.values()):
            chosen = dict(zip(choices, values, strict=True))
            name = ",".join(f"{_short(key)}={chosen[key]}" for key in varied)
            data = _composed([f"{key}={value}" for key, value in chosen.items()])
            cells.append(Cell(name, _config(data | {"name": name or "default"})))
    return cells


def _choices(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Field to the values that it takes; the command line wins over a preset's."""
    parser = OverridesParser.create()
    given = _values(parser.parse_overrides(list(overrides)))
    single = [f"{key}={values[0]}" for key, values in given.items()]
    hydra = compose("train", overrides=single, return_hydra_config=True).hydra
    preset = OmegaConf.to_container(hydra.sweeper.params or OmegaConf.create())
    assert isinstance(preset, dict)
    swept = parser.parse_overrides([f"{key}={value}" for key, value in preset.items()])
    return _values(swept) | given


def _values(overrides: Sequence[Override]) -> dict[str, list[str]]:
    values = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            values[key] = [str(value) for value in override.sweep_string_iterator()]
        else:
            raise UserError(
                f"{override.input_line}: a search has no cells to list; give values with commas"
            )
    return values


def _composed(overrides: list[str]) -> dict[str, Any]:
    composed = compose("train", overrides=overrides)
    return placed(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True), overrides)


def _config(data: dict[str, Any]) -> Config:
    """As a run has it; the model of a run that is made first is taken from its configuration."""
    if not data["first"]:
        return as_config(data)
    from longspan.pretrained.load import given_fields  # loads transformers, for seconds

    first = to_dict(_config(_composed(data["first"])))
    own = given_fields(data["model"])
    pattern = first["model"]["pattern"] | own.get("pattern", {})
    tokenizer = data["data"].get("tokenizer") or first["data"]["tokenizer"]
    model = first["model"] | own | {"pattern": pattern, "pretrained": None}
    return from_dict(
        Config,
        data | {"first": [], "model": model, "data": data["data"] | {"tokenizer": tokenizer}},
    )


def _short(key: str) -> str:
    return key.lstrip("+~").rsplit(".", 1)[-1]
