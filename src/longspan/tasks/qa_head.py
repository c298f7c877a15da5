"""The head that scores where an answer starts and ends, and whether there is one."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.batch import PackedBatch
from longspan.config import ModelConfig, QAConfig

ROWS_AT_ONCE = 32_768
ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


class SpanHead(nn.Module):
    """Two scores a token: that an answer starts there, and that it ends there.

    One projection, as of BERT and its kin; ModernBERT's has dense, activation and norm before it.
    With `answerability=head` a third score, of which the first token's counts: the logit of there
    being an answer (as of RoBERTa's and ELECTRA's SQuAD 2.0 models).
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
        self.answerable = nn.Linear(size, 1) if config.answerability == "head" else None

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (T, C) to logits of start and end (T, 2), or (T, 3) with answerability."""
        return by_rows(self._score, hidden)

    def _score(self, hidden: Tensor) -> Tensor:
        if self.activation is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        if self.answerable is None:
            return self.out(hidden)
        return torch.cat([self.out(hidden), self.answerable(hidden)], dim=1)


def by_rows(score: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Scores (T, S) of hidden states (T, C), of some rows at a time.

    What lies between the two is as large as the hidden states, and of long documents these fill
    the memory.
    """
    return torch.cat([score(rows) for rows in hidden.split(ROWS_AT_ONCE)])


def span_head(model: ModelConfig, config: QAConfig) -> SpanHead:
    """A fresh head."""
    head = SpanHead(model, config)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=model.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head
