"""Multi-hop question answering: an answer, its type, and the sentences that it rests on.

As Longformer reads HotpotQA (Beltagy et al. 2020, section 6 and appendix; Groeneveld et al. 2020):
question and paragraphs are one sequence, the question's tokens and one token of every title and
sentence are global, and all that is asked is scored at once. Where that recipe adds tokens to the
vocabulary to mark titles and sentences, their own first tokens serve here.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import ModelConfig, MultiHopConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks import qa_ledger
from longspan.tasks.hotpot_metrics import hotpot
from longspan.tasks.multihop_decoding import (
    PARAGRAPH,
    SENTENCE,
    TYPE,
    Prediction,
    SlicePrediction,
    merge,
    slice_prediction,
)
from longspan.tasks.multihop_rows import (
    Gold,
    Paragraph,
    Passage,
    facts_without_sentence,
    lay_out,
    read_gold,
    read_paragraphs,
)
from longspan.tasks.qa import UNKNOWN, QuestionAnswering
from longspan.tasks.qa_head import by_rows
from longspan.tasks.qa_loss import document_of

SPAN_LABEL, SENTENCE_LABEL, PARAGRAPH_LABEL, TYPE_LABEL = range(4)  # columns of the labels
NOT_SCORED = -1  # label of a token that is no title, no sentence's first, no [CLS]

log = logging.getLogger(__name__)


class MultiHopHead(nn.Module):
    """Seven scores a token, each read where it has a meaning.

    Start and end of an answer (one projection); whether a sentence is a supporting fact, whether a
    paragraph holds one, and the three types of answer (dense, GELU, projection).
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        size = model.hidden_size
        self.spans = nn.Linear(size, 2)
        self.dense = nn.Linear(size, size)
        self.structure = nn.Linear(size, 5)
        for module in (self.spans, self.dense, self.structure):
            nn.init.normal_(module.weight, std=model.initializer_range)
            nn.init.zeros_(module.bias)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (T, C) to logits (T, 7)."""
        structure = by_rows(lambda rows: self.structure(F.gelu(self.dense(rows))), hidden)
        return torch.cat([self.spans(hidden), structure], dim=1)


class MultiHop:
    """All that makes the task.

    Args:
        config: weights of the losses, decoding.
    """

    def __init__(self, config: MultiHopConfig) -> None:
        self.config = config
        self.spans = QuestionAnswering(config.spans)  # finds answers in the text

    @property
    def labels(self) -> list[str]:
        """None: an answer is a span, yes or no."""
        return []

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that says which checkpoint is best, and in which direction."""
        return "joint_f1", "max"

    @property
    def fingerprint(self) -> Any:
        """Of all that features depend on."""
        return ["multihop", self.config.structure_globals, self.spans.fingerprint]

    def weight(self, length: int) -> float:
        """Slices weigh the same."""
        return 1.0

    def encode(
        self, documents: Sequence[RawDocument], encoder: DocumentEncoder
    ) -> list[list[Feature]]:
        """The slices of every question's paragraphs, with the question before each.

        Args:
            documents: with `paragraphs` and maybe `facts` among their cells; their text is not
                read.
            encoder: text to tokens.
        """
        read = [self._read(document) for document in documents]
        asked = [
            replace(document, text=passage.text, label=_answers_cell(gold))
            for document, (_, passage, gold) in zip(documents, read, strict=True)
        ]
        encoded = self.spans.encode(asked, encoder)
        return [
            [self._feature(piece, *row) for piece in slices]
            for slices, row in zip(encoded, read, strict=True)
        ]

    def _read(self, document: RawDocument) -> tuple[list[Paragraph], Passage, Gold | None]:
        where = document.where or f"question {document.id}"
        paragraphs = read_paragraphs(document.cells.get("paragraphs"), where)
        passage = lay_out(paragraphs)
        if document.where is None:
            return paragraphs, passage, None
        facts = document.cells.get("facts")
        return paragraphs, passage, read_gold(document.label, facts, paragraphs, passage, where)

    def _feature(
        self, piece: Feature, paragraphs: list[Paragraph], passage: Passage, gold: Gold | None
    ) -> Feature:
        """A slice with the tokens of titles and sentences, and what is right about them."""
        assert piece.offsets is not None, "encode_slices gives offsets"
        titles, sentences = passage.places(piece.offsets, piece.details["reach"])
        positions = piece.global_positions
        if self.config.structure_globals:
            tokens = [place[0] for place in (*titles, *sentences)]
            positions = np.union1d(positions, np.array(tokens, np.int32)).astype(np.int32)
        names = [paragraph.title for paragraph in paragraphs]
        known = set() if gold is None else set(gold.facts)
        details = piece.details | {
            "titles": titles,
            "sentences": sentences,
            "titles_of_paragraphs": names,
            "gold": None if gold is None else gold.answer,
            "gold_facts": None if gold is None else [list(fact) for fact in gold.facts],
        }
        piece = replace(piece, global_positions=positions, details=details)
        if gold is None:
            return piece
        supporting = {title for title, _ in known}
        label = {
            "spans": piece.label if gold.type == 0 else UNKNOWN,
            "type": gold.type,
            "titles": [int(names[p] in supporting) for _, p in titles],
            "sentences": [int((names[p], number) in known) for _, p, number in sentences],
        }
        counts = piece.counts
        if counts is not None:
            closed = {"answers_yes_or_no": int(gold.type > 0)}
            lost = {"facts_without_sentence": facts_without_sentence(gold.facts, paragraphs)}
            counts = counts | closed | lost
        return replace(piece, label=label, counts=counts)

    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature:
        """Gold to (L, 4) labels of the tokens: as of question answering, and 0 or 1 for sentences
        and paragraphs, 0 to 2 for the type of the answer, `NOT_SCORED` elsewhere."""
        gold = feature.label
        if gold is None:
            return feature
        label = np.full((len(feature.input_ids), 4), NOT_SCORED, np.int64)
        spans = self.spans.prepare(replace(feature, label=gold["spans"]), key)
        label[:, SPAN_LABEL] = spans.label
        for column, name in ((SENTENCE_LABEL, "sentences"), (PARAGRAPH_LABEL, "titles")):
            # two that share their first token, as they may in scripts without spaces: either counts
            for place, is_right in zip(feature.details[name], gold[name], strict=True):
                label[place[0], column] = max(label[place[0], column], is_right)
        label[0, TYPE_LABEL] = gold["type"]
        return replace(feature, label=label)

    def head(self, model: ModelConfig, token_embedding: nn.Embedding) -> nn.Module:
        return MultiHopHead(model)

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Weighted sum of the four losses of each slice, (D,), from logits (T, 7).

        That of question answering, 0 for yes and no; cross-entropy of the type; means of the
        binary cross-entropy over the slice's sentences, and over its titles.
        """
        assert batch.labels is not None, "`prepare` gives labels"
        logits, labels, weights = logits.float(), batch.labels, self.config
        document, num = document_of(batch), batch.num_documents
        spans = replace(batch, labels=labels[:, SPAN_LABEL])
        total = weights.span_weight * self.spans.loss(logits[:, :2], spans)
        first = labels[:, TYPE_LABEL] >= 0
        types = F.cross_entropy(logits[first, TYPE:], labels[first, TYPE_LABEL], reduction="none")
        total = total + weights.type_weight * _means(types, document[first], num)
        for column, label, weight in (
            (SENTENCE, SENTENCE_LABEL, weights.sentence_weight),
            (PARAGRAPH, PARAGRAPH_LABEL, weights.paragraph_weight),
        ):
            scored = labels[:, label] >= 0
            nats = F.binary_cross_entropy_with_logits(
                logits[scored, column], labels[scored, label].float(), reduction="none"
            )
            total = total + weight * _means(nats, document[scored], num)
        return total

    def decode(self, logits: Tensor, batch: PackedBatch) -> list[SlicePrediction]:
        """What each slice says."""
        losses: list[Any] = [None] * batch.num_documents
        if batch.labels is not None:
            losses = self.loss(logits, batch).tolist()
        spans = self.spans.decode(logits[:, :2], replace(batch, labels=None))
        scores, bounds = logits.float().cpu().numpy(), batch.cu_seqlens.tolist()
        return [
            slice_prediction(feature, scores[bounds[i] : bounds[i + 1]], spans[i], losses[i])
            for i, feature in enumerate(batch.features)
        ]

    def merge(self, predictions: Sequence[SlicePrediction]) -> list[Prediction]:
        """One a question."""
        spans = self.spans.merge([prediction.spans for prediction in predictions])
        return merge(predictions, spans, self.config.num_paragraphs, self.config.fact_threshold)

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Loss, and HotpotQA's own metrics, over questions whose gold is known."""
        known = [p for p in predictions if p.gold is not None]
        if not known:
            return {}
        measured = hotpot(
            [p.predicted for p in known],
            [p.gold or "" for p in known],
            [{(fact.title, fact.sentence) for fact in p.facts} for p in known],
            [{(title, number) for title, number in p.gold_facts or []} for p in known],
        )
        return {"loss": sum(p.loss or 0.0 for p in known) / len(known)} | measured


def report_losses(split: str, counts: Mapping[str, float]) -> dict[str, float]:
    """Say what of the questions can no longer be answered or supported.

    Args:
        split: its name.
        counts: of its features, summed.

    Returns:
        `highest_exact_match` of answers, which no model can exceed, where any are known.

    Raises:
        UserError: a training split in which no answer is yes, no or in its paragraphs.
    """
    questions, lost = counts.get("questions", 0), counts.get("answerable_lost", 0)
    if split == "train" and questions == lost:
        raise UserError(
            f"data: none of the {questions:.0f} answers of the train split occurs in what the model "
            "reads of its paragraphs; check data.answers_column, data.text_column, data.max_length"
        )
    for name, what in COUNTED.items():
        if counts.get(name):
            log.warning("%s: %d %s", split, counts[name], what)
    if not questions:
        return {}
    highest = 1 - counts["unreachable"] / questions
    log.info(
        "%s: %d questions, %d with yes or no; %d lost their answer: no exact match above %.1f%%",
        split, questions, counts.get("answers_yes_or_no", 0), lost, 100 * highest,
    )  # fmt: skip
    return {"highest_exact_match": highest}


COUNTED = qa_ledger.COUNTED | {
    "facts_without_sentence": "supporting facts name no sentence of their paragraphs",
}


def _answers_cell(gold: Gold | None) -> Any:
    """Gold as question answering reads it; yes and no stand nowhere."""
    if gold is None or gold.type:
        return None
    answer = gold.answer.strip()
    if not gold.starts:
        return [answer]
    return {"text": [answer] * len(gold.starts), "answer_start": list(gold.starts)}


def _means(nats: Tensor, document: Tensor, num: int) -> Tensor:
    """Mean of each document's values, (num,) of (N,); 0 where it has none."""
    total = nats.new_zeros(num).index_add(0, document, nats)
    count = nats.new_zeros(num).index_add(0, document, torch.ones_like(nats))
    return total / count.clamp(min=1)
