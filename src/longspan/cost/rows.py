"""Which rows of a layer are computed: the head's in the last, global ones from hidden states."""

from dataclasses import dataclass

from longspan.attention import Pattern
from longspan.config import ClassificationConfig, Config, MaskedLMConfig
from longspan.cost.documents import Documents


@dataclass(frozen=True)
class Rows:
    """Of the mean document.

    Attributes:
        config: of the run.
        documents: whose mean it is.
    """

    config: Config
    documents: Documents

    @property
    def read(self) -> float:
        """Tokens whose hidden states the head reads."""
        task, length = self.config.task, self.documents.mean_length
        if isinstance(task, ClassificationConfig) and task.pooling == "cls":
            return 1.0
        return task.masked_share * length if isinstance(task, MaskedLMConfig) else length

    @property
    def read_alone(self) -> bool:
        """Whether the last layer computes them without its windows: they see whole documents."""
        task, model = self.config.task, self.config.model
        if not (isinstance(task, ClassificationConfig) and task.pooling == "cls"):
            return False
        separate = model.global_projections == "separate"
        name = "global_qkv" if separate else "qkv"
        is_full = Pattern(**model.layer_patterns[-1]).covers(max(self.documents.lengths))
        whole = self._first_are_global or (is_full and not separate)
        return whole and self._absorbed(name, self.documents.mean_length, 1)

    @property
    def globals_absorbed(self) -> bool:
        """Whether global rows' own projections leave keys and values of all tokens out."""
        return self._absorbed("global_qkv", self.global_pairs, self.documents.mean_globals)

    @property
    def global_pairs(self) -> float:
        """Pairs of a global token and a token of its document."""
        documents = zip(self.documents.lengths, self.documents.positions, strict=True)
        pairs = sum(length * len(positions) for length, positions in documents)
        return pairs / len(self.documents)

    @property
    def _first_are_global(self) -> bool:
        at_edge = self.config.model.pattern.global_edges > 0
        return at_edge or all(len(p) and p[0] == 0 for p in self.documents.positions)

    def _absorbed(self, linear: str, pairs: float, rows: float) -> bool:
        model, lora = self.config.model, self.config.optim.lora
        if model.attention_dropout or model.attention_backend == "reference":
            return False
        if lora.rank and linear in lora.targets:
            return False
        return model.absorbing_pays(pairs, rows, self.documents.mean_length)
