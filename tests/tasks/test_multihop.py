"""Multi-hop question answering: what a slice holds, what is right in it, and the four losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.batch import pack
from longspan.config import GlobalsConfig, ModelConfig, MultiHopConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks.hotpot_metrics import hotpot
from longspan.tasks.multihop import MultiHop, report_losses
from longspan.tasks.multihop_rows import lay_out, read_paragraphs

QUESTION = "Where does Ann's brother live?"
CONTEXT = {
    "title": ["Ann", "Bob", "The sea"],
    "sentences": [
        ["Ann sings.", " She is Bob's sister."],
        ["Bob lives in Texas.", " Texas is old."],
        ["It is calm."],
    ],
}
FACTS = {"title": ["Ann", "Bob"], "sent_id": [1, 0]}


def row(answer="Texas", context=CONTEXT, facts=FACTS, question=QUESTION, labelled=True):
    where = "answer of train row 0" if labelled else None
    cells = {"paragraphs": context, "facts": facts}
    return RawDocument("q", str(context), question, None, answer, where, cells)


@pytest.fixture(scope="session")
def encode(tokenizers):
    """The slices of rows, before they are read."""

    def encode(*rows, task=None, length=256, stride=0, policies=None):
        tokenizer = tokenizers["embedded"]
        encoder = DocumentEncoder(
            tokenizer.backend_tokenizer, cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id, max_length=length, truncate="head",
            policies=policies or GlobalsConfig(question=True), stride=stride,
        )  # fmt: skip
        return (task or MultiHop(MultiHopConfig())).encode(rows, encoder)

    return encode


def begins(piece, token):
    """The text from a token of a slice on."""
    text = piece.details["text"][piece.offsets[token, 0] - piece.details["text_start"] :]
    return text.lstrip()


def test_first_tokens_of_titles_and_sentences_are_known_and_global(encode, tokenizers):
    ((piece,),) = encode(row())
    for token, paragraph in piece.details["titles"]:
        assert begins(piece, token).startswith(f"{CONTEXT['title'][paragraph]}\n")
    for token, paragraph, number in piece.details["sentences"]:
        sentence = CONTEXT["sentences"][paragraph][number].strip()
        assert begins(piece, token).startswith(sentence)
    assert [place[1] for place in piece.details["titles"]] == [0, 1, 2]
    places = [tuple(place[1:]) for place in piece.details["sentences"]]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    asked = len(tokenizers["embedded"].backend_tokenizer.encode(QUESTION).ids) - 1
    marked = [place[0] for place in (*piece.details["titles"], *piece.details["sentences"])]
    assert piece.global_positions.tolist() == sorted([*range(asked), *marked])


def test_without_structure_globals_the_policies_decide_alone(encode):
    task = MultiHop(MultiHopConfig(structure_globals=False))
    ((piece,),) = encode(row(), task=task, policies=GlobalsConfig())
    assert piece.global_positions.tolist() == [0]
    assert piece.details["sentences"]


def test_gold_of_a_slice(encode):
    ((piece,),) = encode(row())
    label = MultiHop(MultiHopConfig()).prepare(piece, (0,)).label
    tokens = {name: [place[0] for place in piece.details[name]] for name in ("titles", "sentences")}
    assert label[tokens["sentences"], 1].tolist() == [0, 1, 1, 0, 0]
    assert label[tokens["titles"], 2].tolist() == [1, 1, 0]
    assert label[0, 3] == 0
    assert (label[:, 1] >= 0).sum() == 5
    assert (label[:, 2] >= 0).sum() == 3
    assert (label[:, 3] >= 0).sum() == 1
    text = piece.details["text"]
    spans = [text[slice(*piece.offsets[i].tolist())] for i in label[:, 0].nonzero()[0]]
    assert [span.strip() for span in spans] == ["Texas", "Texas"]


@pytest.mark.parametrize(("answer", "kind"), [("yes", 1), ("no", 2)])
def test_yes_and_no_teach_no_span(encode, answer, kind):
    task = MultiHop(MultiHopConfig())
    ((piece,),) = encode(row(answer))
    batch = pack([task.prepare(piece, (0,))])
    assert not batch.labels[:, 0].any()
    assert batch.labels[0, 3] == kind
    only_spans = MultiHop(MultiHopConfig(type_weight=0, sentence_weight=0, paragraph_weight=0))
    assert only_spans.loss(torch.randn(batch.num_tokens, 7), batch).tolist() == [0.0]
    assert piece.counts["answers_yes_or_no"] == 1


def test_slices_hold_each_sentence_that_begins_in_them(encode):
    task = MultiHop(MultiHopConfig())
    (slices,) = encode(row(), task=task, length=24, stride=4)
    assert len(slices) > 2
    held = [tuple(place[1:]) for piece in slices for place in piece.details["sentences"]]
    assert set(held) == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}
    for piece in slices:
        for token, paragraph, number in piece.details["sentences"]:
            sentence = CONTEXT["sentences"][paragraph][number].strip()
            assert sentence.startswith(begins(piece, token)[: len(sentence)])
    assert [piece.counts is not None for piece in slices] == [True] + [False] * (len(slices) - 1)


WEIGHTS = {"span_weight": 1.0, "type_weight": 0.5, "sentence_weight": 2.0, "paragraph_weight": 0.25}


def slow_loss(piece, logits, answer):
    """The four losses in plain Python, from the words of the row alone."""

    def nll(scores, right):
        return math.log(sum(map(math.exp, scores))) - math.log(sum(math.exp(r) for r in right))

    def binary(score, right):
        return math.log1p(math.exp(-score if right else score))

    total = 0.0
    text, base = piece.details["text"], piece.details["text_start"]
    offsets = [(int(a) - base, int(b) - base) for a, b in piece.offsets]
    own = [i for i, (a, b) in enumerate(piece.offsets.tolist()) if b > a]
    if answer == "Texas":
        words = [text[a:b].strip() for a, b in offsets]
        # of Ann and Bob; the answer is one token
        gold = [i for i in own if words[i] == "Texas"] or [0]
        for column in (0, 1):
            scores = [logits[i][column] for i in [0, *own]]
            total += 0.5 * WEIGHTS["span_weight"] * nll(scores, [logits[i][column] for i in gold])
    kind = {"Texas": 0, "yes": 1, "no": 2}[answer]
    total += WEIGHTS["type_weight"] * nll(logits[0][4:], [logits[0][4 + kind]])
    for name, column, weight in (
        ("sentences", 2, "sentence_weight"),
        ("titles", 3, "paragraph_weight"),
    ):
        places = piece.details[name]
        right = {(0, 1), (1, 0)} if name == "sentences" else {(0,), (1,)}
        nats = [binary(logits[t][column], tuple(place) in right) for t, *place in places]
        total += WEIGHTS[weight] * (sum(nats) / len(nats) if nats else 0.0)
    return total


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), length=st.sampled_from([24, 40, 256]))
def test_the_loss_is_that_of_the_slow_oracle(encode, seed, length):
    task = MultiHop(MultiHopConfig(**WEIGHTS))
    answers = ["Texas", "yes", "no"]
    encoded = encode(*(row(answer) for answer in answers), task=task, length=length)
    pieces = [(p, answer) for slices, answer in zip(encoded, answers) for p in slices]
    batch = pack([task.prepare(piece, (0,)) for piece, _ in pieces])
    logits = torch.randn(batch.num_tokens, 7, generator=torch.Generator().manual_seed(seed)) * 3
    bounds = batch.cu_seqlens.tolist()
    expected = [
        slow_loss(piece, logits[bounds[i] : bounds[i + 1]].tolist(), answer)
        for i, (piece, answer) in enumerate(pieces)
    ]
    assert task.loss(logits, batch).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_every_score_has_a_gradient(encode):
    task = MultiHop(MultiHopConfig())
    ((piece,),) = encode(row())
    batch = pack([task.prepare(piece, (0,))])
    head = task.head(
        ModelConfig(vocab_size=9, hidden_size=8, num_heads=2), torch.nn.Embedding(9, 8)
    )
    logits = head(torch.randn(batch.num_tokens, 8), batch)
    assert logits.shape == (batch.num_tokens, 7)
    task.loss(logits, batch).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def perfect_logits(batch):
    """Scores that say what is gold."""
    logits = torch.full((batch.num_tokens, 7), -9.0)
    labels = batch.labels
    logits[:, 0] += 18 * ((labels[:, 0] & 1) > 0)
    logits[:, 1] += 18 * ((labels[:, 0] & 2) > 0)
    logits[:, 2] += 18 * (labels[:, 1] == 1)
    logits[:, 3] += 18 * (labels[:, 2] == 1)
    first = (labels[:, 3] >= 0).nonzero().squeeze(1)
    logits[first, 4 + labels[first, 3]] = 9.0
    return logits


@pytest.mark.parametrize("length", [24, 256])
def test_scores_that_say_gold_become_gold(encode, length):
    task = MultiHop(MultiHopConfig())
    rows = [row("Texas"), row("no")]
    rows = [RawDocument(**vars(r) | {"id": name}) for r, name in zip(rows, "ab", strict=True)]
    slices = [piece for own in encode(*rows, task=task, length=length) for piece in own]
    batch = pack([task.prepare(piece, (0,)) for piece in slices])
    predictions = task.merge(task.decode(perfect_logits(batch), batch))
    assert [p.id for p in predictions] == ["a", "b"]
    assert [p.predicted for p in predictions] == ["Texas", "no"]
    assert [p.type for p in predictions] == ["span", "no"]
    text = lay_out(read_paragraphs(rows[0].cells["paragraphs"], "here")).text
    assert [p.depth for p in predictions] == [text.index("Texas") / len(text), None]
    for p in predictions:
        assert {(fact.title, fact.sentence) for fact in p.facts} == {("Ann", 1), ("Bob", 0)}
    metrics = task.metrics(predictions)
    assert metrics["joint_exact_match"] == metrics["joint_f1"] == 1.0
    assert metrics["loss"] < 0.1
    facts = [{("Ann", 1), ("Bob", 0)}] * 2
    assert metrics.keys() == {"loss", *hotpot(["Texas", "no"], ["Texas", "no"], facts, facts)}


def test_rows_without_labels_are_answered_but_not_scored(encode):
    task = MultiHop(MultiHopConfig())
    ((piece,),) = encode(row(None, facts=None, labelled=False), task=task)
    assert piece.label is None
    batch = pack([task.prepare(piece, (0,))])
    assert batch.labels is None
    (prediction,) = task.merge(task.decode(torch.randn(batch.num_tokens, 7), batch))
    assert (prediction.gold, prediction.gold_facts, prediction.loss) == (None, None, None)
    assert task.metrics([prediction]) == {}
    assert prediction.told()["question"] == QUESTION


NAMES = ["Ann\u0301", "\U0001f469\u200d\U0001f680", "\u05d0\u05d1", "İz", "漢字", "a\u0000b"]


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True),
    st.sampled_from(["\u0301", " \u200f", "\u00a0", "\u0007 ", ""]),
)
def test_answers_stay_parts_of_the_passage_on_any_script(encode, names, glue):
    """The gold span of a strange name decodes to that name."""
    task = MultiHop(MultiHopConfig())
    answer = names[0]
    context = [[name, [f"{glue}Here is {name} .", f" Not {other} ."]]
               for name, other in zip(names, reversed(names))]  # fmt: skip
    ((piece,),) = encode(row(answer, context, [[answer, 0]]), task=task)
    batch = pack([task.prepare(piece, (0,))])
    if piece.counts["answers_dropped"]:
        assert answer not in piece.details["text"]
        return
    (prediction,) = task.merge(task.decode(perfect_logits(batch), batch))
    assert answer in prediction.predicted  # a token may hold more than the name
    text = piece.details["text"]
    start = piece.details["text_start"]
    assert text[prediction.start - start : prediction.end - start] == prediction.predicted
    assert (answer, 0) in {(fact.title, fact.sentence) for fact in prediction.facts}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": " "}, "question q: its question is empty"),
        ({"context": [["", []]]}, "question q: its document is empty"),
        ({"context": None}, "answer of train row 0: 'None' are no paragraphs"),
        ({"answer": ""}, "answer of train row 0: the answer '' is no text"),
        ({"facts": None}, "answer of train row 0: no supporting facts"),
    ],
)
def test_bad_rows_are_one_line(encode, changed, message):
    with pytest.raises(UserError, match=message) as error:
        encode(row(**changed))
    assert "\n" not in str(error.value)


def test_what_was_lost_is_reported(encode, caplog):
    ((piece,),) = encode(row("Paris", facts={"title": ["Ann"], "sent_id": [7]}))
    with pytest.raises(UserError, match=r"none of the 1 answers of the train split"):
        report_losses("train", piece.counts)
    with caplog.at_level("INFO"):
        assert report_losses("dev", piece.counts) == {"highest_exact_match": 0.0}
    assert "dev: 1 supporting facts name no sentence" in caplog.text
    assert "dev: 1 answers dropped" in caplog.text
    ((piece,),) = encode(row("yes"))
    assert report_losses("train", piece.counts) == {"highest_exact_match": 1.0}
    assert report_losses("dev", {}) == {}
