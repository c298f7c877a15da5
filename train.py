"""Train a model, or with -m many: `python train.py --help`."""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from longspan.command import quiet_lightning, run_command, user_errors
from longspan.compose.configuration import as_config, placed, sweep_of
from longspan.sweep.cell import alone_at, cell_of
from longspan.sweep.process import Outcome, run_cell


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> Outcome | None:
    job = HydraConfig.get()
    with user_errors():
        sweep = sweep_of(OmegaConf.to_container(composed))
        if job.mode == RunMode.MULTIRUN:
            return run_cell(__file__, job.overrides.task, sweep)
        with cell_of(sweep, job.runtime.choices["sweep"]):
            run(plain(composed, job.overrides.task))


def plain(composed: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Plain values, named after the overrides or the cell."""
    return placed(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True), overrides)


def run(data: dict[str, Any]) -> None:
    """Train, after the run that this one starts from."""
    if data["first"]:
        first = plain(hydra.compose("train", data["first"]), data["first"])
        first |= {name: data[name] for name in ("runs_dir", "logger")}
        folder = Path(first["runs_dir"], first["experiment"], first["name"])
        with alone_at(folder):
            run(first)
        data["model"]["pretrained"] = str(folder / "model")
    config = as_config(data)
    # torch and the rest take seconds to load: a wrong command line is answered before that
    from longspan.training.run import train

    quiet_lightning()
    train(config)


if __name__ == "__main__":
    run_command(main, implied={"model.pretrained": "model=pretrained"})
