"""Document classification: labels, head, loss, predictions and metrics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import ClassificationConfig, ModelConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.tasks import classification_metrics as metrics
from longspan.tasks.head import FewRows
from longspan.tasks.labels import class_index, label_names, number


@dataclass(frozen=True)
class Prediction:
    """What the model says about one document; one line of a predictions file.

    Attributes:
        id: the document.
        gold: label name, names or number; None where unknown.
        predicted: likewise.
        probabilities: label name to probability; empty for regression.
        length: tokens the model read.
        tokens_cut: tokens that truncation took away.
        is_empty: whether the text held nothing but white space.
        loss: its loss, None where gold is unknown.
    """

    id: str
    gold: Any
    predicted: Any
    probabilities: dict[str, float]
    length: int
    tokens_cut: int
    is_empty: bool
    loss: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


class ClassificationHead(FewRows):
    """Dense, activation, norm or none, projection, on the pooled document.

    Tanh is BERT's and RoBERTa's, ReLU DistilBERT's, GELU with a norm ModernBERT's.
    """

    def __init__(self, hidden_size: int, num_outputs: int, config: ClassificationConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.activation = ACTIVATIONS[config.head_activation or "tanh"]
        has_bias = config.head_bias is not False
        self.dense = nn.Linear(hidden_size, hidden_size, bias=has_bias)
        self.norm = nn.LayerNorm(hidden_size, bias=has_bias) if config.head_norm else nn.Identity()
        self.dropout = nn.Dropout(config.head_dropout)
        self.out = nn.Linear(hidden_size, num_outputs)

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """(D,) the first token of each document, unless the mean of all is wanted."""
        return batch.cu_seqlens[:-1].long() if self.pooling == "cls" else None

    def of_rows(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (R, C) to logits (D, outputs)."""
        pooled = hidden if self.pooling == "cls" else _mean(hidden, batch.cu_seqlens.long())
        hidden = self.norm(self.activation(self.dense(self.dropout(pooled))))
        return self.out(self.dropout(hidden))


def _mean(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(T, C) to the documents' means (D, C)."""
    lengths = cu_seqlens.diff()  # (D,)
    document = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
    total = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, document, hidden)
    return total / lengths[:, None]


class Classification:
    """All that makes the task. Built from its config and the label names.

    Args:
        config: problem, pooling, loss.
        labels: label names by class index; one name for regression.
        class_names: the data set's own names, where its labels are indices into them.
    """

    def __init__(
        self,
        config: ClassificationConfig,
        labels: list[str],
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.config = config
        self.labels = labels
        self.class_names = class_names
        self._index = {name: i for i, name in enumerate(labels)}
        self.class_weights: Tensor | None = None
        if isinstance(config.class_weights, tuple):
            if len(config.class_weights) != len(labels):
                raise UserError(
                    f"task.class_weights has {len(config.class_weights)} numbers for the "
                    f"{len(labels)} labels {', '.join(labels[:10])}; give one a label"
                )
            self.class_weights = torch.tensor(config.class_weights)

    @classmethod
    def from_training_labels(
        cls,
        config: ClassificationConfig,
        cells: Sequence[Any],
        class_names: Sequence[str] | None,
        column: str,
    ) -> "Classification":
        """Read the label names, and balanced weights where asked for, off the training split."""
        if config.problem == "regression":
            return cls(config, ["value"])
        task = cls(config, label_names(cells, class_names, column), class_names)
        if len(task.labels) < 2:
            raise UserError(
                f"{column}: the training split knows only the label {task.labels[0]!r}; "
                "two or more are needed to classify"
            )
        if config.class_weights == "balanced":
            task.class_weights = task._balanced_weights(cells, column)
        return task

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that says which checkpoint is best, and in which direction."""
        best = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "mse"}
        return best[self.config.problem], "min" if self.config.problem == "regression" else "max"

    @property
    def fingerprint(self) -> Any:
        """Of all that features depend on."""
        return ["classification", self.config.problem, self.labels, self.class_names]

    def weight(self, length: int) -> float:
        """Documents weigh the same, whatever their length."""
        return 1.0

    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature:
        """Features are read as they are."""
        return feature

    def encode(
        self, documents: Sequence[RawDocument], encoder: DocumentEncoder
    ) -> list[list[Feature]]:
        """One feature a document, with its label where labels are read."""
        has_pairs = any(document.pair is not None for document in documents)
        features = encoder.encode(
            [d.id for d in documents],
            [d.text for d in documents],
            [d.pair or "" for d in documents] if has_pairs else None,
            [d.global_cell for d in documents],
        )
        return [
            [replace(feature, label=self.encode_label(raw.label, raw.where))] if raw.where
            else [feature]
            for raw, feature in zip(documents, features, strict=True)
        ]  # fmt: skip

    def encode_label(self, cell: Any, where: str) -> int | list[float] | float:
        """A label cell as the loss takes it. `where` names split and row in an error."""
        if self.config.problem == "regression":
            return number(cell, where)
        if self.config.problem == "single_label":
            if isinstance(cell, list):
                raise UserError(f"{where}={cell} is a list; set task.problem=multi_label")
            return class_index(cell, self._index, self.class_names, where)
        if cell is None:
            raise UserError(f"{where} is empty; give every row a list of labels or drop the row")
        if not isinstance(cell, list):
            raise UserError(f"{where}={cell!r} is no list; set task.problem=single_label")
        hot = [0.0] * len(self.labels)
        for label in cell:
            hot[class_index(label, self._index, self.class_names, where)] = 1.0
        return hot

    def head(self, model: ModelConfig, token_embedding: nn.Embedding) -> nn.Module:
        head = ClassificationHead(model.hidden_size, len(self.labels), self.config)
        for linear in (head.dense, head.out):
            nn.init.normal_(linear.weight, std=model.initializer_range)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        return head

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Loss of each document, (D,), from logits (D, outputs)."""
        logits, labels = logits.float(), batch.labels
        assert labels is not None, "training documents have labels"
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.config.problem == "single_label":
            smoothing = self.config.label_smoothing
            return F.cross_entropy(
                logits, labels, weights, reduction="none", label_smoothing=smoothing
            )
        if self.config.problem == "multi_label":
            loss = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
            return loss.mean(dim=1)
        return F.mse_loss(logits.squeeze(1), labels, reduction="none")

    def decode(self, logits: Tensor, batch: PackedBatch) -> list[Prediction]:
        """Predictions of a batch, in its order."""
        losses = None if batch.labels is None else self.loss(logits, batch).tolist()
        probabilities = self._probabilities(logits.float()).tolist()
        lengths = batch.cu_seqlens.diff().tolist()
        return [
            Prediction(
                id=feature.id,
                gold=None if feature.label is None else self._name(feature.label),
                predicted=self._predict(scores),
                probabilities=self._named(scores),
                length=length,
                tokens_cut=feature.tokens_cut,
                is_empty=feature.is_empty,
                loss=None if losses is None else losses[i],
            )
            for i, (feature, scores, length) in enumerate(
                zip(batch.features, probabilities, lengths, strict=True)
            )
        ]

    def merge(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Every feature has a prediction of its own."""
        return predictions

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Metrics over documents whose gold label is known."""
        known = [p for p in predictions if p.gold is not None]
        if not known:
            return {}
        measured = {"loss": sum(p.loss or 0.0 for p in known) / len(known)}
        if self.config.problem == "regression":
            gold = torch.tensor([p.gold for p in known])
            return measured | metrics.regression(torch.tensor([p.predicted for p in known]), gold)
        scores = torch.tensor([[p.probabilities[name] for name in self.labels] for p in known])
        if self.config.problem == "single_label":
            gold = torch.tensor([self._index[p.gold] for p in known])
            return measured | metrics.single_label(scores, gold)
        hot = torch.tensor([[int(name in p.gold) for name in self.labels] for p in known])
        return measured | metrics.multi_label(scores, hot, self.config.threshold)

    def _probabilities(self, logits: Tensor) -> Tensor:
        if self.config.problem == "single_label":
            return logits.softmax(dim=1)
        return logits.sigmoid() if self.config.problem == "multi_label" else logits

    def _predict(self, scores: list[float]) -> Any:
        if self.config.problem == "regression":
            return scores[0]
        if self.config.problem == "single_label":
            return self.labels[max(range(len(scores)), key=scores.__getitem__)]
        chosen = zip(self.labels, scores, strict=True)
        return [name for name, score in chosen if score >= self.config.threshold]

    def _named(self, scores: list[float]) -> dict[str, float]:
        if self.config.problem == "regression":
            return {}
        return dict(zip(self.labels, scores, strict=True))

    def _name(self, label: Any) -> Any:
        """The inverse of `encode_label`."""
        if self.config.problem == "regression":
            return label
        if self.config.problem == "single_label":
            return self.labels[label]
        return [name for name, hot in zip(self.labels, label, strict=True) if hot]

    def _balanced_weights(self, cells: Sequence[Any], column: str) -> Tensor:
        """n / (classes in train * n_c), as scikit-learn's class_weight="balanced"."""
        if self.config.problem != "single_label":
            raise UserError("task.class_weights=balanced needs task.problem=single_label; drop it")
        counts = Counter(
            self.encode_label(cell, f"{column} of train row {row}")
            for row, cell in enumerate(cells)
        )
        mean = len(cells) / len(counts)
        # a class that the data set declares but train does not hold has no weight to learn
        return torch.tensor(
            [mean / counts[i] if i in counts else 0.0 for i in range(len(self.labels))]
        )
