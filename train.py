"""Train a model: `python train.py --help`."""

from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from longspan.command import quiet_lightning, run_command, user_errors
from longspan.config import Config
from longspan.training.run_folder import folder_of, run_name
from longspan.typed import from_dict


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> None:
    with user_errors():
        run(plain(composed, HydraConfig.get().overrides.task))


def plain(composed: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The composed configuration as plain values, named after its overrides."""
    data: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    return data | {"name": run_name(overrides) if data["name"] is None else data["name"]}


def run(data: dict[str, Any]) -> Config:
    """Train, after the run that this one starts from."""
    if data["first"]:
        first = plain(hydra.compose("train", data["first"]), data["first"])
        where = {"runs_dir": data["runs_dir"], "logger": data["logger"]}
        data["model"]["pretrained"] = str(folder_of(run(first | where)).model)
    if data["model"].get("pretrained") is not None:
        from longspan.pretrained.load import complete_config

        data = complete_config(data)
    config = from_dict(Config, data)
    # torch and the rest take seconds to load: a wrong command line is answered before that
    from longspan.training.run import train

    quiet_lightning()
    train(config)
    return config


if __name__ == "__main__":
    run_command(main, implied={"model.pretrained": "model=pretrained"})
