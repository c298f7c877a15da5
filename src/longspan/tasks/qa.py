"""Extractive question answering: slices of documents, the head that scores spans, its loss."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import ModelConfig, QAConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks.qa_answers import GoldAnswers, gold_answers, token_spans
from longspan.tasks.qa_decoding import (
    Prediction,
    SlicePrediction,
    candidates,
    document_of,
    merge,
    segment_logsumexp,
    slice_prediction,
)
from longspan.tasks.qa_scoring import official_metrics

STARTS, ENDS = 1, 2  # bits of a token's label
UNKNOWN = "unknown"  # label of a slice of a question whose answers do not occur in its document

log = logging.getLogger(__name__)

ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


class SpanHead(nn.Module):
    """Two scores a token: that an answer starts there, and that it ends there.

    One projection, as of BERT and its kin; ModernBERT's has dense, activation and norm before it.
    """

    def __init__(self, model: ModelConfig, config: QAConfig) -> None:
        super().__init__()
        size = model.hidden_size
        layers: dict[str, nn.Module] = {}
        self.activation = None
        if config.head_activation is not None:
            self.activation = ACTIVATIONS[config.head_activation]
            layers["dense"] = nn.Linear(size, size, bias=config.head_bias is not False)
            if config.head_norm:
                layers["norm"] = nn.LayerNorm(size, model.norm_eps, bias=model.norm_bias)
        self.dense = layers.get("dense", nn.Identity())
        self.norm = layers.get("norm", nn.Identity())
        self.out = nn.Linear(size, 2)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (T, C) to logits (T, 2) of start and end."""
        if self.activation is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        return self.out(hidden)


def span_head(model: ModelConfig, config: QAConfig) -> SpanHead:
    """A fresh head."""
    head = SpanHead(model, config)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=model.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


class QuestionAnswering:
    """All that makes the task.

    Args:
        config: loss, slices, decoding.
    """

    def __init__(self, config: QAConfig) -> None:
        self.config = config

    @property
    def labels(self) -> list[str]:
        """None: an answer is a span."""
        return []

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that says which checkpoint is best, and in which direction."""
        return ("aupr" if self.config.scoring == "cuad" else "f1"), "max"

    @property
    def fingerprint(self) -> Any:
        """Of all that features depend on."""
        return ["qa", self.config.long_documents, self.config.max_question_length]

    def weight(self, length: int) -> float:
        """Slices weigh the same."""
        return 1.0

    def encode(
        self, documents: Sequence[RawDocument], encoder: DocumentEncoder
    ) -> list[list[Feature]]:
        """The slices of every document, with the question (`RawDocument.pair`) before each."""
        for document in documents:
            for what, text in (("question", document.pair), ("document", document.text)):
                if not (text or "").strip():
                    raise UserError(f"question {document.id}: its {what} is empty; drop the row")
        encoded = encoder.encode_slices(
            [d.id for d in documents],
            [d.pair or "" for d in documents],
            [d.text for d in documents],
            [d.global_cell for d in documents],
            max_question_length=self.config.max_question_length,
            truncate=self.config.long_documents == "truncate",
        )
        return [self._labelled(*row) for row in zip(documents, encoded, strict=True)]

    def _labelled(self, document: RawDocument, slices: list[Feature]) -> list[Feature]:
        """Slices with gold spans, with what decoding needs, and the count of what was lost."""
        gold = gold_answers(document.label, document.text, document.where or "")
        found = [token_spans(gold.spans, _offsets(p), p.details["reach"]) for p in slices]
        length, depth = _tokens_once(slices), _depth(gold, document)
        labelled = []
        for piece, (spans, _) in zip(slices, found, strict=True):
            label: Any = None
            if document.where is not None:
                label = UNKNOWN if gold.texts and not gold.spans else spans
            answers = gold.texts if document.where is not None else None
            details = {"id": document.id, "question": document.pair, "answers": answers,
                       "length": length, "depth": depth, **_text_of(document.text, piece)}  # fmt: skip
            counts = piece.counts
            if counts is not None and document.where is not None:
                counts = counts | _counts(gold, found)
            labelled.append(replace(piece, label=label, details=details, counts=counts))
        return labelled

    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature:
        """Gold spans to one label a token: whether one starts (1), ends (2) there, or both (3)."""
        if feature.label is None:
            return feature
        label = np.zeros(len(feature.input_ids), np.int64)
        spans = [] if feature.label == UNKNOWN else feature.label or [[0, 0]]
        for first, last in spans if self.config.loss == "or" else spans[:1]:
            label[first] |= STARTS
            label[last] |= ENDS
        return replace(feature, label=label)

    def head(self, model: ModelConfig, token_embedding: nn.Embedding) -> nn.Module:
        return span_head(model, self.config)

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Mean of start and end loss of each slice, (D,), from logits (T, 2).

        Each is log-sum-exp over the document's tokens and no answer, minus that over the gold
        ones (Clark & Gardner 2018: summed objective, no-answer option, which is token 0 here); 0
        where gold is unknown.
        """
        assert batch.labels is not None, "`prepare` gives labels"
        gold = torch.stack([batch.labels & STARTS, batch.labels & ENDS], dim=1) > 0  # (T, 2)
        logits, document, num = logits.float(), document_of(batch), batch.num_documents
        allowed = candidates(batch)[:, None].expand_as(logits)
        nats = segment_logsumexp(logits, allowed, document, num)
        nats = nats - segment_logsumexp(logits, gold, document, num)
        known = gold.new_zeros(num, 2, dtype=torch.long).index_add(0, document, gold.long()) > 0
        return torch.where(known, nats, 0.0).mean(dim=1)

    def decode(self, logits: Tensor, batch: PackedBatch) -> list[SlicePrediction]:
        """The best answer of each slice."""
        losses: list[Any] = [None] * batch.num_documents
        if batch.labels is not None:
            losses = self.loss(logits, batch).tolist()
        logits, document = logits.float(), document_of(batch)
        allowed = candidates(batch)[:, None].expand_as(logits)
        scores = (
            logits - segment_logsumexp(logits, allowed, document, batch.num_documents)[document]
        )
        pieces = scores.cpu().numpy()  # (T, 2)
        bounds = batch.cu_seqlens.tolist()
        return [
            slice_prediction(
                feature,
                pieces[bounds[i] : bounds[i + 1]],
                losses[i],
                self.config.top_k,
                self.config.max_answer_length,
            )
            for i, feature in enumerate(batch.features)
        ]

    def merge(self, predictions: Sequence[SlicePrediction]) -> list[Prediction]:
        """One a question."""
        return merge(predictions, self.config.null_threshold)

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Loss and the chosen scorer's figures over questions whose gold answers are known."""
        known = [p for p in predictions if p.gold is not None]
        if not known:
            return {}
        loss = {"loss": sum(p.loss or 0.0 for p in known) / len(known)}
        return loss | official_metrics(known, self.config.scoring)


def report_losses(split: str, counts: Mapping[str, float]) -> dict[str, float]:
    """The truncation ledger: which questions can no longer be answered, and what that caps.

    Args:
        split: its name.
        counts: of its features, summed.

    Returns:
        `highest_exact_match`, which no model can exceed, where there are questions with answers.

    Raises:
        UserError: a training split in which no question has an answer.
    """
    answerable, lost = counts.get("answerable", 0), counts.get("answerable_lost", 0)
    if split == "train" and answerable == lost:
        raise UserError(
            f"data: no question of the train split has an answer in its document ({lost:.0f} had "
            "one that was cut away or does not occur); check data.answers_column and "
            "data.text_column"
        )
    for name, what in COUNTED.items():
        if counts.get(name):
            log.warning("%s: %d %s", split, counts[name], what)
    if not answerable:
        return {}
    highest = 1 - lost / counts["questions"]
    log.info(
        "%s: %d of %d questions have an answer; %d of those lost it: no exact match above %.1f%%",
        split, answerable, counts["questions"], lost, 100 * highest,
    )  # fmt: skip
    return {"highest_exact_match": highest}


COUNTED = {
    "answers_repaired": "answers repaired: answer_start missed them, the nearest occurrence counts",
    "answers_dropped": "answers dropped: they do not occur in their document",
    "answers_at_a_border": "times that the border of a slice cuts an answer; raise data.stride",
    "questions_cut": "questions cut to task.max_question_length tokens",
}


def _counts(gold: GoldAnswers, found: list[tuple[list[list[int]], int]]) -> dict[str, int]:
    counts = {
        "questions": 1,
        "answerable": int(bool(gold.texts)),
        "answerable_lost": int(bool(gold.texts) and not any(spans for spans, _ in found)),
        "answers_repaired": gold.repaired,
        "answers_dropped": gold.dropped,
        "answers_at_a_border": sum(cut for _, cut in found),
    }
    return counts


def _depth(gold: GoldAnswers, document: RawDocument) -> float | None:
    """Where the first gold answer starts, as a share of the document's characters."""
    return min(start for start, _ in gold.spans) / len(document.text) if gold.spans else None


def _offsets(piece: Feature) -> np.ndarray:
    assert piece.offsets is not None, "encode_slices gives offsets"
    return piece.offsets


def _text_of(document: str, piece: Feature) -> dict[str, Any]:
    """The part of the document that a slice's tokens cover, and where it starts."""
    offsets = _offsets(piece)
    inside = offsets[offsets[:, 1] > offsets[:, 0]]
    if not len(inside):
        return {"text": "", "text_start": 0}
    start, end = int(inside[:, 0].min()), int(inside[:, 1].max())
    return {"text": document[start:end], "text_start": start}


def _tokens_once(slices: list[Feature]) -> int:
    """Tokens of question and document together, those that slices share counted once."""
    outside = int((_offsets(slices[0])[:, 1] == 0).sum())
    return outside + len(np.unique(np.concatenate([_offsets(p) for p in slices]), axis=0)) - 1
