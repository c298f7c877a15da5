"""Choice among candidate answers: every candidate gets one score from a document read whole.

As Longformer reads WikiHop (Beltagy et al. 2020, section 6 and appendix): question and candidates
come before the document, all their tokens are global (`globals=question`), and where the document
is longer than the model, every slice repeats them and their scores are averaged over the slices.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import ChoiceConfig, ModelConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks.choice_decoding import Prediction, SlicePrediction, merge
from longspan.tasks.choice_rows import Asked, answer_index, ask, read_candidates
from longspan.tasks.head import FewRows
from longspan.tasks.qa_loss import question_of, segment_logsumexp

log = logging.getLogger(__name__)


class CandidateHead(FewRows):
    """One score a token; a candidate's is the mean over its tokens."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.out = nn.Linear(model.hidden_size, 1)
        nn.init.normal_(self.out.weight, std=model.initializer_range)
        nn.init.zeros_(self.out.bias)

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """(R,) the candidates' tokens."""
        return (candidate_of(batch) >= 0).nonzero().squeeze(1)

    def of_rows(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (R, C) to scores (N,) of all candidates of the batch, in its order."""
        candidate = candidate_of(batch)  # (T,)
        candidate = candidate[candidate >= 0]  # (R,)
        scores = self.out(hidden).squeeze(1).float()
        num = sum(num_candidates(feature) for feature in batch.features)
        total = scores.new_zeros(num).index_add(0, candidate, scores)
        count = scores.new_zeros(num).index_add(0, candidate, torch.ones_like(scores))
        return total / count


class Choice:
    """All that makes the task.

    Args:
        config: slices, lengths, how answers are numbered.
    """

    def __init__(self, config: ChoiceConfig) -> None:
        self.config = config

    @property
    def labels(self) -> list[str]:
        """None: every question has candidates of its own."""
        return []

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that says which checkpoint is best, and in which direction."""
        return "accuracy", "max"

    @property
    def fingerprint(self) -> Any:
        """Of all that features depend on."""
        return ["choice", asdict(self.config)]

    def weight(self, length: int) -> float:
        """Questions weigh the same, however many slices they have."""
        return 1.0

    def encode(
        self, documents: Sequence[RawDocument], encoder: DocumentEncoder
    ) -> list[list[Feature]]:
        """The slices of every document, with question and candidates before each."""
        asked = [self._ask(document, encoder) for document in documents]
        encoded = encoder.encode_slices(
            [d.id for d in documents],
            [a.text for a in asked],
            [d.text for d in documents],
            [d.global_cell for d in documents],
            max_question_length=encoder.max_length,  # question and candidates are cut already
            truncate=self.config.long_documents == "truncate",
        )
        rows = zip(documents, asked, encoded, strict=True)
        return [self._labelled(*row, encoder) for row in rows]

    def _ask(self, document: RawDocument, encoder: DocumentEncoder) -> Asked:
        for what, text in (("question", document.pair), ("document", document.text)):
            if not (text or "").strip():
                raise UserError(f"question {document.id}: its {what} is empty; drop the row")
        return ask(
            document.pair or "",
            read_candidates(document),
            encoder,
            self.config.max_question_length,
            self.config.max_candidate_length,
            document.where or f"question {document.id}",
        )

    def _labelled(
        self, document: RawDocument, asked: Asked, slices: list[Feature], encoder: DocumentEncoder
    ) -> list[Feature]:
        candidates = read_candidates(document)
        label = None
        if document.where is not None:
            label = answer_index(
                document.label, candidates, self.config.first_number, document.where
            )
        start = len(encoder.double.before)
        places = [[first + start, end + start] for first, end in asked.places]
        shared = encoder.stride * (len(slices) - 1)
        text_tokens = [int((_offsets(piece)[:, 1] > 0).sum()) for piece in slices]
        outside = len(slices[0].input_ids) - text_tokens[0]
        details = {"id": document.id, "question": document.pair, "candidates": candidates,
                   "places": places, "length": outside + sum(text_tokens) - shared}  # fmt: skip
        counts = {"questions_cut": int(asked.question_cut), "candidates_cut": asked.candidates_cut}
        labelled = [
            replace(piece, label=label, details=details | {"slice": number}, counts=None)
            for number, piece in enumerate(slices)
        ]
        return [replace(labelled[0], counts=counts), *labelled[1:]]

    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature:
        """Features are read as they are."""
        return feature

    def head(self, model: ModelConfig, token_embedding: nn.Embedding) -> nn.Module:
        return CandidateHead(model)

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """What each slice adds to the loss, (D,), from scores (N,) of all candidates.

        Cross-entropy over a question's candidates, whose scores are means over its slices; the
        slices share it evenly.
        """
        assert batch.labels is not None, "training documents have labels"
        question = question_of(batch)  # (D,)
        slices = question.bincount()  # (Q,)
        candidate, owner = candidates_of_questions(batch, question)
        scores = (
            logits.new_zeros(len(owner)).index_add(0, candidate, logits) / slices[owner]
        )  # (M,)
        everything = torch.ones_like(scores, dtype=torch.bool)[:, None]
        total = segment_logsumexp(scores[:, None], everything, owner, len(slices)).squeeze(1)
        start = owner.bincount().cumsum(0) - owner.bincount()  # (Q,) of each question's candidates
        gold = batch.labels.new_zeros(len(slices)).index_copy(0, question, batch.labels)  # (Q,)
        nats = total - scores[start + gold]  # (Q,)
        return (nats / slices)[question]

    def decode(self, logits: Tensor, batch: PackedBatch) -> list[SlicePrediction]:
        """The scores of each slice's candidates."""
        scores = logits.cpu().split([num_candidates(feature) for feature in batch.features])
        names = ("id", "question", "candidates", "length")
        return [
            SlicePrediction(
                id=feature.id,
                details={name: feature.details[name] for name in names},
                gold=feature.label,
                scores=tuple(own.tolist()),
                tokens_cut=feature.tokens_cut,
            )
            for feature, own in zip(batch.features, scores, strict=True)
        ]

    def merge(self, predictions: Sequence[SlicePrediction]) -> list[Prediction]:
        """One a question, in the order of their names."""
        return merge(predictions)

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Loss and accuracy over questions whose gold is known."""
        known = [p for p in predictions if p.gold is not None]
        if not known:
            return {}
        right = sum(p.predicted == p.gold for p in known)  # rows may say a candidate twice
        return {
            "loss": sum(p.loss or 0.0 for p in known) / len(known),
            "accuracy": right / len(known),
        }


def num_candidates(feature: Feature) -> int:
    return len(feature.details["places"])


def candidates_of_questions(batch: PackedBatch, question: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates of all slices as those of the questions that the slices share.

    Args:
        batch: D slices with N candidates together.
        question: (D,) which of Q questions each slice is of.

    Returns:
        candidate: (N,) which of the M candidates of all questions each one is.
        owner: (M,) which question each of those belongs to.
    """
    candidate: list[int] = []
    owner: list[int] = []
    start = 0
    for number, feature in zip(question.tolist(), batch.features, strict=True):
        if not owner or owner[-1] != number:
            start = len(owner)
            owner += [number] * num_candidates(feature)
        candidate += range(start, len(owner))
    device = question.device
    return torch.tensor(candidate, device=device), torch.tensor(owner, device=device)


def candidate_of(batch: PackedBatch) -> Tensor:
    """(T,) int64: which candidate of the batch each token belongs to, -1 where to none."""
    candidate = np.full(batch.num_tokens, -1, np.int64)
    number = 0
    for start, feature in zip(batch.cu_seqlens.tolist(), batch.features, strict=False):
        for first, end in feature.details["places"]:
            candidate[start + first : start + end] = number
            number += 1
    return torch.from_numpy(candidate).to(batch.input_ids.device)


def report_losses(split: str, counts: Mapping[str, float]) -> dict[str, float]:
    """Say what was cut of questions and candidates; {}: it caps nothing that is known."""
    for name, field in (
        ("questions", "max_question_length"),
        ("candidates", "max_candidate_length"),
    ):
        if counts.get(f"{name}_cut"):
            log.warning(
                "%s: %d %s cut to task.%s tokens", split, counts[f"{name}_cut"], name, field
            )
    return {}


def _offsets(piece: Feature) -> np.ndarray:
    assert piece.offsets is not None, "encode_slices gives offsets"
    return piece.offsets
