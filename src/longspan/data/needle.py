"""Needles in real addresses: questions about facts that were set at a controlled depth.

A document is a passage of a State of the Union address with a few facts about made-up places
between its sentences. One of them is asked about, in other words; the others are about the same
place or of the same kind, and stand at depths of the same grid. Lengths and depths come from a grid,
of which every cell gets the same number of questions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longspan.config import NeedleConfig
from longspan.data.needle_facts import SPLITS, Fact, ask, draw_facts
from longspan.errors import UserError

WORD = re.compile(r"\w+|[^\w\s]")
# of a WordPiece tokenizer: 1.05 a word or mark of these addresses, and 1.08 of nearly all passages
TOKENS_PER_WORD = 1.08
# the longest ones; the special tokens are counted with the question
FACT_TOKENS, QUESTION_TOKENS = 20, 17
# up to a full stop, not that of an initial or a title, or the end of the line
SENTENCE = re.compile(
    r""".+?(?:(?<!\b[A-Z])(?<!\b(?:Mr|Dr|St))(?<!\bMrs)[.!?]['"”’)]*(?=\s)|\n|\Z)\s*""", re.DOTALL
)
ID = re.compile(r"needle-(\d+)-(\d+)-\d+")


@dataclass(frozen=True)
class Address:
    """An address in sentences.

    Attributes:
        id: its name.
        sentences: with the white space behind them; together the whole text.
        tokens: about how many each has.
    """

    id: str
    sentences: list[str]
    tokens: np.ndarray

    @classmethod
    def of(cls, id: str, text: str) -> "Address":
        sentences = SENTENCE.findall(text)
        return cls(id, sentences, np.array([num_tokens(s) for s in sentences]))


def num_tokens(text: str) -> float:
    """About how many tokens a text has."""
    return TOKENS_PER_WORD * len(WORD.findall(text))


def cell_of(id: str) -> tuple[int, int] | None:
    """Length in tokens and depth in per cent of a needle, by the name of its question."""
    match = ID.fullmatch(id)
    return None if match is None else (int(match[1]), int(match[2]))


def make_needles(
    texts: Mapping[str, Sequence[tuple[str, str]]], config: NeedleConfig
) -> dict[str, list[dict[str, Any]]]:
    """Questions of all splits, a function of the addresses and the config alone.

    Args:
        texts: split to (id, text) of its addresses.
        config: how many questions, of which lengths and depths.

    Returns:
        split to rows of `id` (`needle-<length>-<depth>-<number>`), `question`, `text`, `answers`
        as SQuAD has them, and the `address` of the passage.

    Raises:
        UserError: a length for which no address is long enough, or too short for the facts.
    """
    addresses = {split: [Address.of(*address) for address in rows] for split, rows in texts.items()}
    return {
        split: [
            _needle(addresses[split], split, length, number, config)
            for length, total in zip(config.lengths, getattr(config, split), strict=True)
            for number in range(total)
        ]
        for split in SPLITS
    }


def _needle(
    addresses: list[Address], split: str, length: int, number: int, config: NeedleConfig
) -> dict[str, Any]:
    generator = np.random.default_rng([config.seed, SPLITS.index(split), length, number])
    depth = config.depths[number % len(config.depths)]
    long_enough = [a for a in addresses if a.tokens.sum() >= length]
    if not long_enough:
        raise UserError(
            f"data.needle.lengths: no address of the {split} split has {length} tokens; lower it"
        )
    address = long_enough[generator.integers(len(long_enough))]
    room = length - QUESTION_TOKENS - config.facts * FACT_TOKENS
    passage = _passage(address, room, generator)
    if not passage:
        raise UserError(
            f"data.needle.lengths: {length} tokens are too few for {config.facts} facts in an "
            "address; raise it, or lower data.needle.facts"
        )
    facts = draw_facts(split, config.facts, "".join(passage), generator)
    others = generator.choice(config.depths, size=len(facts) - 1).tolist()
    text, start = _insert(passage, facts, [depth, *others], generator)
    return {
        "id": f"needle-{length}-{depth}-{number}",
        "question": ask(facts[0], generator),
        "text": text,
        "answers": {"text": [facts[0].answer], "answer_start": [start]},
        "address": address.id,
    }


def _passage(address: Address, room: float, generator: np.random.Generator) -> list[str]:
    """Consecutive whole sentences of at most `room` tokens, and of nearly as many."""
    ends = address.tokens.cumsum()
    starts = ends - address.tokens
    last_start = np.searchsorted(starts, ends[-1] - room, side="right")  # room behind it is filled
    stops = np.searchsorted(ends, starts[: max(1, last_start)] + room, side="right")
    fitting = (stops > np.arange(len(stops))).nonzero()[0]
    if not len(fitting):
        return []
    # sentences can be long: of a few places, the one that fills the room best
    tried = fitting[generator.integers(len(fitting), size=8)]
    first = tried[(ends[stops[tried] - 1] - starts[tried]).argmax()]
    return address.sentences[first : stops[first]]


def _insert(
    passage: list[str], facts: list[Fact], depths: list[int], generator: np.random.Generator
) -> tuple[str, int]:
    """The passage with the facts between its sentences, and where the first one's answer starts.

    Each fact stands at the sentence border that is nearest to its depth. All depths come from the
    same few: were the others' drawn from anywhere, the place alone would tell which fact is asked
    about, and a model that never sees the question would answer most of them.
    """
    tokens = np.cumsum([0.0, *(num_tokens(sentence) for sentence in passage)])
    places = [int(np.abs(tokens - depth / 100 * tokens[-1]).argmin()) for depth in depths]
    # in front of sentence i; among those at the same place the order is drawn
    order = sorted(
        zip(places, generator.permutation(len(facts)).tolist(), range(len(facts)), strict=True)
    )
    pieces: list[str] = []
    start = 0
    for i in range(len(passage) + 1):
        for place, _, which in order:
            if place != i:
                continue
            if pieces and not pieces[-1][-1].isspace():
                pieces.append(" ")
            if which == 0:
                start = sum(map(len, pieces)) + facts[0].answer_start
            pieces.append(facts[which].text + " ")
        pieces += passage[i : i + 1]
    return "".join(pieces), start
