"""Evaluate a trained run on a split: `python eval.py --help`."""

import hydra
from omegaconf import DictConfig, OmegaConf

from longspan.command import quiet_lightning, run_command, user_errors
from longspan.config import EvalConfig
from longspan.typed import from_dict


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(composed: DictConfig) -> None:
    with user_errors():
        config = from_dict(EvalConfig, OmegaConf.to_container(composed, resolve=True))
        # torch and the rest take seconds to load: a wrong command line is answered before that
        from longspan.training.evaluate import evaluate

        quiet_lightning()
        evaluate(config)


if __name__ == "__main__":
    run_command(main, paths=("run",))
