"""Masked language modelling: which tokens are hidden, the head that guesses them, bits a character."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import MaskedLMConfig, ModelConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.tasks.head import FewRows

IGNORED = -100  # label of a token that is not to be guessed, as in cross_entropy


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs of a tokenizer.

    Attributes:
        mask_id: the token that hides another.
        ordinary_ids: (V',) every id that is no special token.
    """

    mask_id: int
    ordinary_ids: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """How well one piece of a document was guessed; one line of a predictions file.

    Attributes:
        id: the document, with the number of the piece where it has several.
        loss: nats, summed over the tokens to be guessed.
        guessed: how many those are.
        correct: how many of them got the highest score.
        characters: of the text that they stand for.
        length: tokens the model read.
        tokens_cut: 0, as documents are read in pieces; for tables by length.
    """

    id: str
    loss: float
    guessed: int
    correct: int
    characters: int
    length: int
    tokens_cut: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class MaskedLMHead(FewRows):
    """Dense, GELU, norm, and the token embedding once more as the decoder, with a bias.

    Args:
        model: sizes and norm.
        token_embedding: whose weight is the decoder's (tied; not a parameter of the head).
        has_bias: of the dense layer.
    """

    def __init__(self, model: ModelConfig, token_embedding: nn.Embedding, has_bias: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(model.hidden_size, model.hidden_size, bias=has_bias)
        self.norm = nn.LayerNorm(model.hidden_size, model.norm_eps, bias=model.norm_bias)
        self.bias = nn.Parameter(torch.zeros(token_embedding.num_embeddings))
        # in a tuple, so that it is saved, counted and optimised once, as the encoder's
        self._tied = (token_embedding,)

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """(M,) the tokens to be guessed; all of a batch that is not labelled."""
        if batch.labels is None:
            return None
        return (batch.labels != IGNORED).nonzero().squeeze(1)

    def of_rows(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (M, C) to logits (M, V)."""
        hidden = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(hidden, self._tied[0].weight, self.bias)


class MaskedLM:
    """All that makes the task.

    Args:
        config: how much is hidden, words or tokens.
        vocabulary: the tokenizer's.
    """

    def __init__(self, config: MaskedLMConfig, vocabulary: Vocabulary) -> None:
        self.config, self.vocabulary = config, vocabulary

    @property
    def labels(self) -> list[str]:
        """None: what is guessed is the vocabulary."""
        return []

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that says which checkpoint is best, and in which direction."""
        return "loss", "min"

    @property
    def fingerprint(self) -> Any:
        """Of all that features depend on; masks are drawn later."""
        return ["mlm"]

    def weight(self, length: int) -> float:
        """As many as are expected to be guessed: tokens weigh the same, not documents."""
        return self.config.masked_share * length

    def encode(
        self, documents: Sequence[RawDocument], encoder: DocumentEncoder
    ) -> list[list[Feature]]:
        """Documents whole, in pieces."""
        return encoder.encode_pieces(
            [document.id for document in documents],
            [document.text for document in documents],
            [document.global_cell for document in documents],
        )

    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature:
        """Hide tokens: others each time that the key differs, the same ones where it does not."""
        assert feature.words is not None, "encode_pieces gives words"
        input_ids, labels = mask_tokens(
            feature.input_ids,
            feature.words,
            np.random.default_rng(key),
            self.vocabulary,
            share=self.config.masked_share,
            whole_words=self.config.whole_words,
        )
        return replace(feature, input_ids=input_ids, label=labels)

    def head(self, model: ModelConfig, token_embedding: nn.Embedding) -> nn.Module:
        head = MaskedLMHead(model, token_embedding, self.config.head_bias is not False)
        nn.init.normal_(head.dense.weight, std=model.initializer_range)
        if head.dense.bias is not None:
            nn.init.zeros_(head.dense.bias)
        return head

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Nats of each document (D,), summed over its tokens to be guessed."""
        labels, document = _guessed(batch)
        nats = F.cross_entropy(logits.float(), labels, reduction="none")
        return nats.new_zeros(batch.num_documents).index_add(0, document, nats)

    def decode(self, logits: Tensor, batch: PackedBatch) -> list[Prediction]:
        """Predictions of a batch, in its order."""
        labels, document = _guessed(batch)
        places = torch.zeros(batch.num_documents, dtype=torch.long, device=logits.device)
        guessed = places.index_add(0, document, torch.ones_like(labels))
        hits = (logits.argmax(dim=1) == labels).long()
        correct = places.index_add(0, document, hits)
        rows = zip(
            batch.features,
            self.loss(logits, batch).tolist(),
            guessed.tolist(),
            correct.tolist(),
            strict=True,
        )
        return [
            Prediction(feature.id, loss, count, right, _characters(feature), len(feature.input_ids))
            for feature, loss, count, right in rows
        ]

    def merge(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Every feature has a prediction of its own."""
        return predictions

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Loss in nats a token, and in bits a token and a character.

        The "BPC" of the Longformer paper (table 5) is `bits_per_token` here, as its authors' code
        divides by tokens.
        """
        guessed = sum(p.guessed for p in predictions)
        if not guessed:
            return {}
        nats = math.fsum(p.loss for p in predictions)
        return {
            "loss": nats / guessed,
            "bits_per_token": nats / math.log(2) / guessed,
            "bits_per_character": nats
            / math.log(2)
            / max(1, sum(p.characters for p in predictions)),
            "accuracy": sum(p.correct for p in predictions) / guessed,
        }


def mask_tokens(
    input_ids: np.ndarray,
    words: np.ndarray,
    generator: np.random.Generator,
    vocabulary: Vocabulary,
    *,
    share: float,
    whole_words: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide some tokens: 80 % behind the mask, 10 % behind a random token, 10 % not at all.

    Devlin et al. 2019, section 3.1; whole words as in the authors' later release.

    Args:
        input_ids: (L,) token ids.
        words: (L,) the word that each belongs to; negative for special tokens, never hidden.
        generator: of the draw.
        vocabulary: mask and random tokens.
        share: of the tokens of words that is to be guessed; at least one word is.
        whole_words: all tokens of a word or none.

    Returns:
        what the model reads (L,), and what it is to guess (L,) int64, IGNORED elsewhere.
    """
    candidates = (words >= 0).nonzero()[0]  # (N,)
    labels = np.full(len(input_ids), IGNORED, np.int64)
    if not len(candidates):
        return input_ids, labels
    if whole_words:
        _, unit = np.unique(words[candidates], return_inverse=True)  # (N,)
    else:
        unit = np.arange(len(candidates))
    sizes = np.bincount(unit)
    order = generator.permutation(len(sizes))
    wanted = max(1, round(share * len(candidates)))
    num_units = max(1, int((sizes[order].cumsum() <= wanted).sum()))
    hidden = candidates[np.isin(unit, order[:num_units])]
    labels[hidden] = input_ids[hidden]
    kind = generator.random(len(hidden))
    shown = input_ids.copy()
    shown[hidden[kind < 0.8]] = vocabulary.mask_id
    swapped = hidden[(kind >= 0.8) & (kind < 0.9)]
    shown[swapped] = generator.choice(vocabulary.ordinary_ids, len(swapped))
    return shown, labels


def _guessed(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Labels (M,) of the tokens to be guessed, and the document (M,) of each."""
    assert batch.labels is not None, "`prepare` gives labels"
    lengths = batch.cu_seqlens.long().diff()
    document = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    chosen = batch.labels != IGNORED
    return batch.labels[chosen], document[chosen]


def _characters(feature: Feature) -> int:
    assert feature.characters is not None, "encode_pieces gives characters"
    return int(feature.characters[feature.label != IGNORED].sum())
