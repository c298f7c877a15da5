"""Question answering: slices, gold spans, the loss, and answers that are parts of the document."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.batch import Feature, pack
from longspan.config import GlobalsConfig, QAConfig
from longspan.document import RawDocument
from longspan.errors import UserError
from longspan.tasks.qa import QuestionAnswering
from longspan.tasks.qa_ledger import report_losses

QUESTION, TEXT = "w1 w2 w3", " ".join(f"w{i}" for i in range(4, 24))  # 20 tokens
POLICIES = GlobalsConfig(question=True)


def words(feature: Feature) -> list[int]:
    """Numbers of the words w0, w1, …, which have the ids from 3 on."""
    return [i - 3 for i in feature.input_ids.tolist() if i >= 3]


@pytest.mark.parametrize(("kind", "between"), [("bert", 1), ("roberta", 2)])
def test_the_question_comes_first_in_the_tokenizers_own_format(make_slices, kind, between):
    _, (feature,) = make_slices(kind=kind, length=64)
    assert feature.id == "q"
    assert feature.input_ids.tolist() == [0, 4, 5, 6, *[1] * between, *range(7, 27), 1]
    assert feature.global_positions.tolist() == [0, 1, 2, 3]
    inside = feature.offsets[4 + between : -1]
    assert [TEXT[a:b] for a, b in inside] == TEXT.split()
    assert not feature.offsets[: 4 + between].any()


def test_a_tokenizer_without_special_tokens_serves_too(make_slices):
    _, slices = make_slices(
        kind="plain", length=13, policies=GlobalsConfig(cls=False, question=True)
    )
    assert [words(s)[:3] for s in slices] == [[1, 2, 3], [1, 2, 3]]
    assert slices[0].global_positions.tolist() == [0, 1, 2]


@given(
    length=st.integers(10, 40), stride=st.integers(0, 12), number=st.integers(1, 40)
)  # 6 tokens are the question's and special
def test_slices_cover_the_document_and_share_the_stride(make_slices, length, stride, number):
    text = " ".join(f"w{i % 30}" for i in range(number))
    if length - 6 <= stride:
        with pytest.raises(UserError, match=r"data\.max_length=.*data\.stride="):
            make_slices(text, length=length, stride=stride)
        return
    _, slices = make_slices(text, length=length, stride=stride)
    starts = [[int(a) for a, b in s.offsets if b] for s in slices]
    assert sorted({a for own in starts for a in own}) == [a for a, _ in _word_spans(text)]
    assert all(len(s.input_ids) <= length for s in slices)
    assert all(s.input_ids[:5].tolist() == [0, 4, 5, 6, 1] for s in slices)
    for one, other in pairwise(starts):
        assert one[len(one) - stride :] == other[:stride]
        assert other[-1] > one[-1]
    assert all(s.details["length"] == number + 6 for s in slices)
    names = ["q"] if len(slices) == 1 else [f"q#{i}" for i in range(len(slices))]
    assert [s.id for s in slices] == names


def _word_spans(text):
    ends = np.cumsum([len(word) + 1 for word in text.split()])
    return [(end - len(word) - 1, end - 1) for word, end in zip(text.split(), ends.tolist())]


def test_every_slice_knows_the_gold_spans_that_it_holds(make_slices):
    # nine tokens of the document a slice: 4 … 12, 11 … 19, 18 … 23
    _, slices = make_slices(answers=["w12", "w18 w19", "w19 w20"], stride=2)
    assert [words(s)[3:] for s in slices] == [[*range(4, 13)], [*range(11, 20)], [*range(18, 24)]]
    labels = [{i: int(x) for i, x in enumerate(s.label) if x} for s in slices]
    assert labels == [{13: 3}, {6: 3, 12: 1, 13: 2}, {5: 1, 6: 3, 7: 2}]
    assert slices[0].counts["answers_at_a_border"] == 0  # w19 w20 in the second, not in the third
    assert slices[0].counts["answerable_lost"] == 0


def test_no_answer_is_the_first_token(make_slices):
    _, slices = make_slices(answers=["w12"])
    assert [s.label[0] for s in slices] == [0, 3, 3]
    _, slices = make_slices(answers=[])
    assert all(s.label.tolist() == [3, *[0] * (len(s.label) - 1)] for s in slices)


def test_the_single_loss_takes_the_first_gold_span(make_slices):
    _, (feature,) = make_slices(answers=["w9", "w5"], length=64, loss="single")
    assert feature.label.nonzero()[0].tolist() == [10]


def test_answers_that_occur_nowhere_teach_nothing(make_slices):
    qa, slices = make_slices(answers=["w99"])
    assert not any(s.label.any() for s in slices)
    batch = pack(slices)
    logits = torch.randn(batch.num_tokens, 2)
    assert qa.loss(logits, batch).tolist() == [0.0] * len(slices)
    assert slices[0].counts["answers_dropped"] == slices[0].counts["answerable_absent"] == 1
    assert slices[0].counts["answerable_lost"] == 1


@pytest.mark.parametrize(
    ("truncate", "kept"), [("head", [*range(4, 13)]), ("tail", [*range(15, 24)])]
)
def test_one_slice_where_documents_are_truncated(make_slices, truncate, kept):
    task = {"truncate": truncate, "long_documents": "truncate"}
    _, (feature,) = make_slices(answers=["w4"], **task)
    assert words(feature)[3:] == kept
    assert feature.tokens_cut == 11
    assert feature.counts["answerable_lost"] == int(truncate == "tail")
    assert report_losses("dev", feature.counts) == {
        "highest_exact_match": 1 - feature.counts["answerable_lost"]
    }


def test_a_long_question_is_cut_and_counted(make_slices):
    _, (feature,) = make_slices(length=64, max_question_length=2)
    assert words(feature)[:3] == [1, 2, 4]
    assert feature.counts["questions_cut"] == 1
    assert feature.details["question"] == QUESTION


@pytest.mark.parametrize(
    ("question", "text", "what"),
    [("  ", TEXT, "question is empty"), (QUESTION, "\n", "document is empty")],
)
def test_nothing_to_ask_or_to_read_is_named(make_slices, question, text, what):
    with pytest.raises(UserError, match=f"question q: its {what}"):
        make_slices(text, question=question)


def answer(qa, slices, *spans):
    """Decode scores that favour the given (slice, first, last) tokens, in this order."""
    batch = pack(slices)
    logits = torch.zeros(batch.num_tokens, 2)
    for rank, (number, first, last) in enumerate(spans):
        start = int(batch.cu_seqlens[number])
        logits[start + first, 0] += 12.0 - 3 * rank
        logits[start + last, 1] += 12.0 - 3 * rank
    (prediction,) = qa.merge(qa.decode(logits, batch))
    return prediction


def test_the_answer_is_a_part_of_the_document_with_its_place(make_slices):
    qa, slices = make_slices(answers=["w18 w19"], stride=2)
    found = answer(qa, slices, (1, 12, 13), (0, 0, 0), (2, 0, 0))
    assert (found.predicted, found.gold) == ("w18 w19", ["w18 w19"])
    assert TEXT[found.start : found.end] == "w18 w19"
    assert found.id == "q"
    assert 0 < found.probability <= 1
    assert qa.metrics([found]) | {"loss": 0} == {"loss": 0, "exact_match": 1, "f1": 1}
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("answers", "depth"),
    [(["w18 w19"], 50 / 73), (["w19", "w5"], 3 / 73), (["x"], None), ([], None)],
)
def test_the_depth_is_where_the_first_gold_answer_begins(make_slices, answers, depth):
    qa, slices = make_slices(answers=answers, stride=2)
    assert len(TEXT) == 73
    assert answer(qa, slices, (0, 6, 7)).depth == depth


def test_an_answer_never_lies_in_the_question_nor_ends_before_it_starts(make_slices):
    qa, slices = make_slices(answers=["w9"], length=64, null_threshold=None)
    found = answer(qa, slices, (0, 2, 3), (0, 20, 9), (0, 11, 11))
    assert TEXT[found.start : found.end] == found.predicted
    assert "w1 " not in found.predicted + " "
    assert found.end > found.start


def test_no_answer_and_the_longest_answer(make_slices):
    qa, slices = make_slices(answers=[])
    assert answer(qa, slices, *((i, 0, 0) for i in range(len(slices)))).predicted == ""
    qa, slices = make_slices(length=64, max_answer_length=3, null_threshold=None)
    assert len(answer(qa, slices, (0, 5, 20)).predicted.split()) <= 3


def test_without_labels_there_are_answers_but_no_loss(make_encoder):
    qa = QuestionAnswering(QAConfig())
    encoder = make_encoder("bert", 15, "head", POLICIES)
    (slices,) = qa.encode([RawDocument("q", TEXT, QUESTION)], encoder)
    found = answer(qa, [qa.prepare(s, (0,)) for s in slices], (0, 6, 7))
    assert (found.gold, found.loss) == (None, None)
    assert found.predicted == "w5 w6"
    assert qa.metrics([found]) == {}


TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from(
            "ab e\u0301\u0308\u200d👩👧🏽אבשلام\u064b\u200f\x00\x07\n\u1100\u1161\u11a8\ufb01ß"
        ),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300)
@given(text=TEXTS, seed=st.integers(0, 2**16), stride=st.integers(0, 6))
def test_answers_are_exact_parts_of_any_text(make_slices, text, seed, stride):
    random = np.random.default_rng(seed)
    start = int(random.integers(len(text)))
    end = int(random.integers(start, len(text))) + 1
    cell = {"text": [text[start:end]], "answer_start": [start]}
    if not text[start:end].strip():
        return
    try:
        qa, slices = make_slices(text, cell, "Who?", "embedded", 16, stride, null_threshold=None)
    except UserError:  # white space and control characters alone
        assert not any(character.isprintable() and character != " " for character in text)
        return
    whole = 0
    for number, feature in enumerate(slices):
        spans = feature.label.nonzero()[0] if feature.label[0] == 0 else []
        if not len(spans):
            continue
        whole += 1
        found = answer(qa, slices, (number, spans[0], spans[-1]))
        assert found.predicted == text[found.start : found.end]
        # it holds all of the gold answer but white space and what no token covers
        covered = {i for first, last in feature.offsets.tolist() for i in range(first, last)}
        kept = {i for i in covered & set(range(start, end)) if not text[i].isspace()}
        assert kept <= set(range(found.start, found.end))
    counts = slices[0].counts
    assert counts["answerable_lost"] == int(not whole)
    assert counts["unreachable"] <= counts["answerable_lost"]
    assert math.isfinite(found.probability) if whole else True


LABELS = [[], [[3, 4]], [], [], "unknown", [[1, 1], [5, 6]], [], []]


@pytest.mark.parametrize(("negative_slices", "drawn"), [(0, 0), (1, 2), (1.5, 3), (9, 5)])
def test_slices_without_an_answer_are_drawn_for_those_with_one(negative_slices, drawn):
    qa = QuestionAnswering(QAConfig(negative_slices=negative_slices))
    rows = qa.draw(LABELS, (0, 0))
    assert rows == sorted(set(rows))
    assert {1, 5} <= set(rows)
    assert set(rows) <= {0, 1, 2, 3, 5, 6, 7}  # nobody knows whether 4 has one
    assert len(rows) == 2 + drawn


def test_every_epoch_draws_other_slices():
    qa = QuestionAnswering(QAConfig(negative_slices=1))
    epochs = [tuple(qa.draw(LABELS, (0, epoch))) for epoch in range(20)]
    assert tuple(qa.draw(LABELS, (0, 0))) == epochs[0]
    assert {row for rows in epochs for row in rows} == {0, 1, 2, 3, 5, 6, 7}
