"""What goes wrong on one rank is dealt with on all: they stay in step and keep the same weights."""

from datetime import timedelta

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import Dataset

from longspan.batch import pack
from longspan.cost.documents import Documents
from longspan.errors import UserError
from longspan.training import memory_guard
from longspan.training.bad_step_files import BadStepFiles
from longspan.training.bad_steps import BadSteps
from longspan.training.memory_guard import MemoryGuard, bytes_beside
from longspan.training.module import LongDocumentModule
from longspan.training.recorded_batches import load_batches

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)
RANKS, ACCUMULATE, STEPS = 2, 2, 4
BAD, TIGHT = 2, 0  # steps at which rank 1 has a loss of NaN, and too little memory


def rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class OfRanks(Dataset):
    """Every rank's own batches."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches) // RANKS

    def __getitem__(self, place):
        return self.batches[place * RANKS + rank()]


class Leave(L.Callback):
    """What the processes of the ranks leave behind."""

    def __init__(self, folder, *callbacks):
        self.folder, self.callbacks = folder, callbacks

    def on_train_end(self, trainer, pl_module):
        bad_steps, guard = self.callbacks
        said = {
            "bad": bad_steps.total,
            "in a row": bad_steps.in_a_row,
            "split": guard.split_batches,
        }
        torch.save((pl_module.state_dict(), said), self.folder / f"{rank()}.pt")


@pytest.fixture
def fit_on_two(fit, tmp_path, tokenizers):
    """Train in two processes that are forks of this one; a minute of waiting is a deadlock."""

    def fit_on_two(config, batches, most=5, catches=False):
        documents = Documents([4], [np.array([0])])
        files = BadStepFiles(tmp_path, tokenizers["embedded"])
        watched, guard = BadSteps(most, files), MemoryGuard(config, documents)
        guard.catches = catches
        callbacks = [watched, guard, Leave(tmp_path, watched, guard)]
        strategy = DDPStrategy(
            start_method="fork", timeout=timedelta(minutes=1), process_group_backend="gloo"
        )
        fit(config, OfRanks(batches), callbacks, strategy=strategy, devices=RANKS)
        return [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in range(RANKS)]

    return fit_on_two


@pytest.fixture
def batches(make_features):
    """Of two documents; two of each rank make a step."""
    features = make_features(2 * RANKS * ACCUMULATE * STEPS)
    weight = 2 * RANKS * ACCUMULATE
    return [pack(features[i : i + 2], step_weight=weight) for i in range(0, len(features), 2)]


@pytest.fixture
def bad_on_rank_1(monkeypatch):
    whole = LongDocumentModule.summed_loss

    def summed_loss(self, batch):
        is_bad = rank() == 1 and self.trainer.global_step in steps
        return whole(self, batch) * (float("nan") if is_bad else 1.0)

    steps = {BAD}
    monkeypatch.setattr(LongDocumentModule, "summed_loss", summed_loss)
    return steps


@pytest.mark.parametrize("kind", ["foreseen", "caught"])
def test_ranks_agree_what_to_skip_and_wait_for_who_splits(
    kind, fit_on_two, fit_by_hand, batches, bad_on_rank_1, make_small_config, monkeypatch, tmp_path
):
    config = make_small_config(accumulate_grad_batches=ACCUMULATE)
    single = make_small_config(accumulate_grad_batches=ACCUMULATE * RANKS)
    expected, _ = fit_by_hand(single, batches, {BAD})
    if kind == "foreseen":
        _give_rank_1_little_memory(monkeypatch, config)
    else:
        _let_memory_run_out_on_rank_1(monkeypatch)
    (weights, said), (others, said_too) = fit_on_two(config, batches, catches=kind == "caught")
    assert said == said_too
    assert (said["bad"], said["in a row"]) == (1, 0)
    assert said["split"] >= 1
    for name, weight in weights.items():
        assert weight.equal(others[name])
        torch.testing.assert_close(weight, expected.state_dict()[name], rtol=1e-4, atol=1e-6)
    folder = tmp_path / "bad_steps" / f"step={BAD}"
    start = BAD * ACCUMULATE * RANKS
    for number in range(RANKS):  # each its own batches
        recorded, facts = load_batches(folder / f"rank={number}")
        own = batches[start + number : start + ACCUMULATE * RANKS : RANKS]
        names = [[f.id for f in batch.features] for batch in own]
        assert [[f.id for f in one.batch.features] for one in recorded] == names
        assert facts["loss"] == "nan"


def _give_rank_1_little_memory(monkeypatch, config):
    needed = bytes_beside(MemoryGuard(config, Documents([4], [np.array([0])])).memory, 8)
    available = {0: 2**40, 1: RANKS * int(needed)}  # which the ranks share
    monkeypatch.setattr(memory_guard, "available_bytes", lambda: available[rank()])


def _let_memory_run_out_on_rank_1(monkeypatch):
    """In the backward pass, where some gradients are there, of what is longer than a document."""
    forward = LongDocumentModule.forward

    def failing(self, batch):
        logits = forward(self, batch)
        if rank() == 1 and self.trainer.global_step == TIGHT and batch.num_tokens > 8:
            hidden = self.encoder(batch)
            hidden.register_hook(_run_out)
            return self.head(hidden, batch)
        return logits

    monkeypatch.setattr(LongDocumentModule, "forward", failing)


def _run_out(gradient):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_all_ranks_stop_and_name_the_documents_of_the_one(
    fit_on_two, batches, bad_on_rank_1, make_small_config
):
    bad_on_rank_1 |= {1}
    config = make_small_config(accumulate_grad_batches=ACCUMULATE)
    place = (BAD * ACCUMULATE * RANKS) + 1  # rank 1's first batch of the step
    names = [f.id for batch in batches[place : place + 3 : 2] for f in batch.features]
    with pytest.raises(Exception, match=f"documents {', '.join(names)};") as raised:
        fit_on_two(config, batches, most=2)
    assert UserError.__name__ in str(raised.value) or isinstance(raised.value, UserError)
