"""TriviaQA's figures, case by case, as its official evaluation script counts them."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks import qa_metrics
from longspan.tasks.triviaqa_metrics import normalize, score, triviaqa


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("Sunset_Boulevard", "sunset boulevard"),  # titles of pages
        ("rock-and-roll", "rock and roll"),  # a mark leaves a space, unlike in SQuAD's scorer
        ("U.S.A.", "u s"),  # … and an "a" that then is an article
        ("Hawai‘i’s Queen", "hawai i s queen"),
        ("caf´e `x`", "caf e x"),
        ("“quoted”", "“quoted”"),  # other quotation marks stay
        ("A", ""),
    ],
)
def test_answers_are_normalised_in_the_official_order(answer: str, normal: str) -> None:
    assert normalize(answer) == normal


def test_squads_normal_form_is_another() -> None:
    assert qa_metrics.normalize("rock-and-roll") == "rockandroll"


@pytest.mark.parametrize(
    ("predicted", "aliases", "exact", "overlap"),
    [
        ("Sinclair Lewis", ["Harry Sinclair Lewis", "sinclair lewis"], 1, 1),
        ("Lewis", ["Harry Sinclair Lewis", "Sinclair Lewis"], 0, 2 / 3),  # the alias nearest to it
        ("rock and roll", ["Rock-and-roll"], 1, 1),
        ("", ["Lewis"], 0, 0),
        ("the", ["A"], 1, 0),  # equal, yet without a word in common
        ("", [], 1, 1),
        ("Lewis", [], 0, 0),
    ],
)
def test_the_alias_that_suits_best_counts(predicted, aliases, exact, overlap) -> None:
    assert score(predicted, aliases) == pytest.approx((exact, overlap))


def test_means() -> None:
    measured = triviaqa(["Lewis", "Rome"], [["Sinclair Lewis"], ["Roma", "Rome"]])
    assert measured == pytest.approx({"exact_match": 0.5, "f1": (2 / 3 + 1) / 2})


def oracle(text: str) -> list[str]:
    """The official steps, character by character."""
    text = "".join(" " if c == "_" else c for c in text).lower()
    marks = set(string.punctuation) | {"‘", "’", "´", "`"}
    text = "".join(" " if c in marks else c for c in text)
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


@given(st.text(st.sampled_from("aAn theTHE_-.’“é"), max_size=12))
def test_as_normalised_character_by_character(text: str) -> None:
    assert normalize(text) == " ".join(oracle(text))
