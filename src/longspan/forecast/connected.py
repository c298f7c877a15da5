"""Which documents, and which questions and answers, a schedule of windows connects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longspan.batch import Feature
from longspan.compose.cells import Cell
from longspan.config import Config, ModelConfig, QAConfig, Window
from longspan.cost.documents import Documents
from longspan.errors import UserError
from longspan.forecast.sample import Sample, read_samples
from longspan.reach.gradient import influencing_by_gradient
from longspan.reach.rule import connects, influencing, summed_windows

LONGEST_EXAMPLE = 4096  # tokens of the document that the network is asked about


@dataclass(frozen=True)
class Example:
    """One document, as the gradient sees it.

    Attributes:
        positions: its global tokens.
        token: that was asked about, near the middle.
        influencing: (layers + 1, N) bool, of `influencing_by_gradient`.
    """

    positions: np.ndarray
    token: int
    influencing: np.ndarray

    @property
    def num_tokens(self) -> int:
        return self.influencing.shape[1]

    @property
    def num_reached(self) -> int:
        return int(self.influencing[0].sum())


@dataclass(frozen=True)
class Connected:
    """How far one cell reaches.

    Attributes:
        name: of what varies in the sweep.
        model: of the cell.
        documents: that were looked at.
        every_pair: share of them in which every token influences every other.
        first_to_last: share in which the first token influences the last.
        answers: questions that have an answer; None for other tasks, and without data.
        answers_connected: share of those in which every token of the question influences every
            token of an answer; what truncation took away is not connected.
        example: the middle of a document.
    """

    name: str
    model: ModelConfig
    documents: Documents
    every_pair: float
    first_to_last: float
    answers: int | None
    answers_connected: float | None
    example: Example

    @property
    def summed_windows(self) -> Window:
        return summed_windows(self.model.windows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "cell": self.name,
            "windows": list(self.model.windows),
            "summed_windows": self.summed_windows,
            "documents_read": len(self.documents) if self.documents.are_read else 0,
            "mean_global_tokens": self.documents.mean_globals,
            "every_pair_connected": self.every_pair,
            "first_to_last_connected": self.first_to_last,
            "questions_with_answers": self.answers,
            "question_to_answer_connected": self.answers_connected,
            "example": {
                "tokens": self.example.num_tokens,
                "token": self.example.token,
                "reached": self.example.num_reached,
            },
        }


def measure_reach(cells: Sequence[Cell], count: int | None = None) -> list[Connected]:
    """How far each cell reaches, over the documents of its data.

    Args:
        cells: of `compose_cells`.
        count: documents to read (`read_sample`).
    """
    samples = read_samples([cell.config for cell in cells], count)
    return [
        _connected(cell.name, cell.config, sample)
        for cell, sample in zip(cells, samples, strict=True)
    ]


def _connected(name: str, config: Config, sample: Sample) -> Connected:
    if not config.model.pattern.is_plain:
        raise UserError(
            f"longspan reach knows windows and global tokens, not {config.model.pattern.said()}; "
            "docs/patterns.md says how far each pattern reaches"
        )
    windows, documents = config.model.windows, sample.documents
    rows = list(zip(documents.lengths, documents.positions, strict=True))
    whole = [connects(windows, p, np.arange(n), np.arange(n)) for n, p in rows]
    ends = [connects(windows, p, np.array([0]), np.array([n - 1])) for n, p in rows]
    answers = None
    if isinstance(config.task, QAConfig) and sample.features is not None:
        pieces = sample.features.read(range(len(sample.features)))
        answers = list(answers_connected(windows, pieces, sample.special_ids).values())
    return Connected(
        name=name,
        model=config.model,
        documents=documents,
        every_pair=float(np.mean(whole)),
        first_to_last=float(np.mean(ends)),
        answers=None if answers is None else len(answers),
        answers_connected=float(np.mean(answers)) if answers else None,
        example=_example(config.model, documents),
    )


def answers_connected(
    windows: Sequence[Window], pieces: Sequence[Feature], special_ids: Sequence[int]
) -> dict[str, bool]:
    """Whether a slice connects the question with an answer, by question that has an answer."""
    found: dict[str, bool] = {}
    for piece in pieces:
        if not piece.details["answers"]:
            continue
        question = question_tokens(piece, special_ids)
        spans = piece.label if isinstance(piece.label, list) else []  # a word: cut away everywhere
        here = any(
            connects(windows, piece.global_positions, question, np.arange(first, last + 1))
            for first, last in spans
        )
        name = piece.details["id"]
        found[name] = found.get(name, False) or here
    return found


def question_tokens(piece: Feature, special_ids: Sequence[int]) -> np.ndarray:
    """Places of the question in a slice: what stands before the text and is no special token."""
    assert piece.offsets is not None, "slices have offsets"
    in_text = piece.offsets[:, 1] > piece.offsets[:, 0]
    before = np.arange(int(in_text.argmax()))
    return before[~np.isin(piece.input_ids[before], special_ids)]


def _example(model: ModelConfig, documents: Documents) -> Example:
    """The document of median length, or its beginning, and the local token nearest its middle."""
    place = int(np.argsort(documents.lengths)[len(documents) // 2])
    length = min(documents.lengths[place], LONGEST_EXAMPLE)
    positions = documents.positions[place]
    positions = positions[positions < length]
    local = np.setdiff1d(np.arange(length), positions)
    middle = length // 2
    token = int(local[abs(local - middle).argmin()]) if len(local) else middle
    found = influencing_by_gradient(model, length, positions, token)
    by_rule = influencing(model.windows, length, positions, token)
    assert (found[0] == by_rule).all(), "gradient and rule disagree: one of them is wrong"
    return Example(positions, token, found)
