"""What this room needs of a task; it gets one as an object and knows none."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from longspan.batch import Feature
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder

# labels of all features, and what the choice may depend on, to places of those that are read
Draw = Callable[[Sequence[Any], tuple[int, ...]], Sequence[int]]


class EncodingTask(Protocol):
    """Documents to features, once."""

    @property
    def fingerprint(self) -> Any: ...
    def encode(
        self, documents: Sequence[RawDocument], encoder: DocumentEncoder
    ) -> list[list[Feature]]: ...


class ReadingTask(Protocol):
    """What happens to a feature each time that it is read, and what it weighs in the loss."""

    def weight(self, length: int) -> float: ...
    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature: ...
