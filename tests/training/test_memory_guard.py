"""A batch that memory does not hold is computed in parts, with the gradient of the whole."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.batch import Feature, pack
from longspan.config import GlobalsConfig, QAConfig
from longspan.cost import heap, machine
from longspan.cost.documents import Documents
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks.qa import QuestionAnswering
from longspan.training import memory_guard
from longspan.training.halves import halves
from longspan.training.memory_guard import MemoryGuard, bytes_beside
from longspan.training.module import LongDocumentModule
from longspan.training.run import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)
DOCUMENTS = Documents([4], [np.array([0])])


@pytest.fixture
def guard():
    """The callback; with `tokens`, in a memory that holds so many of them beside the weights."""

    def make(config, tokens=None):
        own = MemoryGuard(config, DOCUMENTS)
        if tokens is not None:
            patch.setattr(memory_guard, "available_bytes", lambda: bytes_beside(own.memory, tokens))
        return own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_guard, "available_bytes", lambda: 2**40)
        yield make


def batches_of(features, accumulate=1, documents=4):
    return [
        pack(features[i : i + documents], step_weight=documents * accumulate)
        for i in range(0, len(features), documents)
    ]


def state_of(module):
    """Weights, and both moments of the optimiser: the gradients of all steps."""
    (optimizer,) = module.trainer.optimizers
    moments = [x for state in optimizer.state.values() for x in state.values()]
    return [*module.state_dict().values(), *moments]


def assert_same(found, expected, exactly=False):
    for ours, theirs in zip(state_of(found), state_of(expected), strict=True):
        if exactly:
            assert ours.equal(theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-7)


# --- parts --------------------------------------------------------------------------------------


def feature(name, length, part=0):
    ids = np.arange(length, dtype=np.int32)
    return Feature(name, ids, np.array([0]), label=1, details={"id": name, "slice": part})


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4)), min_size=1, max_size=8),
    st.booleans(),
)
def test_halves_are_of_like_size_and_tear_nothing_apart(documents, whole):
    features = [
        feature(str(name), length, part)
        for name, (length, parts) in enumerate(documents)
        for part in range(parts)
    ]
    batch = pack(features, weight=7.0, step_weight=9.0)
    found = halves(batch, whole)
    assert [f for half in found for f in half.features] == features
    for name in ("input_ids", "token_type_ids", "global_mask", "labels"):
        assert torch.cat([getattr(half, name) for half in found]).equal(getattr(batch, name))
    for half in found:
        assert half.cu_seqlens.equal(pack(half.features).cu_seqlens)
        assert (half.weight, half.step_weight) == (7.0, 9.0)  # of the whole step
    names = [{f.id for f in half.features} for half in found]
    if whole:
        assert not set.intersection(*names) or len(found) == 1
    can_part = len(documents) > 1 or (not whole and len(features) > 1)
    assert len(found) == (2 if can_part else 1)
    if can_part:
        largest = max(length * (parts if whole else 1) for length, parts in documents)
        assert abs(found[0].num_tokens - found[1].num_tokens) <= largest


def test_labels_of_tokens_and_of_documents_are_parted_alike():
    features = [replace(feature(str(n), n + 1), label=np.arange(n + 1)) for n in range(4)]
    first, second = halves(pack(features), whole_documents=False)
    assert torch.cat([first.labels, second.labels]).equal(pack(features).labels)
    assert len(first.labels) == first.num_tokens


@pytest.mark.parametrize("normalisation", ["document", "slice"])
def test_losses_over_all_slices_of_a_document_are_those_of_the_whole(tokenizers, normalisation):
    tokenizer = tokenizers["bert"]
    encoder = DocumentEncoder(
        tokenizer.backend_tokenizer, cls_id=tokenizer.cls_token_id,
        sep_id=tokenizer.sep_token_id, max_length=12, truncate="head",
        policies=GlobalsConfig(question=True), stride=2,
    )  # fmt: skip
    text = " ".join(f"w{i}" for i in range(4, 24))
    rows = [RawDocument(str(n), text, "w1", None, ["w9"], "row") for n in range(4)]
    qa = QuestionAnswering(QAConfig(normalisation=normalisation))
    slices = [qa.prepare(f, (0,)) for document in qa.encode(rows, encoder) for f in document]
    batch = pack(slices)
    logits = torch.randn(batch.num_tokens, 2, generator=torch.Generator().manual_seed(0))
    parts = halves(batch, whole_documents=normalisation == "document")
    own = logits.split([part.num_tokens for part in parts])
    losses = [qa.loss(x, part) for x, part in zip(own, parts, strict=True)]
    torch.testing.assert_close(torch.cat(losses), qa.loss(logits, batch))


# --- CPU: foreseen ------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_parts_have_the_gradient_of_the_whole(
    guard, fit, make_small_config, make_features, accumulate, precision, caplog
):
    caplog.set_level(logging.WARNING, logger="longspan")
    config = make_small_config(accumulate_grad_batches=accumulate, precision=precision)
    batches = batches_of(make_features(16), accumulate)
    expected = fit(config, batches)
    tight = guard(config, tokens=max(b.num_tokens for b in batches) // 2)
    found = fit(config, batches, [tight])
    if precision == "32-true":
        assert_same(found, expected)
    else:  # within the rounding of bfloat16
        for ours, theirs in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-4)
    assert tight.split_batches >= 2
    assert found.trainer.callback_metrics["train/split_batches"] == tight.split_batches
    loss = found.trainer.callback_metrics["train/loss"]
    assert loss == pytest.approx(expected.trainer.callback_metrics["train/loss"].item(), rel=1e-3)
    (said,) = caplog.messages  # once
    assert said.startswith("step 0: a batch of 4 documents and")


def test_only_a_part_of_an_accumulated_step_may_be_split(
    guard, fit, make_small_config, make_features
):
    """The gradient of the batches before it stays."""
    config = make_small_config(accumulate_grad_batches=2)
    short, long = make_features(4), [replace(f, id=f"{f.id}+") for f in make_features(4)]
    long = [replace(f, input_ids=np.tile(f.input_ids, 5)) for f in long]
    batches = [pack(short, step_weight=8), pack(long, step_weight=8)]
    tight = guard(config, tokens=batches[1].num_tokens - 1)
    assert_same(fit(config, batches, [tight]), fit(config, batches))
    assert tight.split_batches == 1


def test_a_document_that_does_not_fit_alone_says_what_to_do(
    guard, fit, make_small_config, make_features
):
    config, (one,) = make_small_config(), make_features(1)
    batch = pack([replace(one, input_ids=np.tile(one.input_ids, 10))])
    with pytest.raises(
        UserError,
        match=r"^out of memory at step 0: document 00 of \d+ tokens needs .* GiB of the .* that are "
        r"available, and it cannot be split; set model.gradient_checkpointing=true, lower",
    ):
        fit(config, [batch], [guard(config, tokens=batch.num_tokens // 2)])
    # an estimate may be wrong by so much: it is tried
    fit(config, [batch], [nearly := guard(config, tokens=0.9 * batch.num_tokens)])
    assert nearly.split_batches == 0
    config = replace(config, trainer=replace(config.trainer, split_batches=False))
    fit(config, [batch], [guard(config, tokens=1)])


def test_free_memory_of_the_process_is_counted_as_free(
    monkeypatch, fit, make_small_config, make_features
):
    """What glibc keeps of earlier steps would be used again: no reason to split."""
    config = make_small_config()
    own, available = MemoryGuard(config, DOCUMENTS), [0, 2**40]
    monkeypatch.setattr(memory_guard, "available_bytes", lambda: available[0])
    monkeypatch.setattr(memory_guard, "give_back_heap", lambda: available.pop(0))
    fit(config, batches_of(make_features(4)), [own])
    assert available == [2**40]
    assert own.split_batches == 0


def test_ranks_share_what_a_machine_has(guard, make_small_config):
    own = guard(make_small_config())
    assert own.config.trainer.split_batches
    for devices in (1, 4):
        own._module = type("", (), {"trainer": type("", (), {"num_devices": devices})})
        assert own._available() == 2**40 // devices


def test_an_ordinary_run_is_not_split(make_config, tmp_path):
    report = train(make_config(tmp_path))
    assert report["split_batches"] == report["bad_steps"] == report["loss_spikes"] == 0


# --- CUDA: caught -------------------------------------------------------------------------------


class OutInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def fail(monkeypatch):
    """Let memory run out in some of the computations, counted from 0, or in all of so many tokens.

    Returns what is counted: the documents of each.
    """
    forward = LongDocumentModule.forward

    def fail(calls=(), tokens=None, in_backward=False):
        computed = []

        def failing(self, batch):
            too_large = tokens is not None and batch.num_tokens >= tokens
            fails = len(computed) in calls or too_large
            computed.append(batch.num_documents)
            if not fails:
                return forward(self, batch)
            if in_backward:  # the head has its gradients by then
                return self.head(OutInBackward.apply(self.encoder(batch)), batch)
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(LongDocumentModule, "forward", failing)
        return computed

    return fail


@pytest.mark.parametrize("in_backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("calls", [{0}, {1}, {3}, {1, 2}])
def test_memory_that_runs_out_costs_time_only(
    guard, fail, fit, make_small_config, make_features, in_backward, accumulate, calls
):
    config = make_small_config(accumulate_grad_batches=accumulate)
    batches = batches_of(make_features(16), accumulate)
    expected = fit(config, batches)
    own = guard(config)
    own.catches = True
    computed = fail(calls, in_backward=in_backward)
    found = fit(config, batches, [own])
    assert_same(found, expected)
    assert own.split_batches >= 1
    assert {1, 2} & set(computed)  # documents of the parts


def test_it_is_split_down_to_single_documents(guard, fail, fit, make_small_config, make_features):
    config, features = make_small_config(), make_features(8)
    batches = batches_of(features, documents=8)
    longest = max(len(f.input_ids) for f in features)
    expected = fit(config, batches)
    own = guard(config)
    own.catches = True
    computed = fail(tokens=longest + 1, in_backward=True)
    assert_same(fit(config, batches, [own]), expected)
    assert {8, 1} <= set(computed)
    fail(tokens=longest)
    own = guard(config)
    own.catches = True
    with pytest.raises(UserError, match=r"document \d\d of 8 tokens ran out, and it cannot be"):
        fit(config, batches, [own])


def test_what_ran_out_once_is_split_before_it_is_tried_again(
    guard, fail, fit, make_small_config, make_features
):
    config = make_small_config()
    batches = batches_of(make_features(4)) * 3
    own = guard(config)
    own.catches = True
    computed = fail(tokens=batches[0].num_tokens)
    fit(config, batches, [own])
    assert computed.count(4) == 1
    again = guard(config)
    again.load_state_dict(own.state_dict())
    again.catches = True
    computed.clear()
    fit(config, batches, [again])
    assert computed.count(4) == 0
    assert again.split_batches == 6


def test_computing_at_once_and_by_the_guard_are_the_same_bits(
    guard, fit, make_small_config, make_features
):
    for precision in ("32-true", "bf16-mixed"):
        config = make_small_config(accumulate_grad_batches=2, precision=precision)
        batches = batches_of(make_features(16), 2)
        own = guard(config)
        own.catches = True
        assert_same(fit(config, batches, [own]), fit(config, batches), exactly=True)
        assert own.split_batches == 0


def test_running_out_while_ranks_exchange_gradients_is_said(
    guard, fail, fit, make_small_config, make_features, monkeypatch
):
    """What they have begun cannot be taken back."""
    config = make_small_config()
    own = guard(config)
    own.catches = True
    monkeypatch.setattr(own, "_may_overlap", lambda batch: True)
    fail({1}, in_backward=True)
    with pytest.raises(UserError, match=r"^out of memory at step 1, while ranks exchanged"):
        fit(config, batches_of(make_features(8)), [own])


def test_on_a_cpu_nothing_is_caught(guard, fail, fit, make_small_config, make_features):
    config = make_small_config()
    fail({1})
    with pytest.raises(torch.OutOfMemoryError):
        fit(config, batches_of(make_features(8)), [guard(config)])


# --- what is available --------------------------------------------------------------------------


def test_available_memory_is_the_least_of_machine_and_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    assert machine.available_bytes() is None  # no such system
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\n")
    assert machine.available_bytes() == 500 * 1024
    job = tmp_path / "cgroup" / "slurm" / "job_7"
    job.mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/slurm/job_7\n")

    def write(group, **files):
        for name, text in files.items():
            (group / name.replace("__", ".")).write_text(f"{text}\n")

    write(job, memory__max="max", memory__current=1, memory__stat="inactive_file 0")
    assert machine.available_bytes() == 500 * 1024
    stat = "anon 1\ninactive_file 100000"  # pages of files are given back
    write(job.parent, memory__max=300_000, memory__current=250_000, memory__stat=stat)
    assert machine.available_bytes() == 150_000  # of the group around it
    write(job, memory__max=100_000, memory__current=99_000)
    assert machine.available_bytes() == 1000
    write(job, memory__current=200_000)
    assert machine.available_bytes() == 0
    # version 1, of a container that sees its own groups from inside
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/docker/a:b\n3:cpu:/docker/a:b\n")
    old = tmp_path / "cgroup" / "memory"
    old.mkdir()
    write(old, memory__limit_in_bytes=2000, memory__usage_in_bytes=1500, memory__stat="cache 1")
    assert machine.available_bytes() == 500


@pytest.mark.skipif(not machine.PROC.joinpath("meminfo").exists(), reason="only Linux says")
def test_this_machine_has_some_memory_left():
    heap.give_back_heap()
    assert 2**20 < machine.available_bytes() <= 2**50
