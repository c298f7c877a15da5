"""Choice among candidates: their tokens in every slice, one score each, the mean over slices."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.batch import pack
from longspan.config import ChoiceConfig, GlobalsConfig, ModelConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks.choice import Choice, candidate_of, report_losses

TEXT = " ".join(f"w{i}" for i in range(10, 28))  # 18 tokens
CANDIDATES = ["w3 w4", "w5", "w6 w7 w8"]


def row(name="q", text=TEXT, candidates=CANDIDATES, answer="w5", question="w1 w2", labelled=True):
    where = "answer of train row 0" if labelled else None
    cells = {"candidates": candidates}
    return RawDocument(name, text, question, None, answer, where, cells)


@pytest.fixture(scope="session")
def encode(tokenizers):
    """The slices of each row."""

    def encode(*rows, kind="bert", length=64, stride=0, truncate="head", **task):
        tokenizer = tokenizers[kind]
        encoder = DocumentEncoder(
            tokenizer.backend_tokenizer, cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id, max_length=length, truncate=truncate,
            policies=GlobalsConfig(cls=kind != "plain", question=True), stride=stride,
        )  # fmt: skip
        return Choice(ChoiceConfig(**task)).encode(rows, encoder)

    return encode


def words(ids):
    """Numbers of the words w0, w1, …, which have the ids from 3 on; specials below 0."""
    return [int(i) - 3 for i in ids]


@pytest.mark.parametrize(("kind", "between"), [("bert", 1), ("roberta", 2)])
def test_question_and_candidates_come_first_and_are_global(encode, kind, between):
    ((piece,),) = encode(row(), kind=kind)
    asked = [-3, 1, 2, -2, 3, 4, -2, 5, -2, 6, 7, 8]
    assert words(piece.input_ids) == [*asked, *[-2] * between, *range(10, 28), -2]
    assert piece.global_positions.tolist() == list(range(len(asked)))
    own = [words(piece.input_ids[first:end]) for first, end in piece.details["places"]]
    assert own == [[-2, 3, 4], [-2, 5], [-2, 6, 7, 8]]
    assert piece.label == 1
    assert piece.details["length"] == len(piece.input_ids)
    assert piece.details["candidates"] == CANDIDATES


def test_a_tokenizer_without_special_tokens_serves_too(encode):
    ((piece,),) = encode(row(), kind="plain")
    own = [words(piece.input_ids[first:end]) for first, end in piece.details["places"]]
    assert own == [[3, 4], [5], [6, 7, 8]]


def test_every_slice_of_a_long_document_asks_again(encode):
    (slices,) = encode(row(), length=20, stride=2)
    assert len(slices) == 4
    assert [piece.details["slice"] for piece in slices] == [0, 1, 2, 3]
    assert {str(piece.details["places"]) for piece in slices} == {"[[3, 6], [6, 8], [8, 12]]"}
    assert {piece.label for piece in slices} == {1}
    assert {piece.details["length"] for piece in slices} == {12 + 2 + 18}
    assert [piece.counts is not None for piece in slices] == [True, False, False, False]


def test_only_the_chosen_part_of_a_document_where_it_is_truncated(encode):
    ((piece,),) = encode(row(), length=20, long_documents="truncate", truncate="tail")
    assert words(piece.input_ids[13:-1]) == [22, 23, 24, 25, 26, 27]
    assert piece.tokens_cut == 12


def test_a_candidates_score_is_the_mean_over_its_tokens(encode):
    pieces = [p for slices in encode(row("a"), row("b", candidates=["w3", "w4 w5"], answer=0))
              for p in slices]  # fmt: skip
    batch = pack(pieces)
    task = Choice(ChoiceConfig())
    head = task.head(
        ModelConfig(vocab_size=9, hidden_size=8, num_heads=2), torch.nn.Embedding(9, 8)
    )
    hidden = torch.randn(batch.num_tokens, 8)
    scores = head(hidden, batch)
    bounds, expected = batch.cu_seqlens.tolist(), []
    for start, piece in zip(bounds, pieces, strict=False):
        for first, end in piece.details["places"]:
            mean = hidden[start + first : start + end].mean(dim=0)
            expected.append(float(head.out(mean).detach()))
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)
    assert candidate_of(batch).max() == 4
    task.loss(scores, batch).sum().backward()
    assert head.out.weight.grad.abs().sum() > 0


def slow_loss(names, golds, scores):
    """Cross-entropy of every question's mean scores, shared by its slices."""
    losses = []
    for name in names:
        own = [i for i, other in enumerate(names) if other == name]
        means = [sum(scores[i][c] for i in own) / len(own) for c in range(len(scores[own[0]]))]
        nats = math.log(sum(map(math.exp, means))) - means[golds[own[0]]]
        losses.append(nats / len(own))
    return losses


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(2, 5), st.integers(0, 9)), min_size=1, max_size=4
    ),
    st.integers(0, 2**16),
)
def test_the_loss_is_that_of_the_slow_oracle(encode, questions, seed):
    rows = [
        row(f"q{n}", " ".join(["w9"] * length), [f"w{i}" for i in range(num)], gold % num)
        for n, (length, num, gold) in enumerate(questions)
    ]
    pieces = [piece for slices in encode(*rows, length=20, stride=1) for piece in slices]
    batch = pack(pieces)
    counts = [len(piece.details["places"]) for piece in pieces]
    logits = torch.randn(sum(counts), generator=torch.Generator().manual_seed(seed)) * 3
    logits.requires_grad_()
    losses = Choice(ChoiceConfig()).loss(logits, batch)
    names = [piece.details["id"] for piece in pieces]
    scores = [own.tolist() for own in logits.detach().split(counts)]
    expected = slow_loss(names, [piece.label for piece in pieces], scores)
    assert losses.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()

    # decoded and merged, the same losses come out, one a question
    task = Choice(ChoiceConfig())
    predictions = task.merge(task.decode(logits.detach(), batch))
    assert [p.id for p in predictions] == sorted(set(names))
    for p in predictions:
        own = sum(loss for name, loss in zip(names, expected, strict=True) if name == p.id)
        assert p.loss == pytest.approx(own, rel=1e-5, abs=1e-6)
        assert sum(p.probabilities) == pytest.approx(1)
        assert p.predicted == p.candidates[int(np.argmax(p.probabilities))]
        json.dumps(p.to_dict())


def test_slices_that_are_parted_are_learnt_each_for_itself(encode):
    (slices,) = encode(row(), length=20)
    task = Choice(ChoiceConfig())
    logits = torch.randn(9)
    apart = [
        task.loss(logits[3 * i : 3 * i + 3], pack([piece])) for i, piece in enumerate(slices[:3])
    ]
    skipping = task.loss(torch.cat([logits[:3], logits[6:]]), pack([slices[0], slices[2]]))
    assert skipping.tolist() == pytest.approx([float(apart[0]), float(apart[2])])


def test_accuracy_is_over_what_is_known(encode):
    task = Choice(ChoiceConfig())
    rows = [row("a"), row("b", candidates=["w5", "w4", "w5"]), row("c", labelled=False)]
    batch = pack([piece for slices in encode(*rows) for piece in slices])
    assert batch.labels is None  # one is unknown
    logits = torch.tensor([0.0, 1, 2, 0, 1, 2, 3, 0, 0])
    predictions = task.merge(task.decode(logits, batch))
    assert [p.predicted for p in predictions] == ["w6 w7 w8", "w5", "w3 w4"]
    assert [p.gold for p in predictions] == ["w5", "w5", None]
    # the third candidate of b reads as the first, which is gold
    assert task.metrics(predictions)["accuracy"] == 0.5
    assert task.metrics(predictions[2:]) == {}
    assert predictions[0].told() == {
        "question": "w1 w2", "predicted": "w6 w7 w8", "index": 2, "candidates": CANDIDATES,
        "probabilities": pytest.approx([0.0900, 0.2447, 0.6652], abs=1e-4),
        "length": 32, "tokens_cut": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": ""}, "question q: its question is empty"),
        ({"text": " \n"}, "question q: its document is empty"),
        ({"candidates": ["w3"]}, "answer of train row 0: 1 candidates leave no choice"),
        ({"answer": "w9"}, "answer of train row 0='w9' means none of the 3 candidates"),
        ({"candidates": [f"w{i % 30}" for i in range(40)], "answer": 0}, r"data\.max_length=64"),
    ],
)
def test_bad_rows_are_one_line(encode, changed, message):
    with pytest.raises(UserError, match=message) as error:
        encode(row(**changed))
    assert "\n" not in str(error.value)


def test_what_was_cut_is_reported(encode, caplog):
    ((piece,),) = encode(row(), max_question_length=1, max_candidate_length=1)
    assert report_losses("dev", piece.counts) == {}
    assert "dev: 1 questions cut to task.max_question_length tokens" in caplog.text
    assert "dev: 2 candidates cut to task.max_candidate_length tokens" in caplog.text
