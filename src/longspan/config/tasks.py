"""The fields of `task.*`: one class a task, told apart by `task.name`."""

from dataclasses import dataclass
from typing import Literal

from longspan.config.checks import above_zero, at_least, probability
from longspan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """Document classification: one label, several labels, or a number."""

    name: Literal["classification"] = "classification"
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    pooling: Literal["cls", "mean"] = "cls"
    head_dropout: float = 0.1
    head_activation: Literal["tanh", "relu", "gelu"] | None = None  # null = as the pretrained
    head_norm: bool | None = None  # family's own heads have it; tanh, no norm, with bias else
    head_bias: bool | None = None  # of the head's dense layer
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    threshold: float = 0.5  # probability from which a label counts, multi-label only

    def __post_init__(self) -> None:
        probability("task.head_dropout", self.head_dropout)
        probability("task.label_smoothing", self.label_smoothing)
        probability("task.threshold", self.threshold)
        if self.problem != "single_label" and self.label_smoothing:
            raise UserError(
                f"task.label_smoothing={self.label_smoothing} needs task.problem=single_label, "
                f"not {self.problem}; set it to 0"
            )
        if isinstance(self.class_weights, tuple):
            for weight in self.class_weights:
                at_least(0, "task.class_weights", weight)
        if self.problem == "regression" and self.class_weights != "none":
            raise UserError(
                "task.class_weights has no meaning for task.problem=regression; drop it"
            )


@dataclass(frozen=True, kw_only=True)
class MaskedLMConfig:
    """Masked language modelling: guess the tokens that were hidden (Devlin et al. 2019)."""

    name: Literal["mlm"] = "mlm"
    masked_share: float = 0.15  # of a document's tokens that are to be guessed
    whole_words: bool = True  # hide all tokens of a word or none
    head_bias: bool | None = None  # of the head's dense layer; null = as the pretrained family

    def __post_init__(self) -> None:
        if not 0 < self.masked_share < 1:
            raise UserError(f"task.masked_share={self.masked_share} must lie in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class QAConfig:
    """Extractive question answering: an answer is a span of the document, or there is none."""

    name: Literal["qa"] = "qa"
    loss: Literal["or", "single"] = "or"  # any gold span is right (Clark & Gardner 2018), or the
    # first alone
    normalisation: Literal["slice", "document"] = "slice"  # what a score's softmax runs over
    answerability: Literal["null_score", "head"] = "null_score"  # of [CLS], as BERT; or a head's
    long_documents: Literal["slices", "truncate"] = "slices"  # all of it, or data.truncate's part
    negative_slices: float | None = None  # slices without an answer that an epoch of training draws
    # for each slice with one; null = all there are
    max_question_length: int = 64  # tokens; the rest of a question is cut
    max_answer_length: int = 30  # tokens
    top_k: int = 20  # starts and ends that are combined to answers
    scoring: Literal["squad", "triviaqa", "cuad", "qasper"] = (
        "squad"  # whose official metrics count
    )
    null_threshold: float | Literal["auto"] | None = "auto"  # no answer where that is better by
    # more, in nats; auto = of the highest F1 on dev; null = always an answer
    temperature: float | Literal["auto"] = "auto"  # of answers' probabilities; auto = fitted on dev
    head_activation: Literal["tanh", "relu", "gelu"] | None = None  # of a dense layer before the
    head_norm: bool | None = None  # span scores; null = as the pretrained family's own heads have
    head_bias: bool | None = None  # it, else none of it

    def __post_init__(self) -> None:
        for name in ("max_question_length", "max_answer_length", "top_k"):
            at_least(1, f"task.{name}", getattr(self, name))
        if self.negative_slices is not None:
            at_least(0, "task.negative_slices", self.negative_slices)
        if self.temperature != "auto":
            above_zero("task.temperature", self.temperature)
        if self.head_activation is None:
            for name in ("head_norm", "head_bias"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"task.{name}={getattr(self, name)} belongs to the dense layer that "
                        f"task.head_activation=null leaves out; set one or drop task.{name}"
                    )


@dataclass(frozen=True, kw_only=True)
class MultiHopConfig:
    """Multi-hop question answering over paragraphs: answer, its type and supporting sentences."""

    name: Literal["multihop"] = "multihop"
    long_documents: Literal["slices", "truncate"] = "slices"  # all of it, or data.truncate's part
    max_question_length: int = 64  # tokens; the rest of a question is cut
    max_answer_length: int = 30  # tokens
    top_k: int = 20  # starts and ends that are combined to answers
    structure_globals: bool = True  # the first tokens of titles and sentences are global
    span_weight: float = 1.0  # of the losses that are added up
    type_weight: float = 1.0  # span, yes or no
    sentence_weight: float = 1.0
    paragraph_weight: float = 1.0
    num_paragraphs: int | None = 2  # facts come from that many best ones; null = from all
    fact_threshold: float = 0.5  # probability from which a sentence is a supporting fact

    def __post_init__(self) -> None:
        for name in ("max_question_length", "max_answer_length", "top_k"):
            at_least(1, f"task.{name}", getattr(self, name))
        for name in ("span_weight", "type_weight", "sentence_weight", "paragraph_weight"):
            at_least(0, f"task.{name}", getattr(self, name))
        if self.num_paragraphs is not None:
            at_least(1, "task.num_paragraphs", self.num_paragraphs)
        probability("task.fact_threshold", self.fact_threshold)

    @property
    def spans(self) -> QAConfig:
        """The part of the task that finds an answer in the text."""
        return QAConfig(
            long_documents=self.long_documents,
            max_question_length=self.max_question_length,
            max_answer_length=self.max_answer_length,
            top_k=self.top_k,
            null_threshold=None,
            temperature=1.0,
        )


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """Choice among candidate answers to a question about a document."""

    name: Literal["choice"] = "choice"
    long_documents: Literal["slices", "truncate"] = "slices"  # all of it, or data.truncate's part
    max_question_length: int = 64  # tokens; the rest of a question is cut
    max_candidate_length: int = 64  # tokens; likewise
    first_number: Literal[0, 1] = 0  # of the candidates, where answers are numbers

    def __post_init__(self) -> None:
        for name in ("max_question_length", "max_candidate_length"):
            at_least(1, f"task.{name}", getattr(self, name))


AskingConfig = QAConfig | MultiHopConfig | ChoiceConfig  # a question comes before the document
TaskConfig = ClassificationConfig | MaskedLMConfig | AskingConfig
