"""From what Hydra composed of conf/train.yaml to the typed configuration of one run."""

from collections.abc import Sequence
from typing import Any

from longspan.config import Config
from longspan.training.run_folder import run_name
from longspan.typed import from_dict


def placed(composed: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of a run without those of its sweep, with the name and folder that it has.

    Args:
        composed: of conf/train.yaml, a mapping.
        overrides: that a run is named after, unless it was given a name or is a cell of a sweep.
    """
    data = dict(composed)
    sweep = data.pop("sweep")
    if sweep["cell"] is not None:
        place = {"runs_dir": sweep["dir"], "experiment": sweep["name"], "name": sweep["cell"]}
        return data | place
    return data | {"name": run_name(overrides) if data["name"] is None else data["name"]}


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
