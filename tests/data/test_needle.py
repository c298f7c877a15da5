"""Needles: the same every time, where they say they are, and not to be found by their words."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from longspan.config import DataConfig, NeedleConfig
from longspan.data.needle import Address, cell_of, make_needles, num_tokens
from longspan.data.needle_facts import (
    ATTRIBUTES,
    PERSON_WORDS,
    PLACE_WORDS,
    SPLITS,
    draw_facts,
    names_of,
)
from longspan.data.sources import load_splits
from longspan.errors import UserError
from longspan.typed import from_dict

SMALL = NeedleConfig(
    lengths=(256, 1024), depths=(0, 30, 100), train=(30, 6), dev=(6, 3), test=(12, 6), seed=3
)
# words that any two sentences share
FUNCTION_WORDS = set(
    "a all and any are around as at be been but by did do does ever far for from given have here "
    "in is it last near now of on or out over past than that the they this to was we what when "
    "which who whom with within year".split()
)


@pytest.fixture(scope="module")
def addresses():
    table = load_splits(DataConfig(split_column="split", id_column="id",
                        splits={split: split for split in SPLITS}), stratify=False)  # fmt: skip
    return {split: list(zip(rows["id"][:], rows["text"][:])) for split, rows in table.items()}


@pytest.fixture(scope="module")
def needles(addresses):
    return make_needles(addresses, SMALL)


NAME = "[A-Z][a-z]+ [A-Z][a-z]+"
FACT = re.compile(
    "|".join(
        re.escape(text)
        .replace(r"\{place\}", NAME)
        .replace(r"\{answer\}", r"[A-Za-z]+(?: [A-Z][a-z]+)?")
        for attribute in ATTRIBUTES
        for text in attribute.facts
    )
)


def facts_in(text):
    """Matches of the sentences that were set into a document."""
    return list(FACT.finditer(text))


def content_words(text):
    return [w for w in re.findall(r"\w+", text.lower()) if w not in FUNCTION_WORDS]


def all_rows(needles):
    return [row for rows in needles.values() for row in rows]


def test_the_config_alone_decides(addresses, needles):
    assert make_needles(addresses, SMALL) == needles
    other = from_dict(NeedleConfig, vars(SMALL) | {"seed": 4})
    assert make_needles(addresses, other)["test"][0]["text"] != needles["test"][0]["text"]


def test_more_questions_leave_the_others_as_they_are(addresses, needles):
    more = from_dict(NeedleConfig, vars(SMALL) | {"test": (18, 6)})
    assert make_needles(addresses, more)["test"][:12] == needles["test"][:12]


def test_an_answer_stands_where_it_starts_and_nowhere_else(needles):
    for row in all_rows(needles):
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["text"][start : start + len(answer)] == answer
        assert len(re.findall(rf"\b{answer}\b", row["text"], re.IGNORECASE)) == 1


def test_every_cell_of_the_grid_has_as_many_questions(needles):
    for split, per_length in (("train", (30, 6)), ("dev", (6, 3)), ("test", (12, 6))):
        cells = Counter(cell_of(row["id"]) for row in needles[split])
        assert cells == {
            (length, depth): total // 3
            for length, total in zip(SMALL.lengths, per_length, strict=True)
            for depth in SMALL.depths
        }
        assert len({row["id"] for row in needles[split]}) == sum(per_length)


def test_a_document_is_a_passage_of_its_address_with_facts_between_sentences(addresses, needles):
    texts = dict(pair for rows in addresses.values() for pair in rows)
    for row in all_rows(needles):
        rest = row["text"]
        assert len(facts_in(rest)) == SMALL.facts
        for fact in facts_in(row["text"]):
            rest = rest.replace(fact[0] + " ", "")
        # a blank that was put between a sentence at the end of the passage and a fact
        assert rest.strip() in texts[row["address"]]


def test_lengths_are_nearly_reached(needles):
    for row in all_rows(needles):
        length, _ = cell_of(row["id"])
        assert 0.6 * length < num_tokens(row["question"] + row["text"]) <= length


def test_depth_is_right_within_a_sentence(addresses, needles):
    longest = {split: max(Address.of(*a).tokens.max() for a in rows)
               for split, rows in addresses.items()}  # fmt: skip
    for split, rows in needles.items():
        for row in rows:
            (start,) = row["answers"]["answer_start"]
            facts = facts_in(row["text"])
            (asked,) = [f for f in facts if f.start() <= start < f.end()]
            before = num_tokens(row["text"][: asked.start()])
            before -= sum(num_tokens(f[0]) for f in facts if f.start() < asked.start())
            total = num_tokens(row["text"]) - sum(num_tokens(f[0]) for f in facts)
            _, depth = cell_of(row["id"])
            assert abs(before - depth / 100 * total) <= longest[split] / 2 + 1
            if depth == 0:
                assert before == 0
            if depth == 100:
                assert before == pytest.approx(total)


def test_its_place_does_not_tell_which_fact_is_asked_about(addresses):
    """Who guesses one of the facts by its depth alone is right as often as who draws lots."""
    many = from_dict(NeedleConfig, vars(SMALL) | {"lengths": (1024,), "train": (600,), "dev": (0,),
                                                  "test": (0,), "depths": (0, 25, 50, 75, 100)})  # fmt: skip
    asked, all_facts = Counter(), Counter()
    for row in make_needles(addresses, many)["train"]:
        (start,) = row["answers"]["answer_start"]
        facts = facts_in(row["text"])
        share = [round(20 * f.start() / (len(row["text"]) - len(f[0]))) for f in facts]
        (which,) = [i for i, f in enumerate(facts) if f.start() <= start < f.end()]
        asked[share[which]] += 1
        all_facts.update(share)
    best = max(asked[place] / all_facts[place] for place in all_facts if all_facts[place] >= 100)
    assert best < 0.35  # of four facts; one in four on average
    assert sum(asked.values()) == 600


def test_a_question_shares_no_words_with_its_fact_but_the_name(needles):
    for row in all_rows(needles):
        (start,) = row["answers"]["answer_start"]
        (fact,) = [f[0] for f in facts_in(row["text"]) if f.start() <= start < f.end()]
        shared = set(content_words(fact)) & set(content_words(row["question"]))
        (place,) = [name for split in SPLITS for name in names_of(PLACE_WORDS, split)
                    if name in row["question"]]  # fmt: skip
        assert place in fact
        assert shared == set(place.lower().split())


def test_wordings_of_a_kind_share_no_word_that_carries_meaning():
    for attribute in ATTRIBUTES:
        told, asked = (
            {word[:5] for text in texts for word in content_words(text)} - {"place", "answe"}
            for texts in (attribute.facts, attribute.questions)
        )
        assert not told & asked


def test_the_place_alone_does_not_tell_the_fact_nor_does_its_kind():
    generator = np.random.default_rng(0)
    for _ in range(20):
        asked, *others = draw_facts("train", 4, "", generator)
        same_place = [f for f in others if f.place == asked.place]
        same_kind = [f for f in others if f.attribute == asked.attribute]
        assert len(same_place) == len(same_kind) == 1
        assert len({f.answer for f in (asked, *others)}) == 4


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9, 16])
def test_any_number_of_facts_differ(number):
    facts = draw_facts("dev", number, "", np.random.default_rng(number))
    assert len(facts) == len({(f.place, f.attribute) for f in facts}) == number
    for fact in facts:
        assert fact.text[fact.answer_start :].startswith(fact.answer)


def test_names_and_addresses_of_the_splits_are_disjoint(needles):
    for one, other in combinations(SPLITS, 2):
        for words in (PLACE_WORDS, PERSON_WORDS):
            assert not set(names_of(words, one)) & set(names_of(words, other))
        assert not {r["address"] for r in needles[one]} & {r["address"] for r in needles[other]}


def test_names_that_stand_in_the_passage_are_not_used():
    first = draw_facts("test", 4, "", np.random.default_rng(0))
    taken = " ".join(f"{fact.place} {fact.answer}" for fact in first)
    second = draw_facts("test", 4, taken, np.random.default_rng(0))
    assert not {f.place for f in first} & {f.place for f in second}
    assert not {f.answer for f in first} & {f.answer for f in second}


def test_they_are_a_source_like_any_other():
    config = DataConfig(path="embedded:needle", needle=SMALL)
    splits = load_splits(config, stratify=False)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 36, "dev": 9, "test": 18,
    }  # fmt: skip
    again = load_splits(config, stratify=False)
    assert all(again[s]._fingerprint == splits[s]._fingerprint for s in splits), "a cache is found"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": [64]}, "data.needle.lengths: 64 tokens are too few for 4 facts"),
        ({"lengths": [99999]}, "data.needle.lengths: no address of the train split has 99999"),
    ],
)
def test_lengths_that_cannot_be_made(addresses, fields, message):
    config = from_dict(NeedleConfig, {"train": [1], "dev": [1], "test": [1]} | fields)
    with pytest.raises(UserError, match=message):
        make_needles(addresses, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": []}, r"needle.lengths=\[\] must list"),
        ({"depths": [50, 50]}, r"needle.depths=\[50, 50\] must list different"),
        ({"depths": [101]}, "needle.depths: 101 must lie in"),
        ({"test": [1]}, r"needle.test=\[1\] must give a number for each"),
        ({"train": [0, 0, 0, 0]}, r"needle.train=\[0, 0, 0, 0\] leaves nothing"),
        ({"facts": 0}, "needle.facts=0"),
        ({"facts": 65}, "needle.facts=65"),
        ({"factz": 4}, "did you mean needle.facts"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        from_dict(DataConfig, {"path": "embedded:needle", "needle": fields})
