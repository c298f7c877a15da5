"""HotpotQA's figures, case by case, as its official evaluation script counts them."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.hotpot_metrics import answer_score, facts_score, hotpot

A, B, C, D = ("Ann", 0), ("Ann", 1), ("Bob", 0), ("Bob", 3)


@pytest.mark.parametrize(
    ("predicted", "gold", "exact", "precision", "recall"),
    [
        ("the Denver Broncos", "Denver Broncos.", 1, 1, 1),
        ("Denver", "Denver Broncos", 0, 1, 0.5),
        ("cat cat", "cat", 0, 0.5, 1),
        ("yes", "Yes.", 1, 1, 1),
        ("yes", "no", 0, 0, 0),
        ("yes they do", "yes", 0, 0, 0),  # closed answers have no words in part
        ("no", "no man's land", 0, 0, 0),
        ("no one", "no man's land", 0, 0.5, 1 / 3),  # neither is closed
        ("noanswer", "a noanswer code", 0, 0, 0),
        ("", "cat", 0, 0, 0),
        ("The", "a", 1, 0, 0),  # equal, yet without a word in common: unlike in SQuAD 2.0
    ],
)
def test_answers(predicted: str, gold: str, exact: float, precision: float, recall: float) -> None:
    assert answer_score(predicted, gold) == pytest.approx((exact, precision, recall))


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ({A, C}, {A, C}, (1, 1, 1)),
        ([A, A, C], [C, A], (1, 1, 1)),  # sets, whatever they come as
        ({A, B}, {A, C, D}, (0, 1 / 2, 1 / 3)),
        ({("Ann", 2)}, {A}, (0, 0, 0)),  # another sentence of the right paragraph
        (set(), {A}, (0, 0, 0)),
        ({A}, set(), (0, 0, 0)),
        (set(), set(), (1, 0, 0)),  # nothing is wrong, but nothing is found either
    ],
)
def test_supporting_facts(predicted, gold, expected) -> None:
    assert facts_score(predicted, gold) == pytest.approx(expected)


def test_jointly_both_have_to_be_right() -> None:
    measured = hotpot(
        ["yes", "Denver", "Rome"],
        ["yes", "Denver Broncos", "Rome"],
        [{A, C}, {A, B}, {A}],
        [{A, C}, {A}, {A, C}],
    )
    assert measured == pytest.approx(
        {
            "exact_match": 2 / 3,
            "f1": (1 + 2 / 3 + 1) / 3,
            "supporting_exact_match": 1 / 3,
            "supporting_f1": (1 + 2 / 3 + 2 / 3) / 3,
            "joint_exact_match": 1 / 3,
            # precision 1 · 1/2 and recall 1/2 · 1; precision 1 · 1 and recall 1 · 1/2
            "joint_f1": (1 + 1 / 2 + 2 / 3) / 3,
        }
    )
    assert hotpot([], [], [], []) == {}


def test_lists_of_different_lengths_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="zip"):
        hotpot(["a"], ["a", "b"], [set()], [set()])


def oracle(answers, golds, facts, gold_facts) -> dict[str, float]:
    """The official rules once more, counted out one by one."""

    def plain(text):
        kept = [c for c in text.lower() if c not in string.punctuation]
        return re.sub(r"\b(a|an|the)\b", " ", "".join(kept)).split()

    def f1(p, r):
        return 0.0 if p * r == 0 else 2 / (1 / p + 1 / r)

    rows = []
    for answer, gold, ours, theirs in zip(answers, golds, facts, gold_facts, strict=True):
        mine, right = plain(answer), plain(gold)
        exact, left, common = mine == right, list(right), 0
        for word in mine:
            if word in left:
                left.remove(word)
                common += 1
        if not exact and any(w in (["yes"], ["no"], ["noanswer"]) for w in (mine, right)):
            common = 0
        p, r = (common / len(mine), common / len(right)) if common else (0.0, 0.0)
        hits = len([fact for fact in ours if fact in theirs])
        fact_p, fact_r = hits / max(1, len(ours)), hits / max(1, len(theirs))
        missed = [fact for fact in theirs if fact not in ours]
        facts_exact = hits == len(ours) and not missed
        rows.append(
            [exact, f1(p, r), facts_exact, f1(fact_p, fact_r)]
            + [exact and facts_exact, f1(p * fact_p, r * fact_r)]
        )
    names = [f"{kind}{m}" for kind in ("", "supporting_", "joint_") for m in ("exact_match", "f1")]
    return {n: sum(row[i] for row in rows) / len(rows) for i, n in enumerate(names)}


ANSWERS = st.lists(st.sampled_from(["the", "cat", "Yes", "no", "a-b", "."]), max_size=3)
FACTS = st.sets(st.sampled_from([A, B, C, D]))


@given(st.lists(st.tuples(ANSWERS, ANSWERS, FACTS, FACTS), min_size=1, max_size=4))
def test_as_counted_one_by_one(rows) -> None:
    answers, golds, facts, gold_facts = zip(*rows, strict=True)
    answers, golds = [" ".join(a) for a in answers], [" ".join(a) for a in golds]
    expected = oracle(answers, golds, facts, gold_facts)
    assert hotpot(answers, golds, facts, gold_facts) == pytest.approx(expected)
