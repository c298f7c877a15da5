"""A sweep in W&B, offline: a run for each cell with an id of its own, whatever launches them."""

import signal
import time

import pytest

from longspan.sweep.paths import CellPaths

WANDB = ("logger.kind=wandb", "logger.mode=offline", "trainer.max_epochs=1")


def runs_in(folder):
    """Ids of the W&B runs that lie in a run folder, and all that was written of them."""
    found = {}
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        run_id = file.stem.removeprefix("run-")
        found[run_id] = found.get(run_id, b"") + file.read_bytes()
    return found


def test_cells_side_by_side_are_runs_of_their_own(run, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = run("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *WANDB)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "sweeps" / "s"
    for window in (4, 8):
        cell = folder / f"window={window}"
        assert (cell / "report.json").is_file()
        ((run_id, written),) = runs_in(cell).items()
        assert run_id == f"s-window={window}"
        for said in (b"num_layers", b"seed", b"dev/accuracy", b"test/accuracy"):
            assert said in written
    ((run_id, written),) = runs_in(folder).items()
    assert run_id == "s-report"
    for file in ("report.csv", "report.html", "report.png"):  # the artifact
        assert file.encode() in written


@pytest.mark.slow
def test_a_resumed_cell_continues_its_run(start, run, tmp_path):
    cell = CellPaths(tmp_path / "sweeps" / "s", "window=4").folder
    longer = (*WANDB, "model.window=4,8", "trainer.max_epochs=60")
    process = start(*longer)
    while not cell.last_checkpoints.steps():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not cell.is_finished
    assert run(*longer).returncode == 0
    assert set(runs_in(cell.path)) == {"s-window=4"}
    assert len(list((cell.path / "wandb").glob("offline-run-*"))) == 2  # the second part
