"""`train.py` and `eval.py` as a user meets them: in fresh processes, by what they print and leave."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from longspan.config import Config
from longspan.training.run import train
from longspan.training.run_folder import RunFolder
from longspan.training.tracking import read_metrics
from longspan.typed import from_dict

ROOT = Path(__file__).resolve().parents[1]
FIRST = [
    "experiment=debug_one_step",
    "name=first",
    *(f"trainer.limit_{kind}_batches=null" for kind in ("train", "val", "test")),
]


@pytest.fixture(scope="session")
def overrides(tiny_fields):
    """The command line of a tiny run, without its folders."""
    fields = dict(tiny_fields)
    files = fields.pop("data.files")
    return [
        "data=files",
        *(f"data.files.{split}={file}" for split, file in files.items()),
        *(f"{name}={value}" for name, value in fields.items()),
    ]


def start(script, *arguments, cwd, **options):
    return subprocess.Popen(
        [sys.executable, ROOT / script, *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(script, *arguments, cwd):
    process = start(script, *arguments, cwd=cwd)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def files_of(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def assert_quiet(stderr):
    """Nothing that asks for attention, and nothing of what others have to say."""
    for noise in ("Traceback", "arning", "rror", "INFO", "Tip:", "site-packages"):
        assert noise not in stderr


def the_line(process):
    """The one line of a command that the user can mend."""
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The working directory of the commands here, with `runs/` and nothing else in it."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(runs, overrides):
    return run("train.py", *FIRST, *overrides, cwd=runs)


@pytest.fixture(scope="module")
def folder(runs, trained):
    assert trained.returncode == 0, trained.stderr
    return runs / "runs" / "debug_one_step" / "first"


def test_a_run_leaves_its_folder_and_nothing_else(runs, folder):
    assert [path.name for path in runs.iterdir()] == ["runs"]
    assert files_of(folder) == {
        "config.yaml",
        "metrics.jsonl",
        "speed.jsonl",
        "report.json",
        *(
            f"checkpoints/{kind}/{file}"
            for kind in ("best/step=00000005", "last/step=00000005", "last/step=00000010")
            for file in ("manifest.json", "state.pt", "weights.safetensors")
        ),
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "predictions/test.jsonl",
        "figures/confusion_matrix.png",
        "figures/accuracy_by_length.png",
    }


def test_a_run_says_what_came_out_and_where_it_is(trained, folder):
    report = json.loads((folder / "report.json").read_text())
    assert "test: 9 documents" in trained.stdout
    for name, value in report["metrics"].items():
        assert name in trained.stdout
        assert f"{value:.4f}" in trained.stdout
    assert f"{report['parameters']:,} parameters · {report['steps']} steps" in trained.stdout
    assert "run folder: runs/debug_one_step/first" in trained.stdout
    assert_quiet(trained.stderr)


def test_a_run_records_what_happened(folder):
    records = read_metrics(folder / "metrics.jsonl")
    assert [r["step"] for r in records if "train/loss" in r] == list(range(10))
    assert [r["step"] for r in records if "dev/accuracy" in r] == [4, 9]
    assert [r["step"] for r in records if "test/accuracy" in r] == [10]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["window"] == 4
    assert config["name"] == "first"
    lines = (folder / "predictions" / "test.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert sorted(p["id"] for p in predictions) == sorted(f"test-{row}" for row in range(9))
    correct = sum(p["gold"] == p["predicted"] for p in predictions) / 9
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["accuracy"] == pytest.approx(correct)


def test_the_same_command_finds_its_work_done(runs, folder, overrides):
    before = {file: (folder / file).stat().st_mtime_ns for file in files_of(folder)}
    again = run("train.py", *FIRST, *overrides, cwd=runs)
    assert again.returncode == 0
    assert "finished before; overwrite=true does it again" in again.stderr
    assert "test: 9 documents" in again.stdout
    assert {file: (folder / file).stat().st_mtime_ns for file in files_of(folder)} == before


def test_another_config_in_the_same_folder_is_refused(runs, folder, overrides):
    before = files_of(folder)
    line = the_line(run("train.py", *FIRST, *overrides, "model.window=8", cwd=runs))
    assert "runs/debug_one_step/first holds a finished run" in line
    assert "(model.window: 4 → 8)" in line
    assert "set name=… for a new folder, or overwrite=true" in line
    assert files_of(folder) == before


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    runs, folder, overrides, tmp_path
):
    again = run("train.py", *FIRST, *overrides, f"runs_dir={tmp_path}", cwd=runs)
    assert again.returncode == 0
    second = tmp_path / "debug_one_step" / "first"
    for file in ("metrics.jsonl", "model/model.safetensors", "predictions/test.jsonl"):
        assert (second / file).read_bytes() == (folder / file).read_bytes()

    changes = ["seed=1", "overwrite=true", f"runs_dir={tmp_path}"]
    redone = run("train.py", *FIRST, *overrides, *changes, cwd=runs)
    assert redone.returncode == 0
    assert files_of(second) == files_of(folder)
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (second / file).read_bytes() != (folder / file).read_bytes()
    assert read_metrics(second / "metrics.jsonl")[0]["step"] == 0  # nothing of the old run


def test_an_evaluation_needs_the_run_folder_alone(runs, folder, tmp_path):
    done = run("eval.py", f"run={folder}", "output=again", cwd=tmp_path)
    assert done.returncode == 0
    assert_quiet(done.stderr)
    assert list(tmp_path.iterdir()) == []
    report = json.loads((folder / "report.json").read_text())
    for value in report["metrics"].values():
        assert f"{value:.4f}" in done.stdout
    again = (folder / "predictions" / "again.jsonl").read_text()
    assert again == (folder / "predictions" / "test.jsonl").read_text()


@pytest.mark.slow
def test_the_debugging_preset_runs_as_it_stands(tmp_path):
    done = run("train.py", "experiment=debug_one_step", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_quiet(done.stderr)
    folder = tmp_path / "runs" / "debug_one_step" / "default"  # no field is changed: no name
    assert json.loads((folder / "report.json").read_text())["steps"] == 1


# Without dropout the weights are a function of the batches: here six of 4, 4, 5, 1, 4 and 6
# documents, which make three steps of two.
OF_BATCHES = {"model.hidden_dropout": 0, "task.head_dropout": 0, "data.tokens_per_batch": 110}
# adapters over a frozen layer, and projections of global tokens that no document happens to have
PARTLY_TRAINED = [
    "optim.lora.rank=2",
    "optim.freeze_layers=1",
    "model.global_projections=separate",
    "globals.cls=false",
    "globals.regex=nowhere",
]


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)
@pytest.mark.parametrize("more", [[], PARTLY_TRAINED], ids=["all", "partly trained"])
def test_two_ranks_train_what_one_process_trains(overrides, tmp_path, more):
    fields = [f"{name}={value}" for name, value in OF_BATCHES.items()] + more
    done = run("train.py", *overrides, *fields, "trainer=ddp", "name=ddp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_quiet(done.stderr)
    assert done.stdout.count("test: 9 documents") == 1
    assert done.stderr.count("batches an epoch") == 1
    ddp = tmp_path / "runs" / "default" / "ddp"
    alone = ddp.with_name("alone")
    fields = yaml.safe_load((ddp / "config.yaml").read_text())
    fields |= {"name": alone.name, "runs_dir": str(ddp.parents[1])}
    fields["trainer"] |= {"strategy": "auto", "devices": 1, "accumulate_grad_batches": 2}
    train(from_dict(Config, fields))
    assert files_of(ddp) == files_of(alone)
    assert len(read_metrics(ddp / "metrics.jsonl")) == len(read_metrics(alone / "metrics.jsonl"))
    lines = (ddp / "predictions" / "test.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == sorted(f"test-{row}" for row in range(9))  # each once

    expected = load_file(alone / "model" / "model.safetensors")
    for name, weight in load_file(ddp / "model" / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_goes_on_from_its_checkpoint(overrides, tmp_path):
    epochs = 60  # so many that it is not done before the signal comes
    command = [*overrides, "name=broken", f"trainer.max_epochs={epochs}"]
    folder = tmp_path / "runs" / "default" / "broken"
    checkpoints = RunFolder(folder).last_checkpoints

    process = start("train.py", *command, cwd=tmp_path)
    while not checkpoints.steps():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run folder" not in stdout
    assert_quiet(stderr.replace("warning: interrupted", ""))
    reached = checkpoints.steps()[-1]
    checkpoint = checkpoints.folder(reached).relative_to(tmp_path)
    assert f"the same command goes on from {checkpoint}" in stderr
    assert not (folder / "report.json").exists()

    done = run("train.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_quiet(done.stderr)
    assert f"resuming from {checkpoint}, step {reached}" in done.stderr
    steps = json.loads((folder / "report.json").read_text())["steps"]
    assert steps > reached
    records = read_metrics(folder / "metrics.jsonl")
    assert [r["step"] for r in records if "train/loss" in r] == list(range(steps))
    assert [r["epoch"] for r in records if "dev/loss" in r] == list(range(epochs))


@pytest.mark.slow
def test_a_second_command_in_a_folder_stops_with_the_owner(overrides, tmp_path):
    command = [*overrides, "name=taken", "trainer.max_epochs=200"]
    folder = RunFolder(tmp_path / "runs" / "default" / "taken")
    process = start("train.py", *command, cwd=tmp_path)
    try:
        while not folder.last_checkpoints.steps():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        line = the_line(run("train.py", *command, cwd=tmp_path))
        assert f"taken: process {process.pid} on {socket.gethostname()} trains here" in line
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert folder.lock.exists()  # as a kill leaves it
    done = run("train.py", *command[:-1], "trainer.max_epochs=200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"taking over from process {process.pid} on" in done.stderr


@pytest.mark.slow
def test_two_ranks_go_on_from_the_same_checkpoint_where_the_newest_is_damaged(overrides, tmp_path):
    command = [*overrides, "trainer=ddp", "name=ddp", "trainer.max_epochs=3"]
    folder = RunFolder(tmp_path / "runs" / "default" / "ddp")
    done = run("train.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [folder.path / "metrics.jsonl", folder.model / "model.safetensors"]
    expected = [file.read_bytes() for file in results]
    before, newest = folder.last_checkpoints.steps()
    folder.report_file.unlink()  # as if it had been killed at the end
    (folder.last_checkpoints.folder(newest) / "weights.safetensors").write_bytes(b"")
    done = run("train.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is damaged (weights.safetensors has 0 bytes") == 1
    assert done.stderr.count(f"step={before:08d}, step {before}") == 1
    assert [file.read_bytes() for file in results] == expected


def test_a_recipe_trains_its_first_part_once_and_goes_on_from_it(tiny_fields, tmp_path):
    files = [f"data.files.{split}={file}" for split, file in tiny_fields["data.files"].items()]
    small = [
        "data=files", *files, "data.max_length=32", "data.tokens_per_batch=128",
        "model.max_positions=600", "trainer.limit_val_batches=1", "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false", "logger.kind=none",
    ]  # fmt: skip
    first = ["experiment=minilm_long_mlm", "name=short", "model.num_layers=1",
             "trainer.max_steps=1", *small]  # fmt: skip
    listed = ",".join(f'"{override}"' for override in first)
    command = ["experiment=minilm_long_era", "name=whole", f"first=[{listed}]", *small]
    command += ["trainer.max_epochs=1", "trainer.limit_train_batches=1"]
    done = run("train.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    mlm, era = tmp_path / "runs/minilm_long_mlm/short", tmp_path / "runs/minilm_long_era/whole"
    assert json.loads((mlm / "report.json").read_text())["metrics"]["bits_per_token"] > 0
    config = yaml.safe_load((era / "config.yaml").read_text())
    assert config["model"]["pretrained"] == str(mlm.relative_to(tmp_path) / "model")
    assert config["model"]["num_layers"] == 1
    assert "the classification head starts fresh" in done.stderr
    again = run("train.py", *command, cwd=tmp_path)
    assert again.stderr.count("this run was finished before") == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["model.winow=3"], "model.winow is not a field; did you mean model.window?"),
        (["trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
        (["window=3"], "window is not a field; did you mean model.window?"),
        (["modle=hybrid_tiny"], "modle is not a field; did you mean model?"),
        (["model.a.b.c=3"], "model.a is not a field; known: "),
        (["seed.x=3"], "seed.x is not a field, as seed holds none"),
        (["+model.colour=red"], "model.colour is not a field; known: "),
        (["data=nope"], "data=nope does not exist; there are arxiv, contract_nli,"),
        (
            ["model/pattern=equal_cls/nope"],
            "model/pattern=equal_cls/nope does not exist; there are",
        ),
        (["experiment=nope"], "experiment=nope does not exist; there are debug_one_step,"),
        (["model.window=wide"], "model.window='wide' has the wrong type; allowed: an integer"),
        (["model.window="], "model.window='' has the wrong type; allowed: an integer"),
        (["seed=1.5"], "seed=1.5 has the wrong type; allowed: an integer"),
        (["model.window=[1"], "model.window=[1 cannot be read ("),
        (["model.window"], "model.window cannot be read ("),
        (["model.window=${nope}"], "model.window: Interpolation key 'nope' not found"),
        (["model.window=-1"], "model.window=-1 is negative; it is the one-sided reach"),
        (["model=pretrained"], "model.pretrained is missing; give it a value: model.pretrained=…"),
        (["model.pretrained=/nowhere"], "model.pretrained=/nowhere does not exist; give a folder"),
        (["name=a/b"], "name='a/b' names a file or folder, but it holds a slash; choose another"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_answered_in_one_line(wrong, said, tmp_path):
    line = the_line(run("train.py", *wrong, cwd=tmp_path))
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "run is missing; give the folder of a run: run=runs/…"),
        (["run=nowhere"], "run=nowhere holds no run; give a folder that train.py printed"),
        (["run=x", "split=valid"], "split='valid' has the wrong type; allowed: train | dev | test"),
        (["rnu=x"], "rnu is not a field; did you mean run?"),
        (["run=x", "data.text_colum=y"], "did you mean data.text_column?"),
        (["run=x", "model.num_layers=2"], "model.num_layers is not a field; known: window"),
        (["run=x", "model.window=wide"], "model.window='wide' has the wrong type; allowed: an"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_a_wrong_evaluation_is_answered_in_one_line(wrong, said, tmp_path):
    line = the_line(run("eval.py", *wrong, cwd=tmp_path))
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_names_groups_and_fields(script, tmp_path):
    done = run(script, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python {script} [group=option ...] [field=value ...]" in done.stdout
    assert "src/longspan/config/" in done.stdout
    assert "hydra" not in done.stdout.lower()
    if script == "train.py":
        assert (
            "\nexperiment: debug_one_step, debug_overfit, default, minilm_long_era" in done.stdout
        )
        assert "\n  window: 64\n" in done.stdout


def test_a_reader_who_has_seen_enough_gives_no_traceback(tmp_path):
    with start("train.py", "--help", cwd=tmp_path) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
