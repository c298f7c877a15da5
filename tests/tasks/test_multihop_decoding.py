"""Which sentences become supporting facts, and the file of HotpotQA's official scorer."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.multihop_decoding import (
    Prediction,
    SupportingFact,
    choose_facts,
    hotpot_predictions,
)

LOGITS = st.floats(-4, 4).map(lambda x: round(x, 3))


def slow_choice(titles, sentences, num_paragraphs, threshold):
    """Sentence by sentence, with ties between paragraphs as they stand in the text."""
    paragraphs = sorted({p for p, _ in sentences})
    score = {
        p: titles[p] if p in titles else max(s for (q, _), s in sentences.items() if q == p)
        for p in paragraphs
    }
    best = paragraphs
    if num_paragraphs is not None:
        best = sorted(paragraphs, key=lambda p: (-score[p], p))[:num_paragraphs]
    chosen = set()
    for paragraph in best:
        own = {
            place: 1 / (1 + math.exp(-s)) for place, s in sentences.items() if place[0] == paragraph
        }
        above = {place for place, probability in own.items() if probability >= threshold}
        if not above and num_paragraphs is not None:
            above = {min(own, key=lambda place: (-own[place], place))}
        chosen |= above
    return chosen


@given(
    titles=st.dictionaries(st.integers(0, 4), LOGITS),
    sentences=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 3)), LOGITS),
    num_paragraphs=st.sampled_from([None, 1, 2, 9]),
    threshold=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_facts_are_those_of_the_slow_oracle(titles, sentences, num_paragraphs, threshold):
    sentences = dict(sorted(sentences.items()))
    found = choose_facts(titles, sentences, num_paragraphs, threshold)
    assert {fact[:2] for fact in found} == slow_choice(titles, sentences, num_paragraphs, threshold)
    probabilities = [fact[2] for fact in found]
    assert probabilities == sorted(probabilities, reverse=True)
    for paragraph, number, probability in found:
        assert math.isclose(probability, 1 / (1 + math.exp(-sentences[paragraph, number])))


def test_each_of_the_best_paragraphs_gives_a_fact():
    titles = {0: 3.0, 1: -1.0, 2: 2.0}
    sentences = {(0, 0): 4.0, (0, 1): 1.0, (1, 0): 5.0, (2, 0): -2.0, (2, 1): -1.0}
    assert [fact[:2] for fact in choose_facts(titles, sentences, 2, 0.5)] == [
        (0, 0),
        (0, 1),
        (2, 1),
    ]
    assert {fact[:2] for fact in choose_facts(titles, sentences, None, 0.5)} == {
        (0, 0), (0, 1), (1, 0)
    }  # fmt: skip


def test_the_official_file():
    facts = (SupportingFact("Ann", 1, 0.9), SupportingFact("Bob", 0, 0.8))
    prediction = Prediction(
        "5a8b", "Where?", "Rome", [["Ann", 1]], "Rome", "span", 3, 7, 0.5, facts, 40, 0, 0.1
    )
    written = hotpot_predictions([prediction])
    # a round trip through JSON changes nothing: no tuples, no numbers of other libraries
    assert json.loads(json.dumps(written)) == written
    assert written == {"answer": {"5a8b": "Rome"}, "sp": {"5a8b": [["Ann", 1], ["Bob", 0]]}}
    assert json.loads(json.dumps(prediction.to_dict()))["facts"][0] == {
        "title": "Ann", "sentence": 1, "probability": 0.9
    }  # fmt: skip
