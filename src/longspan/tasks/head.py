"""Heads that read few tokens, and what need not be computed for them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from longspan.batch import PackedBatch


class FewRows(nn.Module, ABC):
    """A head that reads some tokens of a batch; a subclass says which."""

    @abstractmethod
    def rows(self, batch: PackedBatch) -> Tensor | None:
        """(R,) int64, ascending, of the tokens that it reads; None = all."""

    @abstractmethod
    def of_rows(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states (R, C) of those tokens to logits."""

    def forward(self, hidden: Tensor, batch: PackedBatch, are_taken: bool = False) -> Tensor:
        """Hidden states (T, C) of all tokens to logits; (R, C) where the rows are taken already."""
        rows = None if are_taken else self.rows(batch)
        return self.of_rows(hidden if rows is None else hidden.index_select(0, rows), batch)


def logits_of(encoder: nn.Module, head: nn.Module, batch: PackedBatch) -> Tensor:
    """Of a packed batch: the encoder's last layer computes the tokens that the head reads."""
    if isinstance(head, FewRows):
        return head(encoder(batch, head.rows(batch)), batch, are_taken=True)
    return head(encoder(batch), batch)
