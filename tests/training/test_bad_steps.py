"""A step whose loss or gradient is not finite: skipped, counted, recorded, replayed."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
from typer.testing import CliRunner

from longspan.batch import pack
from longspan.cli import app
from longspan.config import LoraConfig
from longspan.errors import UserError
from longspan.training import bad_step_files
from longspan.training.bad_step_files import BadStepFiles, recorded_steps
from longspan.training.bad_steps import BadSteps
from longspan.training.loss_spikes import LEAST, LossSpikes
from longspan.training.module import LongDocumentModule
from longspan.training.recorded_batches import load_batches, save_batches
from longspan.training.replay import replay
from longspan.training.run import train
from longspan.training.step_batch import GeneratorState, StepBatch
from longspan.training.tracking import read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're resuming from a checkpoint that ended before",  # our loader reads on
    # of the loss scaler, which skips a step itself
    "ignore:Detected call of `lr_scheduler.step.*` before `optimizer.step",
)
BAD = 2  # the step that goes wrong


def nan_loss(module, loss):
    """Its gradients are NaN too."""
    return loss * float("nan")


def infinite_loss(module, loss):
    """Its gradients are finite."""
    return loss + float("inf")


def overflow(module, loss):
    """In the gradient of one parameter, while the loss is finite."""
    weight = next(p for p in module.head.parameters() if p.ndim > 1)
    return loss + _Overflow.apply(weight).sum()


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        return torch.zeros_like(weight)

    @staticmethod
    def backward(ctx, gradient):
        infinite = torch.zeros_like(gradient)
        infinite[0, 0] = float("inf")
        return infinite


FAULTS = {"nan loss": nan_loss, "infinite loss": infinite_loss, "overflow": overflow}


@pytest.fixture
def inject(monkeypatch):
    """Let a fault into the loss of certain steps; with `only`, of the batches of one document."""
    whole = LongDocumentModule.summed_loss

    def inject(fault, steps, only=None):
        def summed_loss(self, batch):
            loss = whole(self, batch)
            named = only is None or only in [feature.id for feature in batch.features]
            return fault(self, loss) if self.trainer.global_step in steps and named else loss

        monkeypatch.setattr(LongDocumentModule, "summed_loss", summed_loss)

    return inject


@pytest.fixture
def watch(tmp_path, tokenizers):
    """The callback, over a run folder of its own."""
    return lambda most=5: BadSteps(most, BadStepFiles(tmp_path, tokenizers["embedded"]))


def batches_of(features, accumulate=1):
    """Of two documents each."""
    return [
        pack(features[i : i + 2], step_weight=2 * accumulate) for i in range(0, len(features), 2)
    ]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("kind", ["plain", "accumulated", "lora"])
def test_a_bad_step_is_as_if_it_had_never_been_made(
    kind, fault, inject, watch, fit, fit_by_hand, make_small_config, make_features
):
    config = make_small_config(accumulate_grad_batches=2 if kind == "accumulated" else 1)
    if kind == "lora":
        optim = replace(config.optim, lora=LoraConfig(rank=2), freeze_embeddings=True)
        config = replace(config, optim=optim)
    batches = batches_of(make_features(20), config.trainer.accumulate_grad_batches)
    expected, optimizer = fit_by_hand(config, batches, {BAD})
    inject(fault, {BAD}, only="09" if kind == "accumulated" else None)
    found = fit(config, batches, [watched := watch()])
    assert (watched.total, watched.in_a_row) == (1, 0)
    for name, weight in found.state_dict().items():
        assert weight.equal(expected.state_dict()[name]), name
    ours = found.trainer.optimizers[0].state_dict()
    assert ours["param_groups"] == optimizer.state_dict()["param_groups"]
    for place, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert value.equal(ours["state"][place][name])


def test_an_unwatched_bad_step_would_spoil_the_weights(
    inject, fit, make_small_config, make_features
):
    inject(nan_loss, {BAD})
    found = fit(make_small_config(), batches_of(make_features(20)))
    assert not all(p.isfinite().all() for p in found.parameters())


def test_float16_searches_its_loss_scale_by_itself(
    inject, watch, fit, make_small_config, make_features, monkeypatch
):
    """An overflow at a scale above 1 is no bad step; one at a scale of 1 is, and a loss of NaN."""
    config = make_small_config()
    config = replace(config, model=replace(config.model, attention_backend="blocked"))

    def run(fault, scale):
        inject(fault, {BAD})
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
        watched, batches = watch(), batches_of(make_features(20))
        found = fit(config, batches, [watched], plugins=plugins, precision=None)
        assert all(p.isfinite().all() for p in found.parameters())
        monkeypatch.undo()
        return watched.total, scaler.get_scale()

    assert run(overflow, 4.0) == (0, 2.0)
    assert run(overflow, 1.0) == (1, 0.5)
    assert run(nan_loss, 4.0)[0] == 1


# --- many of them -------------------------------------------------------------------------------


@pytest.fixture
def run(make_config, tmp_path):
    def run(**changes):
        config = make_config(tmp_path / "runs", **changes)
        return train(config), tmp_path / "runs" / config.experiment / config.name

    return run


def test_a_run_counts_them_and_names_them(run, inject, caplog):
    inject(nan_loss, {1, 2, 7})
    report, folder = run()
    assert (report["bad_steps"], report["loss_spikes"], report["steps"]) == (3, 0, 10)
    records = {r["step"]: r for r in read_metrics(folder / "metrics.jsonl") if "train/loss" in r}
    assert [records[step].get("train/bad_steps") for step in range(10)] == [
        None, 1, 2, 2, 2, 2, 2, 3, 3, 3,
    ]  # fmt: skip
    assert recorded_steps(folder) == [1, 2, 7]
    assert [(folder / "bad_steps" / f"step={n}" / "model").is_dir() for n in (1, 2, 7)] == [
        False, False, True,
    ]  # fmt: skip
    (warned,) = [m for m in caplog.messages if m.startswith("step 7 is skipped")]
    facts = json.loads((folder / "bad_steps" / "step=7" / "rank=0.json").read_text())
    names = [feature["id"] for batch in facts["batches"] for feature in batch["features"]]
    assert names
    assert all(name in warned for name in names[:8])
    assert (facts["step"], facts["epoch"], facts["seed"], facts["loss"]) == (7, 1, 0, "nan")
    assert facts["parameters"][0].startswith("encoder.")


def test_too_many_in_a_row_end_the_run_which_goes_on_where_it_can(run, inject, monkeypatch):
    fields = {"checkpoint.every_n_steps": 1, "model.hidden_dropout": 0, "task.head_dropout": 0}
    inject(nan_loss, {6, 7, 8})
    stopped = (
        r"^3 steps in a row .* \(trainer\.max_bad_steps=3\); at step 8 the loss is nan; documents "
        r"train-\d+, .*; lower optim.learning_rate.* longspan replay \S+ --step 8 says"
    )
    with pytest.raises(UserError, match=stopped):
        run(**fields, **{"trainer.max_bad_steps": 3})
    # resumed from the checkpoint behind step 7, with two bad steps on its count
    with pytest.raises(UserError, match=stopped):
        run(**fields, **{"trainer.max_bad_steps": 3})
    report, folder = run(**fields, **{"trainer.max_bad_steps": 5})
    assert report["bad_steps"] == 3
    whole, unbroken = run(**fields, name="unbroken")
    assert whole["bad_steps"] == 3
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (folder / file).read_bytes() == (unbroken / file).read_bytes()


def test_a_run_without_one_good_step_is_no_success(run, inject):
    inject(nan_loss, range(100))
    with pytest.raises(UserError, match=r"none of the 10 steps had a finite loss"):
        run(**{"trainer.max_bad_steps": 50})


def test_so_many_are_kept_and_no_more(
    tmp_path, watch, fit, inject, make_small_config, make_features
):
    kept = bad_step_files.KEPT
    inject(nan_loss, range(1, 4 + kept))
    fit(make_small_config(), batches_of(make_features(2 * kept + 10)), [watch(100)])
    assert recorded_steps(tmp_path) == [1, *range(5, 4 + kept)]  # the first has the weights


def test_a_full_disk_stops_no_training(
    watch, fit, inject, make_small_config, make_features, monkeypatch, caplog
):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bad_step_files, "save_batches", full)
    inject(nan_loss, {BAD})
    fit(make_small_config(), batches_of(make_features(10)), [watched := watch()])
    assert watched.total == 1
    assert any("No space left" in message for message in caplog.messages)


# --- replay -------------------------------------------------------------------------------------


def test_replay_names_the_document_and_the_module(run, monkeypatch, tmp_path):
    """The weight of one token becomes infinite: found from the run folder alone."""

    def spoil(self, batch, batch_idx):
        if self.trainer.global_step == BAD and "train-3" in [f.id for f in batch.features]:
            (place,) = [i for i, f in enumerate(batch.features) if f.id == "train-3"]
            token = batch.input_ids[batch.cu_seqlens[place] + 1]
            with torch.no_grad():
                self.encoder.token_embedding.weight[token] = float("inf")

    monkeypatch.setattr(LongDocumentModule, "on_train_batch_start", spoil)
    fields = {"data.tokens_per_batch": 1024, "trainer.max_bad_steps": 1, "trainer.max_epochs": 4}
    with pytest.raises(UserError, match=rf"at step {BAD} the loss is nan"):
        run(**fields)
    folder = tmp_path / "runs" / "default" / "default"
    text = "\n".join(replay(folder))
    said = CliRunner().invoke(app, ["replay", str(folder), "--step", str(BAD)])
    assert (said.exit_code, said.stdout) == (0, f"{text}\n")
    assert f"step {BAD}, epoch 2: the loss was nan" in text
    assert "weights that are not finite: encoder.token_embedding.weight" in text
    assert "first output that is not finite: of encoder.token_embedding (Embedding)" in text
    assert "train-3" in text
    assert "first NaN of the backward pass: Function" in text
    with pytest.raises(UserError, match=r"--step 9 was not recorded in .*; there are 2"):
        list(replay(folder, 9))


def test_replay_of_a_run_without_bad_steps(tmp_path):
    with pytest.raises(UserError, match="has no bad steps"):
        list(replay(tmp_path))


def test_recorded_batches_come_back(tmp_path, make_features):
    batch = pack(make_features(5), weight=4.0, step_weight=9.0)
    recorded = [StepBatch(batch, GeneratorState.now()), StepBatch(batch, GeneratorState.now())]
    save_batches(tmp_path / "rank=0", recorded, {"step": 3})
    found, facts = load_batches(tmp_path / "rank=0")
    assert facts == {"step": 3}
    for one, other in zip(found, recorded, strict=True):
        assert one.generators.cpu.equal(other.generators.cpu)
        again = pack(one.batch.features, one.batch.weight, one.batch.step_weight)
        for ours in (one.batch, again):
            for name in ("input_ids", "cu_seqlens", "token_type_ids", "global_mask", "labels"):
                assert getattr(ours, name).equal(getattr(batch, name)), name
            assert (ours.weight, ours.step_weight) == (4.0, 9.0)
    for name in ("rank=0.json", "rank=0.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
        with pytest.raises(UserError, match="hold no recorded batches"):
            load_batches(tmp_path / "rank=0")


# --- spikes of the loss -------------------------------------------------------------------------


def test_a_spike_is_said_once_it_is_beyond_the_others():
    spikes = LossSpikes()
    noise = torch.randn(300, generator=torch.Generator().manual_seed(0)).mul(0.1).add(2).tolist()
    assert [spikes.see(loss) for loss in noise] == [None] * 300
    middle = 2 + 10 * 0.1  # median and standard deviation of the noise
    assert spikes.threshold == pytest.approx(middle, rel=0.15)
    assert spikes.see(4.0) == pytest.approx(middle, rel=0.15)
    assert spikes.see(-4.0) is None
    assert spikes.count == 1
    again = LossSpikes()
    again.load_state_dict(spikes.state_dict())
    assert (again.threshold, again.count) == (spikes.threshold, 1)


def test_few_losses_and_equal_ones_make_no_spike():
    spikes = LossSpikes()
    assert [spikes.see(loss) for loss in (1.0, 100.0)] == [None, None]
    spikes = LossSpikes()
    assert [spikes.see(1.0) for _ in range(LEAST)] == [None] * LEAST
    assert spikes.see(1.05) is None
    assert spikes.see(1.2) == pytest.approx(1.1)


def test_a_loss_that_stays_high_is_the_new_level():
    spikes = LossSpikes()
    for loss in [1.0] * 200 + [5.0] * 200:
        spikes.see(loss)
    assert spikes.count == 64  # half the window


def test_a_spike_is_logged_with_its_documents(
    watch, fit, inject, make_small_config, make_features, caplog
):
    caplog.set_level(logging.INFO, logger="longspan.training.bad_steps")
    inject(lambda module, loss: loss * 1000, {40})
    batches = batches_of(make_features(100))
    found = fit(make_small_config(), batches, [watched := watch()])
    assert watched.spikes.count == 1
    (said,) = [line for line in caplog.messages if "spike" in line]
    assert said.startswith("step 40: the loss ")
    assert said.endswith("documents 80, 81")
    assert found.trainer.callback_metrics["train/loss_spikes"] == 1


def test_the_files_hold_tensors_and_text_only(
    tmp_path, watch, fit, inject, make_small_config, make_features
):
    inject(nan_loss, {BAD})
    fit(make_small_config(), batches_of(make_features(8)), [watch()])
    files = {f.suffix for f in (tmp_path / "bad_steps").rglob("*") if f.is_file()}
    assert files == {".safetensors", ".json"}
    tensors = load_file(tmp_path / "bad_steps" / f"step={BAD}" / "rank=0.safetensors")
    assert "0.input_ids" in tensors
