"""From what Hydra composed of conf/train.yaml to the typed configuration of one run."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from longspan.config import Config, SweepConfig
from longspan.errors import UserError
from longspan.training.run_folder import run_name
from longspan.typed import from_dict, typed_fields


def placed(composed: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of a run without those of its sweep, with the name and folder that it has.

    Args:
        composed: of conf/train.yaml, a mapping.
        overrides: that a run is named after, unless it was given a name or is a cell of a sweep.
    """
    data = dict(composed)
    sweep = sweep_of(data)
    del data["sweep"]
    for field in fields(Config):
        if field.name not in data:
            raise UserError(f"{field.name} is taken away; drop ~{field.name}")
    if sweep.cell is not None:
        data |= {"runs_dir": sweep.dir, "experiment": sweep.name, "name": sweep.cell}
    elif data["name"] is None:
        data["name"] = run_name(overrides)
    # what is read before all of it is checked
    early = ("first", "runs_dir", "experiment", "name")
    typed_fields(Config, {name: data[name] for name in early})
    return data


def sweep_of(composed: Any) -> SweepConfig:
    """Which cell of which sweep a run is.

    Raises:
        UserError: unknown field, wrong type.
    """
    return from_dict(SweepConfig, composed.get("sweep"), "sweep")


def as_config(data: dict[str, Any]) -> Config:
    """Check and convert; a pretrained model fills in what is left to it.

    Raises:
        UserError: unknown field, wrong type, impossible combination, no such model.
    """
    groups = [data.get(name) for name in ("model", "task", "data")]
    # what is no group, and a name that is no text, are refused below
    if all(isinstance(group, dict) for group in groups) and isinstance(
        data["model"].get("pretrained"), str
    ):
        from longspan.pretrained.load import complete_config  # loads transformers, for seconds

        data = complete_config(data)
    return from_dict(Config, data)
