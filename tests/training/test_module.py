"""The training step: what the loss is a mean of, clipping, precision, predictions."""

from dataclasses import replace
from itertools import pairwise

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from longspan.batch import pack
from longspan.config import (
    CheckpointConfig,
    ClassificationConfig,
    Config,
    ModelConfig,
    TrainerConfig,
)
from longspan.errors import UserError
from longspan.tasks.classification import Classification
from longspan.training.build import build_trainer, precision
from longspan.training.module import LongDocumentModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)

CONFIG = Config(
    model=ModelConfig(
        vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, window=2, hidden_dropout=0.0
    ),
    task=ClassificationConfig(head_dropout=0.0),
    trainer=TrainerConfig(
        accelerator="cpu", precision="32-true", max_epochs=1, enable_progress_bar=False
    ),
)


def make_module(config=CONFIG):
    torch.manual_seed(0)
    return LongDocumentModule(config, Classification(config.task, ["a", "b"]), num_steps=10)


class Gradients(L.Callback):
    """The gradients of every optimiser step, before clipping and after."""

    def __init__(self):
        self.whole, self.clipped, self.losses = [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.whole.append({n: p.grad.clone() for n, p in pl_module.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.clipped.append([p.grad.clone() for p in pl_module.parameters()])
        self.losses.append(outputs["loss"])


def fit(batches, config=CONFIG):
    gradients = Gradients()
    loader = DataLoader(batches, batch_size=None)
    config = replace(config, trainer=replace(config.trainer, limit_val_batches=0))
    trainer = build_trainer(config, logger=False, enable_checkpointing=False, callbacks=[gradients])
    trainer.fit(make_module(config), loader, loader)
    return gradients


@pytest.mark.parametrize("sizes", [(5,), (1, 4), (3, 1, 1), (2, 2, 1)])
def test_every_document_of_a_step_weighs_the_same_however_it_was_batched(make_features, sizes):
    features = make_features(5)
    starts = np.cumsum([0, *sizes])
    batches = [pack(features[a:b], step_weight=5) for a, b in pairwise(starts)]
    trainer = replace(CONFIG.trainer, accumulate_grad_batches=len(sizes))
    (found,) = fit(batches, replace(CONFIG, trainer=trainer)).whole

    module = make_module()
    for feature in features:  # one by one: the mean over documents, spelled out
        batch = pack([feature])
        (module.task.loss(module(batch), batch).sum() / 5).backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_a_batch_that_only_keeps_step_counts_for_nothing(make_features):
    features = make_features(4)
    batches = [pack(features[:3], step_weight=3), pack(features[3:], weight=0.0, step_weight=3)]
    trainer = replace(CONFIG.trainer, accumulate_grad_batches=2)
    (found,) = fit(batches, replace(CONFIG, trainer=trainer)).whole
    module = make_module()
    batch = pack(features[:3])
    module.task.loss(module(batch), batch).mean().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)
    for one in batches:
        module.test_step(one, 0)
    assert [prediction.id for prediction in module.predictions] == ["00", "01", "02"]


def test_an_incomplete_last_step_is_a_mean_too(make_features):
    features = make_features(3)
    batches = [
        pack(features[:1], step_weight=2),
        pack(features[1:2], step_weight=2),
        pack(features[2:], step_weight=1),
    ]
    trainer = replace(CONFIG.trainer, accumulate_grad_batches=2)
    optim = replace(CONFIG.optim, learning_rate=1e-12)  # the last step sees the same weights
    *_, last = fit(batches, replace(CONFIG, trainer=trainer, optim=optim)).whole
    module = make_module()
    batch = pack(features[2:])
    module.task.loss(module(batch), batch).mean().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(last[name], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_their_norm(make_features, kind):
    trainer = replace(CONFIG.trainer, precision=kind, gradient_clip_val=1e-3)
    gradients = fit([pack(make_features(4))], replace(CONFIG, trainer=trainer))

    def norm(tensors):
        return torch.cat([t.flatten().double() for t in tensors]).norm().item()

    assert norm(gradients.whole[0].values()) > 1e-2
    assert norm(gradients.clipped[0]) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_follows_the_hardware_unless_it_is_set(monkeypatch, has_bf16, chosen):
    monkeypatch.setattr("longspan.training.build.bf16_in_hardware", lambda accelerator: has_bf16)
    auto = replace(CONFIG, trainer=replace(CONFIG.trainer, precision="auto"))
    assert precision(auto) == chosen
    assert build_trainer(auto, logger=False).precision == chosen
    assert precision(CONFIG) == "32-true"


def test_weights_stay_float32_and_the_loss_too_in_mixed_precision(make_features):
    trainer = replace(CONFIG.trainer, precision="bf16-mixed")
    gradients = fit([pack(make_features(4))], replace(CONFIG, trainer=trainer))
    assert {g.dtype for g in gradients.whole[0].values()} == {torch.float32}
    assert gradients.losses[0].dtype == torch.float32


def evaluated(method, batches, config=CONFIG):
    module = make_module(config)
    trainer = build_trainer(config, logger=False, enable_checkpointing=False)
    getattr(trainer, method)(module, DataLoader(batches, batch_size=None), verbose=False)
    return module, trainer


@pytest.mark.parametrize(("method", "split"), [("validate", "dev"), ("test", "test")])
def test_an_evaluation_predicts_every_document_once_whatever_the_batches(
    make_features, method, split
):
    features = make_features(6)
    module, trainer = evaluated(method, [pack(features[3:]), pack(features[:3])])
    assert [p.id for p in module.predictions] == [f.id for f in features]  # sorted by id
    expected = module.task.metrics(module.predictions)
    assert trainer.callback_metrics == {
        f"{split}/{name}": pytest.approx(value) for name, value in expected.items()
    }
    alone, _ = evaluated(method, [pack([feature]) for feature in features])
    for one, other in zip(module.predictions, alone.predictions, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_a_second_evaluation_forgets_the_first(make_features):
    module, trainer = evaluated("test", [pack(make_features(6))])
    trainer.test(module, DataLoader([pack(make_features(2))], batch_size=None), verbose=False)
    assert len(module.predictions) == 2


def test_a_metric_that_is_not_measured_cannot_be_monitored(make_features):
    checkpoint = CheckpointConfig(monitor="acuracy", mode="max")
    with pytest.raises(UserError, match=r"checkpoint.monitor=acuracy .* one of loss, accuracy"):
        evaluated("validate", [pack(make_features(4))], replace(CONFIG, checkpoint=checkpoint))
