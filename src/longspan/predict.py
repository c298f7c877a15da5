"""A trained model on documents of any length: labels, numbers, or answers with their place.

    model = longspan.load("runs/default/…")
    model.predict("The text of a document …")
    model.predict("The text of a contract …", question="Which law governs it?")

No padding, no training data and no Lightning are involved.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch, pack
from longspan.checkpoint import fill, read_model
from longspan.config import AskingConfig, ChoiceConfig, Config, MaskedLMConfig, MultiHopConfig
from longspan.document import CHARACTERS_AT_ONCE, RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.known_tasks import known_task
from longspan.model.chunked import encode_in_chunks
from longspan.model.encoder import Encoder
from longspan.pretrained.published import fill_published, is_published, read_published
from longspan.pretrained.tokenizer import (
    PreTrainedTokenizerFast,
    document_encoder,
    give_token_types,
    load_tokenizer,
)
from longspan.tasks import choice_decoding, multihop_decoding
from longspan.tasks.choice import Choice
from longspan.tasks.classification import Classification
from longspan.tasks.head import logits_of
from longspan.tasks.multihop import MultiHop
from longspan.tasks.qa import QuestionAnswering

DOCUMENTS_AT_ONCE = 16  # that are held in memory together, unless they are long
CHUNK_TOKENS = 16_384  # larger batches are encoded in chunks of so many
SNIPPET = 80  # characters of the document on each side of an answer


@dataclass(frozen=True)
class Predictor:
    """Model, task and tokenizer of one model folder.

    Attributes:
        config: of the run that trained it.
        task: with its labels.
        documents: text to tokens.
        encoder, head: in evaluation mode.
    """

    config: Config
    task: Classification | QuestionAnswering | MultiHop | Choice
    documents: DocumentEncoder
    encoder: Encoder
    head: nn.Module

    def predict(
        self,
        text: Any,
        question: str | None = None,
        pair: str | None = None,
        id: str = "0",
        candidates: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """What the model says about one document.

        Args:
            text: the document, however long: questions are answered from all of it, in slices;
                other tasks read the part that training read (`data.max_length`, `data.truncate`).
                For a multi-hop model, paragraphs as `multihop_rows.read_paragraphs` takes them.
            question: where the model answers questions.
            pair: the second text, where the model was trained with one.
            id: names the document in the result.
            candidates: where the model chooses among some.

        Returns:
            classification: `id`, `predicted`, `probabilities` by label, `length` and `tokens_cut`.
            question answering: `id`, `question`, `answer` ("" = none), its characters `start` and
                `end` in the text, `probability`, and a `snippet` around it.
            multi-hop: likewise, with its `type` (span, yes, no) and the supporting `facts`
                (`title`, `sentence` from 0 on, `probability`) for a snippet; characters count in
                the paragraphs as one text (`multihop_rows.Passage`).
            choice: `id`, `question`, `predicted`, its `index` from 0 on, `candidates` and their
                `probabilities`, `length` and `tokens_cut`.

        Raises:
            UserError: a ValueError; an empty question or document, a question for a model that
                answers none or none for one that does.
        """
        row = {"id": id, "text": text, "question": question, "pair": pair, "candidates": candidates}
        (predicted,) = self.predict_all([row])
        return predicted

    def predict_all(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Predictions of rows of `text`, `question`, `pair` and `candidates`, as the model reads
        them, and maybe `id`, in their order.

        Rows are read as predictions are asked for.
        """
        documents = (self._document(number, row) for number, row in enumerate(rows))
        first = 0
        for together in held_together(documents):
            yield from self._predict(together, first)
            first += len(together)

    def _document(self, number: int, row: dict[str, Any]) -> RawDocument:
        name = str(number if row.get("id") is None else row["id"])
        text, question, pair = row.get("text"), row.get("question"), row.get("pair")
        candidates, task = row.get("candidates"), self.config.task
        cells = {"candidates": candidates} if isinstance(task, ChoiceConfig) else {}
        if candidates is not None and not cells:
            raise UserError(f"document {name} has candidates, but this model's task is {task.name}")
        if isinstance(task, MultiHopConfig):
            cells = {"paragraphs": text}
            text = ""
        if not isinstance(text, str):
            raise UserError(f"document {name} has no text; give it one, under the name text")
        answers = isinstance(task, AskingConfig)
        if answers and not isinstance(question, str):
            raise UserError(f"document {name} has no question; this model answers questions")
        if question is not None and not answers:
            raise UserError(f"document {name} has a question, but this model's task is {task.name}")
        needs_pair = self.config.data.text_pair_column is not None
        if needs_pair != (pair is not None) and not answers:
            raise UserError(
                f"document {name}: this model was trained {'with' if needs_pair else 'without'} a "
                f"second text; {'give pair' if needs_pair else 'drop pair'}"
            )
        return RawDocument(id=name, text=text, pair=question or pair, cells=cells)

    @torch.inference_mode()
    def _predict(self, documents: Sequence[RawDocument], first: int) -> Iterator[dict[str, Any]]:
        """Predictions of documents held together, the first of which is row number `first`."""
        # names that are given twice are told apart by the row
        unique = [replace(d, id=f"{d.id} (row {row})") for row, d in enumerate(documents, first)]
        encoded = self.task.encode(unique, self.documents)
        pieces = []
        device = next(self.encoder.parameters()).device
        features = [feature for slices in encoded for feature in slices]
        for features_of_batch in within_budget(features, self.config.data.token_budget):
            batch = pack(features_of_batch).to(device)
            pieces += self.task.decode(self._logits(batch), batch)
        predictions = {prediction.id: prediction for prediction in self.task.merge(pieces)}
        for document, named in zip(documents, unique, strict=True):
            yield told(predictions[named.id], document)

    def _logits(self, batch: PackedBatch) -> Tensor:
        if batch.num_tokens <= CHUNK_TOKENS:
            return logits_of(self.encoder, self.head, batch)
        return self.head(encode_in_chunks(self.encoder, batch, CHUNK_TOKENS), batch)


def load_predictor(folder: str | PathLike[str]) -> Predictor:
    """The model of a folder, on the GPU where there is one.

    Args:
        folder: of a run, of a model, or of a Hugging Face model with a head for question
            answering or classification (`published.read_published`).

    Raises:
        UserError: no model there, a damaged one, or one that predicts nothing.
    """
    place = Path(folder)
    place = place / "model" if (place / "model").is_dir() else place
    predictor = _published(place) if is_published(place) else _own(place)
    module = nn.ModuleDict({"encoder": predictor.encoder, "head": predictor.head})
    module.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return predictor


def _own(place: Path) -> Predictor:
    """A model folder that training wrote."""
    config, labels, state = read_model(place)
    if isinstance(config.task, MaskedLMConfig):
        raise UserError(f"{place} is a masked language model, which predicts nothing; fine-tune it")
    tokenizer = load_tokenizer(str(place))
    with torch.device("meta"):  # shapes without values
        predictor = _fresh(config, labels, tokenizer)
        module = nn.ModuleDict({"encoder": predictor.encoder, "head": predictor.head})
    fill(module, state, place)
    return predictor


def _published(place: Path) -> Predictor:
    """A folder in Hugging Face's format."""
    config, labels = read_published(place)
    tokenizer = load_tokenizer(str(place))
    give_token_types(tokenizer, config.model)
    predictor = _fresh(config, labels, tokenizer)
    fill_published(predictor.encoder, predictor.head, config, tokenizer)
    return predictor


def _fresh(config: Config, labels: list[str], tokenizer: PreTrainedTokenizerFast) -> Predictor:
    task = known_task(config, labels, None, tokenizer)
    assert isinstance(task, Classification | QuestionAnswering | MultiHop | Choice)
    encoder = Encoder(config.model)
    head = task.head(config.model, encoder.token_embedding)
    return Predictor(config, task, document_encoder(config, tokenizer), encoder, head)


def held_together(documents: Iterable[RawDocument]) -> Iterator[list[RawDocument]]:
    """Consecutive documents, as many as are held in memory; a longer one goes alone."""
    held: list[RawDocument] = []
    for document in documents:
        characters = sum(len(d.text) for d in held) + len(document.text)
        if held and (len(held) == DOCUMENTS_AT_ONCE or characters > CHARACTERS_AT_ONCE):
            yield held
            held = []
        held.append(document)
    if held:
        yield held


def within_budget(features: Sequence[Feature], budget: int) -> Iterator[list[Feature]]:
    """Consecutive features, as many as fit into `budget` tokens; a longer one goes alone."""
    batch: list[Feature] = []
    tokens = 0
    for feature in features:
        if batch and tokens + len(feature.input_ids) > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(feature)
        tokens += len(feature.input_ids)
    if batch:
        yield batch


def told(prediction: Any, document: RawDocument) -> dict[str, Any]:
    """A prediction as a user reads it."""
    if isinstance(prediction, multihop_decoding.Prediction | choice_decoding.Prediction):
        return {"id": document.id} | prediction.told()
    if hasattr(prediction, "probabilities"):
        return {
            "id": document.id,
            "predicted": prediction.predicted,
            "probabilities": prediction.probabilities,
            "length": prediction.length,
            "tokens_cut": prediction.tokens_cut,
        }
    start, end = prediction.start, prediction.end
    around = "" if start is None else document.text[max(0, start - SNIPPET) : end + SNIPPET]
    return {
        "id": document.id,
        "question": document.pair,
        "answer": prediction.predicted,
        "start": start,
        "end": end,
        "probability": prediction.probability,
        "snippet": " ".join(around.split()),
    }
