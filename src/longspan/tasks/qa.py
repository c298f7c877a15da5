"""Extractive question answering: slices of documents, the head that scores spans, its loss."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import ModelConfig, QAConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks.qa_answers import GoldAnswers, gold_answers, token_spans
from longspan.tasks.qa_calibration import calibrate, fixed
from longspan.tasks.qa_decoding import Prediction, SlicePrediction, decode_slices
from longspan.tasks.qa_head import span_head
from longspan.tasks.qa_ledger import ledger_counts
from longspan.tasks.qa_loss import ENDS, STARTS, span_loss
from longspan.tasks.qa_merging import decide, merge_slices
from longspan.tasks.qa_scoring import official_metrics

UNKNOWN = "unknown"  # label of a slice of a question whose answers do not occur in its document


class QuestionAnswering:
    """All that makes the task.

    Args:
        config: loss, slices, decoding.

    Attributes:
        decision: when a question is not answered, and how scores become probabilities.
    """

    def __init__(self, config: QAConfig) -> None:
        self.config = config
        self.decision = fixed(config)

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
        own = self.config
        return ["qa", own.long_documents, own.max_question_length, own.max_answer_length]

    def weight(self, length: int) -> float:
        """Slices weigh the same; those that share a softmax, as one."""
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
        for number, (piece, (spans, _)) in enumerate(zip(slices, found, strict=True)):
            label: Any = None
            if document.where is not None:
                label = UNKNOWN if gold.texts and not gold.spans else spans
            answers = gold.texts if document.where is not None else None
            details = piece.details | {
                "id": document.id, "slice": number, "question": document.pair,
                "answers": answers, "length": length, "depth": depth,
                **_text_of(document.text, piece),
            }  # fmt: skip
            labelled.append(replace(piece, label=label, details=details))
        if document.where is not None:
            ledger = ledger_counts(gold, found, labelled, self.config.max_answer_length)
            labelled[0] = replace(labelled[0], counts=(labelled[0].counts or {}) | ledger)
        return labelled

    def draw(self, labels: Sequence[Any], key: tuple[int, ...]) -> list[int]:
        """Slices that an epoch of training reads: all with an answer, and `negative_slices` of
        those without for each; a slice that nothing is known of is not among them.

        Args:
            labels: of all slices.
            key: what the choice may depend on: it is drawn anew for every epoch.

        Returns:
            their places, in order.
        """
        known = [place for place, label in enumerate(labels) if label != UNKNOWN]
        positive = [place for place in known if labels[place]]
        negative = [place for place in known if not labels[place]]
        assert self.config.negative_slices is not None, "nobody draws from all there are"
        wanted = min(len(negative), round(self.config.negative_slices * len(positive)))
        drawn = np.random.default_rng(key).choice(negative, wanted, replace=False)
        return sorted([*positive, *drawn.tolist()])

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
        """What each slice adds to the loss, (D,); see `span_loss`."""
        return span_loss(logits, batch, self.config)

    def decode(self, logits: Tensor, batch: PackedBatch) -> list[SlicePrediction]:
        """The best answers of each slice."""
        losses: list[Any] = [None] * batch.num_documents
        if batch.labels is not None:
            losses = self.loss(logits, batch).tolist()
        return decode_slices(logits, batch, losses, self.config)

    @property
    def is_calibrated_on_dev(self) -> bool:
        """Whether the config leaves something of `decision` to the dev split."""
        return "auto" in (self.config.null_threshold, self.config.temperature)

    def calibrate(self, predictions: Sequence[SlicePrediction]) -> dict[str, Any]:
        """Fit `decision`, as far as the config leaves it open, to what was said about dev.

        Returns:
            what was fitted, and how well it does, for the report; nothing where there is nothing
            to fit or no question with known answers to fit it to.
        """
        if not self.is_calibrated_on_dev:
            return {}
        fitted = calibrate(merge_slices(predictions, self.config.normalisation), self.config)
        if fitted is None:
            return {}
        self.decision = fitted.decision
        return asdict(fitted.decision) | {
            "questions": fitted.questions,
            "f1": fitted.f1,
            "f1_uncalibrated": fitted.f1_uncalibrated,
        }

    def calibrated_config(self) -> QAConfig:
        """The config with the decision that `calibrate` found, for a model that is saved."""
        threshold, temperature = self.decision.null_threshold, self.decision.temperature
        return replace(self.config, null_threshold=threshold, temperature=temperature)

    def merge(self, predictions: Sequence[SlicePrediction]) -> list[Prediction]:
        """One a question."""
        merged = merge_slices(predictions, self.config.normalisation)
        return [decide(question, self.decision) for question in merged]

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Loss and the chosen scorer's figures over questions whose gold answers are known."""
        known = [p for p in predictions if p.gold is not None]
        if not known:
            return {}
        loss = {"loss": sum(p.loss or 0.0 for p in known) / len(known)}
        return loss | official_metrics(known, self.config.scoring)


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
