"""A run from config to run folder, in this process; `test_commands.py` has fresh ones."""

import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from longspan.config import EvalConfig
from longspan.errors import UserError
from longspan.training.checkpoints.folder import read_checkpoint
from longspan.training.evaluate import evaluate
from longspan.training.module import LongDocumentModule
from longspan.training.run import train
from longspan.training.run_folder import RunFolder
from longspan.training.tracking import read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)

DETERMINISTIC = {"model.hidden_dropout": 0, "task.head_dropout": 0}


def folder_of(config, runs):
    return RunFolder(runs / config.experiment / config.name)


def records_of(folder):
    return read_metrics(folder.path / "metrics.jsonl")


@pytest.fixture
def run(make_config, tmp_path):
    """Train a tiny config with some fields changed: its report and its folder."""

    def run(**changes):
        config = make_config(tmp_path, **changes)
        return train(config), folder_of(config, tmp_path)

    return run


class CrashError(Exception):
    pass


@pytest.fixture
def crash_at(monkeypatch):
    """Let the training step of a given number, over all epochs, fail."""

    def crash_at(number):
        step, calls = LongDocumentModule.training_step, []

        def fail(self, batch, batch_idx):
            calls.append(batch_idx)
            if len(calls) == number:
                raise CrashError
            return step(self, batch, batch_idx)

        monkeypatch.setattr(LongDocumentModule, "training_step", fail)
        return monkeypatch

    return crash_at


def test_the_report_tells_what_the_run_was(run):
    report, folder = run()
    assert report == folder.read_report()
    assert report["split"] == "test"
    assert report["steps"] == 10
    assert report["epochs"] == 2
    assert report["parameters"] == sum(
        tensor.numel() for tensor in load_file(folder.model / "model.safetensors").values()
    )
    assert report["tokens_per_second"] > 0
    assert report["peak_memory_bytes"] > 10 * 2**20
    assert report["seconds"] > 0
    assert 0.5 < report["packing_efficiency"] <= 1
    assert report["metrics"].keys() >= {"loss", "accuracy", "macro_f1"}
    assert sum(row["documents"] for row in report["by_length"]) == 9
    assert report["data"]["train"]["documents"] == 24


@pytest.mark.parametrize("crashes", [[1], [3], [8], [8, 4]])
def test_a_broken_run_resumes_to_the_bytes_of_an_unbroken_one(run, crash_at, crashes):
    _, unbroken = run(name="unbroken", **DETERMINISTIC)
    for number in crashes:  # the training step of this attempt at which it breaks
        patch = crash_at(number)
        with pytest.raises(CrashError):
            run(name="broken", **DETERMINISTIC)
        patch.undo()
    report, broken = run(name="broken", **DETERMINISTIC)
    assert report["steps"] == 10
    for file in ("metrics.jsonl", "model/model.safetensors", "predictions/test.jsonl"):
        assert (broken.path / file).read_bytes() == (unbroken.path / file).read_bytes()


def test_a_run_that_broke_after_its_training_repeats_no_record(run, monkeypatch):
    def fail(*arguments, **options):
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr("longspan.training.finish.draw_figures", fail)
        with pytest.raises(CrashError):
            run(**DETERMINISTIC)
    report, folder = run(**DETERMINISTIC)
    records = records_of(folder)
    assert [r["step"] for r in records if "train/loss" in r] == list(range(10))
    assert [r["step"] for r in records if "test/loss" in r] == [10]
    assert report["steps"] == 10


def test_a_finished_run_is_not_repeated_and_an_overwritten_one_is(run, caplog):
    caplog.set_level(logging.INFO, logger="longspan")
    first, folder = run()
    again, _ = run()
    assert again == first
    assert "this run was finished before" in caplog.text
    (folder.path / "stale").touch()
    redone, _ = run(overwrite=True)
    assert redone["seconds"] != first["seconds"]
    assert redone["metrics"] == first["metrics"]
    assert not (folder.path / "stale").exists()


def test_the_model_folder_holds_the_best_weights_by_the_dev_metric(run):
    # the highest loss is that of the first epoch: so the last weights are not the best ones
    _, folder = run(
        **DETERMINISTIC,
        **{
            "checkpoint.monitor": "loss",
            "checkpoint.mode": "max",
            "trainer.max_epochs": 3,
        },
    )
    losses = [record["dev/loss"] for record in records_of(folder) if "dev/loss" in record]
    assert max(losses) == losses[0] > losses[-1]
    (best,) = (folder.best_checkpoints.folder(s) for s in folder.best_checkpoints.steps())
    best = read_checkpoint(best)
    last = read_checkpoint(folder.last_checkpoints.folder(15))
    assert best["global_step"] == 5
    kept = load_file(folder.model / "model.safetensors")
    assert kept.keys() == best["state_dict"].keys()
    for name, weight in kept.items():
        assert torch.equal(weight, best["state_dict"][name])
    assert any(not torch.equal(weight, last["state_dict"][name]) for name, weight in kept.items())


def test_the_test_split_is_predicted_with_the_weights_that_are_kept(run):
    report, folder = run(**{"checkpoint.monitor": "loss", "checkpoint.mode": "max"})
    summary = evaluate(EvalConfig(run=str(folder.path)))
    assert summary["metrics"] == pytest.approx(report["metrics"])


def test_early_stopping_waits_for_its_patience_and_no_longer(run):
    report, folder = run(
        **{
            "checkpoint.monitor": "loss",
            "checkpoint.mode": "max",  # falls from the first epoch on
            "checkpoint.patience": 2,
            "trainer.max_epochs": 20,
        },
        **DETERMINISTIC,
    )
    assert sum("dev/loss" in record for record in records_of(folder)) == 3
    assert report["steps"] == 15


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("saved", ["checkpoint.every_n_steps", "trainer.val_check_interval"])
@pytest.mark.parametrize("limit", [-1, 8])
@pytest.mark.parametrize(
    "crash", [4, 6, 7]
)  # in the first epoch of five steps, at its end, after it
def test_a_run_resumed_inside_an_epoch_ends_as_if_nothing_had_happened(
    run, crash_at, tmp_path, limit, crash, saved
):
    changes = {saved: 2, "trainer.max_steps": limit, **DETERMINISTIC}
    expected, whole = run(name="whole", **changes)
    patch = crash_at(crash)
    with pytest.raises(CrashError):
        run(name="broken", **changes)
    patch.undo()
    report, broken = run(name="broken", **changes)
    assert report["steps"] == expected["steps"] == (10 if limit < 0 else limit)
    steps = [record["step"] for record in records_of(broken) if "train/loss" in record]
    assert steps == list(range(report["steps"]))
    # every document was read in its turn: the weights are the same to the last bit
    theirs, ours = (load_file(f.model / "model.safetensors") for f in (whole, broken))
    for name, weight in theirs.items():
        assert torch.equal(weight, ours[name]), name


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_run_without_a_split(run, tiny_fields, split):
    files = {name: file for name, file in tiny_fields["data.files"].items() if name != split}
    fractions = {"data.dev_fraction": 0, "data.test_fraction": 0}
    report, folder = run(**{"data.files": files}, **fractions)
    assert report["split"] == ("test" if split == "dev" else "dev")
    assert bool(folder.best_checkpoints.steps()) is (split == "test")
    assert folder.last_checkpoints.steps() == [5, 10]
    assert (folder.model / "model.safetensors").is_file()
    assert (folder.predictions / f"{report['split']}.jsonl").is_file()


def test_a_run_with_training_documents_alone(run, tiny_fields):
    files = {"train": tiny_fields["data.files"]["train"]}
    report, folder = run(**{"data.files": files, "data.dev_fraction": 0, "data.test_fraction": 0})
    assert report["split"] is None
    assert "metrics" not in report
    assert (folder.model / "model.safetensors").is_file()
    assert not folder.predictions.exists()


@pytest.mark.parametrize(
    ("backend", "fields", "said"),
    [
        ("flex", {}, "it has no backward on the CPU"),
        ("native", {"model.attention_dropout": 0.1}, "it has no dropout"),
    ],
)
def test_a_backend_that_cannot_train_this_is_named_before_a_folder_is_made(
    run, tmp_path, backend, fields, said
):
    message = rf"model\.attention_backend={backend} cannot train this: {said}.*set it to auto"
    with pytest.raises(UserError, match=message):
        run(**{"model.attention_backend": backend, "trainer.accelerator": "cpu"} | fields)
    assert not list(tmp_path.rglob("config.yaml"))


def test_patience_needs_a_dev_split_and_is_refused_before_anything_is_written(
    run, tiny_fields, tmp_path
):
    files = {"train": tiny_fields["data.files"]["train"]}
    with pytest.raises(UserError, match=r"checkpoint.patience=1 needs a dev split"):
        run(**{"data.files": files, "data.dev_fraction": 0, "checkpoint.patience": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.label_column": "era"}, "data.label_column=era is not a column"),
        ({"data.text_column": "body"}, "data.text_column=body is not a column"),
        ({"globals.column": "spans"}, "globals.column=spans is not a column"),
        ({"data.tokenizer": "nowhere/at-all"}, "data.tokenizer=nowhere/at-all cannot be loaded"),
        ({"data.files": {"train": "nowhere.csv"}}, "data.files.train=nowhere.csv does not exist"),
        ({"task.class_weights": [1, 2, 3]}, "task.class_weights has 3 numbers for the 2 labels"),
        ({"task.problem": "multi_label"}, "set task.problem=single_label"),
        ({"model.vocab_size": 10}, "model.vocab_size=10 is smaller than the tokenizer's"),
        ({"trainer.accelerator": "tpuu"}, "tpuu"),
        ({"trainer.strategy": "dpp"}, "dpp"),
        ({"trainer.precision": "8-bit"}, "8-bit"),
        ({"trainer.barebones": True}, "barebones"),
        ({"trainer.gradient_clip_algorithm": "x"}, "gradient_clip_algorithm"),
    ],
)
def test_what_the_user_can_mend_is_said_before_anything_is_written(run, tmp_path, changes, said):
    with pytest.raises(UserError) as error:
        run(**changes)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_pretrained_weights_are_said_before_anything_is_written(run, tmp_path):
    first, folder = run()
    broken = tmp_path / "broken"
    shutil.copytree(folder.model, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.layers.1.mlp.up.weight"]
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 weights.*layers\.1\.mlp\.up\.weight"):
        run(**{"model.pretrained": str(broken), "name": "other"})
    assert not (tmp_path / folder.path.parent.name / "other").exists()
    with pytest.raises(UserError, match="lacks 1 weights"):
        run(**{"model.pretrained": str(broken), "overwrite": True})
    assert folder.read_report() == first  # a finished run is not emptied for one that cannot start


def test_a_monitor_that_does_not_exist_is_said_after_the_first_epoch(run):
    with pytest.raises(UserError, match=r"checkpoint.monitor=acuracy .* one of loss, accuracy"):
        run(**{"checkpoint.monitor": "acuracy", "checkpoint.mode": "max"})


def test_a_fast_dev_run_goes_through(run):
    report, folder = run(**{"trainer.fast_dev_run": True})
    assert report["steps"] == 1
    assert folder.is_finished


def test_the_seed_decides_the_first_weights(run):
    def first_weights(name, seed):
        _, folder = run(name=name, seed=seed, **{"optim.learning_rate": 1e-30})
        return load_file(folder.model / "model.safetensors")["encoder.token_embedding.weight"]

    zero, again, one = (first_weights(*run) for run in (("zero", 0), ("again", 0), ("one", 1)))
    assert torch.equal(zero, again)
    assert not torch.equal(zero, one)


def test_the_number_of_steps_of_the_schedule_is_that_of_the_training(run):
    _, folder = run(**{"trainer.max_epochs": 3, "optim.warmup_ratio": 0})
    rates = [r["train/learning_rate"] for r in records_of(folder) if "train/learning_rate" in r]
    assert rates == pytest.approx([0.01 * (1 - step / 15) for step in range(15)])
