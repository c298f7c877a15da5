"""A command line of overrides to configurations, as `train.py` composes them, one for each cell.

`train.py` gets this from Hydra's own application; other commands ask here.
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
from longspan.config import Config
from longspan.errors import UserError
from longspan.typed import from_dict

FOLDER = Path(__file__).parents[2] / "conf"
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
            data = _completed(_composed([f"{key}={value}" for key, value in chosen.items()]))
            cells.append(Cell(name, from_dict(Config, data | {"name": name or "default"})))
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
    data: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    data.pop("sweep", None)  # of many runs, not of one
    return data


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    """With what a pretrained model, or the run that is trained first, decides."""
    if not data["first"] and data["model"].get("pretrained") is None:
        return data
    from longspan.pretrained.load import KEEP, complete_config  # loads transformers, for seconds

    if data["first"]:
        first = _completed(_composed(data["first"]))
        own = {k: v for k, v in data["model"].items() if v != KEEP and k != "pretrained"}
        tokenizer = data["data"].get("tokenizer") or first["data"]["tokenizer"]
        model = first["model"] | own | {"pretrained": None}
        return data | {"first": [], "model": model, "data": data["data"] | {"tokenizer": tokenizer}}
    return complete_config(data)


def _short(key: str) -> str:
    return key.lstrip("+~").rsplit(".", 1)[-1]
