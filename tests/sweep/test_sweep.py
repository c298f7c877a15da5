"""A sweep as a user meets it: in fresh processes, killed, repeated, in company."""

import signal
import time
from pathlib import Path

import pytest

from longspan.lock import Lock
from longspan.sweep.paths import CellPaths
from longspan.sweep.results import read_sweep

CELLS = ["window=4", "window=8"]


def reports(folder):
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("*/report.json")}


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_sweep_survives_a_kill_and_ends_in_a_picture(start, run, tmp_path):
    folder = tmp_path / "sweeps" / "s"
    longer = ["trainer.max_epochs=40"]
    process = start(*longer)
    broken = CellPaths(folder, CELLS[1])
    wait_for(broken.folder.last_checkpoints.steps, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = reports(folder)
    assert list(before) == CELLS[:1]
    assert read_sweep(folder).cells[0].status == "finished"

    done = run(*longer)
    assert done.returncode == 0, done.stderr
    assert "2 cells, 1 finished before" in done.stderr
    after = reports(folder)
    assert set(after) == set(CELLS)
    assert after[CELLS[0]] == before[CELLS[0]]  # a finished cell is left alone
    assert "resuming from sweeps/s/window=8/checkpoints/last/step=" in broken.log.read_text()
    assert f"report: {Path('sweeps/s/report.html')}" in done.stdout
    assert all((folder / f"report.{kind}").is_file() for kind in ("csv", "png", "html"))
    assert list((folder / ".locks").iterdir()) == []

    differs = run("optim.learning_rate=0.02")
    assert differs.returncode == 1
    assert "(optim.learning_rate: 0.01 → 0.02" in differs.stderr
    assert "sweep.overwrite=true to redo" in differs.stderr
    assert reports(folder) == after


@pytest.mark.slow
def test_what_cannot_run_is_recorded_and_the_rest_goes_on(start, tmp_path):
    folder = tmp_path / "sweeps" / "s"
    damaged, taken = (CellPaths(folder, f"window={w},num_heads=2") for w in (4, 8))
    damaged.folder.path.mkdir(parents=True)
    damaged.folder.config_file.write_text("a: [")
    with Lock(taken.lock):  # another sweep is at it
        process = start("model.num_heads=2,3", "trainer.max_epochs=1")
        wait_for(damaged.folder.report_file.exists, process)
        assert not taken.folder.path.exists()
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 1
    assert set(reports(folder)) == {damaged.name, taken.name}  # it came back
    assert damaged.set_aside(1).is_dir()
    assert "model.num_heads=3 does not divide model.hidden_size=16" in stderr
    assert stderr.splitlines()[-1].startswith("error: 2 of 4 cells have no result")
    assert "report.html" in stdout


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_killed_until_it_has_its_trials(start, run, tmp_path):
    pytest.importorskip("optuna")
    search = [
        "sweep=optuna", "model.num_layers=1", "optim.learning_rate=0.01", "sweep.ceiling=1e9",
        "hydra.sweeper.trials=3", "hydra.sweeper.warmup=1", "trainer.max_epochs=1",
    ]  # fmt: skip
    folder = tmp_path / "sweeps" / "s"
    process = start(*search)
    wait_for(lambda: any(folder.glob("window=*/config.yaml")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (begun,) = [file.parent.name for file in folder.glob("window=*/config.yaml")]
    done = run(*search)
    assert done.returncode == 0, done.stderr
    assert begun in reports(folder)  # asked first
    assert "3 trials" in done.stderr
    assert "3 trials" in run(*search).stderr  # and no more


@pytest.mark.slow
def test_a_search_for_the_front_is_told_quality_and_cost(run, tmp_path):
    optuna = pytest.importorskip("optuna")
    done = run(
        "sweep=optuna", "hydra.sweeper.objective=front", "model.num_layers=1",
        "optim.learning_rate=0.01", "hydra.sweeper.trials=2", "trainer.max_epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(
        study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweeps' / 's' / 'study.db'}"
    )
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    costs = [trial.values[1] for trial in study.trials]
    assert len(costs) == 2
    assert min(costs) > 0  # µs a token


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["model.winow=1,2"], "model.winow is not a field; did you mean model.window?"),
        (["model.window=4,wide"], "model.window='wide' has the wrong type"),
        (["sweep.celling=3"], "sweep.celling is not a field; did you mean sweep.ceiling?"),
        (
            ["sweep=nope"],
            "sweep=nope does not exist; there are grid, optuna, patterns, patterns_qa, window_layers",
        ),
        (["seed=-1,-2"], "seed=-1 must be 0 or more"),
        (
            ["sweep=optuna", "hydra.sweeper.objective=best"],
            "error: hydra.sweeper.objective=best must be ceiling or front",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_slip_stops_a_sweep_before_it_starts(run, tmp_path, wrong, said):
    done = run(*wrong)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []
    assert done.stdout == ""
