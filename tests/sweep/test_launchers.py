"""Launchers: the examples compose where their plugin is installed; Ray runs cells where it is.

joblib does in test_tracking.py.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
PLUGINS = {
    "slurm": "hydra_submitit_launcher",
    "ray_local": "hydra_ray_launcher",
    "two_at_once": "hydra_joblib_launcher",
}


def test_every_launcher_is_tested_here():
    assert {file.stem for file in CONF.glob("hydra/launcher/*.yaml")} == set(PLUGINS)


@pytest.mark.parametrize(("launcher", "plugin"), PLUGINS.items())
def test_an_example_composes(launcher, plugin):
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose(
            "train",
            overrides=["sweep=window_layers", f"hydra/launcher={launcher}", "sweep.dir=/s"],
            return_hydra_config=True,
        )
    launch = OmegaConf.to_container(config.hydra.launcher, resolve=launcher == "slurm")
    assert plugin in launch["_target_"]
    said = {
        "slurm": {"submitit_folder": "/s/.submitit/%j", "timeout_min": 240, "gpus_per_node": 1},
        "ray_local": {},
        "two_at_once": {"n_jobs": 2},
    }[launcher]
    assert {name: launch[name] for name in said} == said


def test_ray_runs_the_cells_on_this_machine(run, tmp_path, monkeypatch):
    try:
        import hydra_plugins.hydra_ray_launcher  # noqa: F401
        import ray  # noqa: F401
    except ImportError:
        pytest.skip("needs hydra-ray-launcher, which wants cloudpickle<3: docs/sweeps.md says how")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token in the home folder
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a busy machine
    done = run("hydra/launcher=ray_local", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "sweeps" / "s"
    for window in (4, 8):
        assert (folder / f"window={window}" / "report.json").is_file()
    assert (folder / "report.html").is_file()
