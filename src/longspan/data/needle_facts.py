"""What needles are made of: facts about made-up places, and questions in other words.

A fact and a question about it share the name of the place and no other word that carries meaning,
so that whoever looks for the question's words finds every fact about the place, and no more.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Attribute:
    """Something that may be told about a place.

    Attributes:
        facts: sentences with `{place}` and `{answer}`.
        questions: with `{place}`.
        answers: what the answer is drawn from; None = a made-up person.
    """

    facts: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...] | None = None


ATTRIBUTES = (
    Attribute(
        (
            "The garrison at {place} is commanded by {answer}.",
            "Command of the garrison at {place} has been given to {answer}.",
        ),
        (
            "Who leads the soldiers stationed in {place}?",
            "Which officer is at the head of the troops of {place}?",
        ),
    ),
    Attribute(
        (
            "The mails of {place} are in the hands of the postmaster {answer}.",
            "As postmaster at {place} we have appointed {answer}.",
        ),
        (
            "Who looks after letters and parcels in {place}?",
            "By whom is correspondence delivered around {place}?",
        ),
    ),
    Attribute(
        (
            "The children of {place} are taught by {answer}.",
            "At {place} a school for all children was founded by {answer}.",
        ),
        (
            "Who educates the young people of {place}?",
            "Which person gives lessons to pupils in {place}?",
        ),
    ),
    Attribute(
        (
            "The lighthouse at {place} is tended by {answer}.",
            "The keeper of the lighthouse at {place} is {answer}.",
        ),
        (
            "Who guides ships past the coast of {place}?",
            "Which person trims the lamp for sailors near {place}?",
        ),
    ),
    Attribute(
        (
            "The farmers of {place} have planted nothing but {answer} this year.",
            "The fields around {place} yielded a great harvest of {answer}.",
        ),
        (
            "Which crop is cultivated in {place}?",
            "What do growers raise on the land by {place}?",
        ),
        ("barley", "cotton", "flax", "hemp", "indigo", "maize", "oats", "rice", "rye", "tobacco"),
    ),
    Attribute(
        (
            "Rich deposits of {answer} were discovered in the hills behind {place}.",
            "The mines of {place} sent more {answer} to market than ever before.",
        ),
        (
            "Which metal is dug out of the ground in {place}?",
            "What ore do people extract close to {place}?",
        ),
        ("copper", "gold", "iron", "lead", "mercury", "nickel", "silver", "tin", "zinc"),
    ),
    Attribute(
        (
            "The railroad to {place} was opened in {answer}.",
            "By the railroad, completed in {answer}, {place} is now within reach.",
        ),
        (
            "In which month did trains first arrive at {place}?",
            "When did locomotives begin to run as far as {place}?",
        ),
        (
            "January", "February", "March", "April", "May", "June",
            "July", "August", "September", "October", "November", "December",
        ),
    ),
    Attribute(
        (
            "The banner that flies over {place} is {answer}.",
            "Over the roofs of {place} waves a {answer} banner.",
        ),
        (
            "What color does the flag of {place} have?",
            "In which hue is the ensign of {place} dyed?",
        ),
        ("black", "blue", "brown", "crimson", "green", "orange", "purple", "scarlet", "white", "yellow"),
    ),
)  # fmt: skip

PLACE_WORDS = (
    (
        "Alder", "Amber", "Ash", "Badger", "Bear", "Birch", "Beaver", "Bramble", "Bright", "Cedar",
        "Clay", "Clover", "Cypress", "Coral", "Crane", "Crow", "Crystal", "Deer", "Eagle", "Elm",
        "Falcon", "Fern", "Flint", "Fox", "Granite", "Hawk", "Hazel", "Heather", "Heron", "Holly",
        "Ivory", "Ivy", "Juniper", "Lark", "Laurel", "Lily", "Linden", "Maple", "Marble", "Moss",
        "Oak", "Otter", "Owl", "Pearl", "Pine", "Poplar", "Raven", "Red", "Robin", "Rose",
        "Sage", "Salmon", "Sparrow", "Spruce", "Stone", "Swan", "Thistle", "Walnut", "Willow", "Wolf",
    ),
    (
        "Bend", "Bluff", "Bridge", "Brook", "Corner", "Creek", "Crossing", "Falls", "Ferry", "Ford",
        "Glen", "Grove", "Harbor", "Hollow", "Landing", "Meadow", "Mill", "Pass", "Point", "Pond",
        "Ridge", "Rock", "Springs", "Valley",
    ),
)  # fmt: skip
PERSON_WORDS = (
    (
        "Abel", "Agnes", "Alma", "Amos", "Anna", "Asa", "Clara", "Cyrus", "Dora", "Edith",
        "Eli", "Ella", "Emma", "Enoch", "Esther", "Ezra", "Felix", "Flora", "Grace", "Hannah",
        "Hugo", "Ida", "Ira", "Jonas", "Julia", "Laura", "Levi", "Lucy", "Lydia", "Mabel",
        "Martha", "Miles", "Moses", "Nathan", "Noah", "Nora", "Oscar", "Otto", "Ralph", "Rufus",
        "Ruth", "Sarah", "Silas", "Simon", "Stella", "Titus", "Tobias", "Victor", "Viola", "Walter",
    ),
    (
        "Archer", "Baker", "Barnes", "Bishop", "Brewer", "Briggs", "Burton", "Carver", "Chandler", "Cole",
        "Cooper", "Curtis", "Dalton", "Drake", "Ellis", "Fisher", "Fletcher", "Foster", "Gardner", "Gibson",
        "Harding", "Hayward", "Hooper", "Hunter", "Keller", "Lambert", "Marsh", "Mercer", "Miller", "Norris",
        "Palmer", "Parker", "Porter", "Potter", "Quincy", "Ramsey", "Sawyer", "Shepherd", "Skinner", "Spencer",
        "Stewart", "Sutton", "Taylor", "Thatcher", "Tucker", "Turner", "Wagner", "Walker", "Warner", "Weaver",
    ),
)  # fmt: skip

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        place, attribute, answer: what is told.
        text: the sentence.
        answer_start: characters of the sentence before the answer.
    """

    place: str
    attribute: Attribute
    answer: str
    text: str
    answer_start: int


@cache
def names_of(words: tuple[tuple[str, ...], tuple[str, ...]], split: str) -> list[str]:
    """Every name of a split. No first word stands in two splits: the names are all new there."""
    dealt = ["dev" if i % 10 == 0 else "test" if i % 10 in (3, 6) else "train"
             for i in range(len(words[0]))]  # fmt: skip
    first = [word for word, owner in zip(words[0], dealt, strict=True) if owner == split]
    return [f"{one} {two}" for one in first for two in words[1]]


def draw_facts(split: str, number: int, passage: str, generator: np.random.Generator) -> list[Fact]:
    """A fact, and others that are like it: about the same place, of the same kind, or neither.

    Places and attributes are paired so that the first has a fact about its place and one of its
    kind beside it as soon as there are three.

    Args:
        split: whose names are used.
        number: of facts, the first of which is asked about.
        passage: in which no name and no answer may stand already.
        generator: of the draw.
    """
    side = math.isqrt(number - 1) + 1
    pairs = sorted(product(range(side), repeat=2), key=lambda pair: (max(pair), sum(pair)))
    places = _draw(names_of(PLACE_WORDS, split), side, passage, generator)
    persons = _draw(names_of(PERSON_WORDS, split), number, passage, generator)
    kinds = [(attribute, _draw(attribute.answers or persons, side, passage, generator))
             for attribute in ATTRIBUTES]  # fmt: skip
    kinds = [kinds[i] for i in generator.permutation(len(kinds)) if len(kinds[i][1]) == side]
    facts = []
    for place, kind in pairs[:number]:
        attribute, answers = kinds[kind]
        answer = persons.pop() if attribute.answers is None else answers.pop()
        facts.append(_tell(places[place], attribute, answer, generator))
    return facts


def ask(fact: Fact, generator: np.random.Generator) -> str:
    """A question that the fact answers."""
    questions = fact.attribute.questions
    return questions[generator.integers(len(questions))].format(place=fact.place)


def _tell(place: str, attribute: Attribute, answer: str, generator: np.random.Generator) -> Fact:
    template = attribute.facts[generator.integers(len(attribute.facts))].replace("{place}", place)
    return Fact(
        place, attribute, answer, template.format(answer=answer), template.index("{answer}")
    )


def _draw(
    pool: Sequence[str], number: int, passage: str, generator: np.random.Generator
) -> list[str]:
    """So many different ones that do not stand in the passage, or as many as there are."""
    drawn: list[str] = []
    order: list[int] = generator.permutation(len(pool)).tolist()
    for place in order:
        if len(drawn) < number and not re.search(rf"\b{pool[place]}\b", passage, re.IGNORECASE):
            drawn.append(pool[place])
    return drawn
